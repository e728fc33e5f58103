//! How quick a stream of appends is, over loopback with TLS. Not a test of the gate:
//! `cargo test --release -p nexus-zone --lib net::tests::speed -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};

use super::fake::{LIMIT, World, append};

#[test]
#[ignore = "measures"]
fn appends_of_200_bytes() {
    let world = World::new();
    for window in [1, 64] {
        world.fake.appended.lock().clear();
        let (rate, mut times) = world.runtime.block_on(run(&world, window, Duration::from_secs(3)));
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_micros();
        println!("{window} in flight: {rate:.0} appends/s, {} us median, {} us of 99%", at(50), at(99));
        // Each answer that is counted is to an append that the peer was given, in order.
        let appended = world.fake.appended.lock();
        assert!(appended.len() >= times.len() && appended.len() <= times.len() + window, "{}", appended.len());
        assert!(appended.iter().zip(0..).all(|(index, place)| *index == place * 4));
    }
}

/// Appends a second, and how long each took.
async fn run(world: &World, window: usize, time: Duration) -> (f64, Vec<Duration>) {
    let (sender, receiver) = tokio::sync::mpsc::channel(window);
    let appends = stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) });
    let mut replies = world.client().replicate(appends, LIMIT).await.unwrap();
    let (start, mut sent, mut times) = (Instant::now(), std::collections::VecDeque::new(), Vec::new());
    let mut index = 0;
    while start.elapsed() < time {
        while sent.len() < window {
            sent.push_back(Instant::now());
            sender.send(append(index, 200)).await.unwrap();
            index += 4;
        }
        replies.next().await.unwrap().unwrap();
        times.push(sent.pop_front().unwrap().elapsed());
    }
    (times.len() as f64 / start.elapsed().as_secs_f64(), times)
}
