//! Tells the kernel of files that other nodes have removed, so that it keeps only those that programs use.
//! Whoever has a command applied must not wait for the kernel, so a thread does that, begun with the first.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};

use nexus_fuse_transport::Notifier;

/// Most that wait to be told. What is left out the kernel keeps until it needs the memory, or somebody
/// looks the name up.
const QUEUE: usize = 1 << 16;

/// Nodes, as the kernel numbers them.
type Queue = SyncSender<u64>;

/// Notices of one mount.
#[derive(Default)]
pub struct Notices {
    notifier: OnceLock<Notifier>,
    queue: OnceLock<Option<Queue>>,
}

impl Notices {
    /// Tells by this from now on.
    pub fn by(&self, notifier: Notifier) {
        let _ = self.notifier.set(notifier);
    }

    /// Has the kernel told that a node has no name any more.
    pub fn removed(&self, node: u64) {
        let Some(notifier) = self.notifier.get() else { return };
        let queue = self.queue.get_or_init(|| begin(notifier.clone()));
        if let Some(queue) = queue {
            let _ = queue.try_send(node);
        }
    }
}

fn begin(notifier: Notifier) -> Option<Queue> {
    let (sender, receiver) = sync_channel::<u64>(QUEUE);
    let tell = move || {
        while let Ok(node) = receiver.recv() {
            if let Err(error) = notifier.unneeded(node) {
                log::debug!("the kernel was not told of a file that is removed: {error}");
            }
        }
    };
    let spawned = std::thread::Builder::new().name("zone-notices".into()).spawn(tell);
    spawned.map_err(|error| log::warn!("files that others remove stay in the kernel's cache: {error}")).ok()?;
    Some(sender)
}
