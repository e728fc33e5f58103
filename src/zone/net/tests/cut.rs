//! A cut connection: nothing is closed, and nothing comes any more.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use super::fake::{LIMIT, World, append};
use crate::net::{AppendReply, CallError};

/// Carries bytes both ways until it is cut; then it swallows them, and closes nothing.
struct Wire {
    address: String,
    cut: Arc<AtomicBool>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// A wire for one connection.
    fn to(address: String) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (cut, end) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let here = listener.local_addr().unwrap().to_string();
        let (cut_too, end_too) = (Arc::clone(&cut), Arc::clone(&end));
        let accept = std::thread::spawn(move || {
            let (near, _) = listener.accept().unwrap();
            let far = TcpStream::connect(address).unwrap();
            let back = (far.try_clone().unwrap(), near.try_clone().unwrap());
            let (cut_back, end_back) = (Arc::clone(&cut_too), Arc::clone(&end_too));
            let other = std::thread::spawn(move || carry(back.0, back.1, &cut_back, &end_back));
            carry(near, far, &cut_too, &end_too);
            other.join().unwrap();
        });
        Wire { address: here, cut, end, threads: vec![accept] }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end.store(true, Ordering::SeqCst);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool, end: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let mut bytes = [0; 4096];
    while !end.load(Ordering::SeqCst) {
        match from.read(&mut bytes) {
            Ok(0) => return,
            Ok(_) if cut.load(Ordering::SeqCst) => {}
            Ok(len) => to.write_all(&bytes[..len]).unwrap(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

#[test]
fn it_is_noticed_by_a_stream_that_waits() {
    let world = World::new();
    let wire = Wire::to(world.address());
    let client = world.client();
    client.set_addresses(vec![wire.address.clone()]);
    let (took, last) = world.runtime.block_on(async {
        let appends = stream::iter([append(0, 10)]).chain(stream::pending());
        let mut replies = client.replicate(appends, LIMIT).await.unwrap();
        assert_eq!(replies.next().await, Some(Ok(AppendReply::Success)));
        wire.cut.store(true, Ordering::SeqCst);
        let start = Instant::now();
        let last = tokio::time::timeout(LIMIT, replies.next()).await.unwrap();
        (start.elapsed(), last)
    });
    assert!(matches!(last, Some(Err(CallError::Unreachable(_)))), "{last:?}");
    println!("noticed after {took:?}");
    // 1.75 s by the default timing, and room for a busy machine.
    assert!(took < Duration::from_secs(4), "{took:?}");
}
