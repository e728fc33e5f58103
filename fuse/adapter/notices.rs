//! Tells the kernel of names that other nodes have taken away. It may wait for a lock of whoever is in
//! the directory, so a thread does that, begun with the first.

use std::sync::OnceLock;
use std::sync::mpsc::{SyncSender, sync_channel};

use nexus_fuse_transport::Notifier;

/// Most that wait to be told. What is left out the kernel keeps until it needs the memory, or somebody
/// looks the name up.
const QUEUE: usize = 1 << 16;

/// Names and the directories that they were in.
type Queue = SyncSender<(u64, Vec<u8>)>;

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

    /// Has the kernel told that `name` in `parent` is taken away.
    pub fn name_taken(&self, parent: u64, name: &[u8]) {
        let Some(notifier) = self.notifier.get() else { return };
        let queue = self.queue.get_or_init(|| begin(notifier.clone()));
        if let Some(queue) = queue {
            let _ = queue.try_send((parent, name.to_owned()));
        }
    }
}

fn begin(notifier: Notifier) -> Option<Queue> {
    let (sender, receiver) = sync_channel::<(u64, Vec<u8>)>(QUEUE);
    let tell = move || {
        while let Ok((parent, name)) = receiver.recv() {
            if let Err(error) = notifier.entry_changed(parent, &name) {
                log::debug!("the kernel was not told of a name that is gone: {error}");
            }
        }
    };
    let spawned = std::thread::Builder::new().name("zone-notices".into()).spawn(tell);
    spawned.map_err(|error| log::warn!("names that others remove stay in the kernel's cache: {error}")).ok()?;
    Some(sender)
}
