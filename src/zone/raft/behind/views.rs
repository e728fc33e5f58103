//! [`View`]: the layers as they were when a reader's state was taken. Those that end while it reads stay
//! in its sight, because its state does not have them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nexus_kernel::Ino;

use super::layer::Layer;
use super::{File, Layers, Shared};

/// Who reads, and the layers that have ended meanwhile.
#[derive(Default)]
pub struct Views {
    /// How many read a state in which so many layers had ended.
    open: BTreeMap<u64, usize>,
    /// Layers, each with its number among all that have ended.
    kept: VecDeque<(u64, Ino, Arc<Layer>)>,
}

impl Views {
    /// Keeps a layer that ends for those who read.
    pub fn keep(&mut self, number: u64, ino: Ino, layer: &Arc<Layer>) {
        if !self.open.is_empty() {
            self.kept.push_back((number, ino, layer.clone()));
        }
    }

    /// Whether nobody reads, and nothing is kept.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.kept.is_empty()
    }

    fn leave(&mut self, since: u64) {
        if let Some(count) = self.open.get_mut(&since) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&since);
            }
        }
        let oldest = self.open.keys().next().copied().unwrap_or(u64::MAX);
        while self.kept.front().is_some_and(|(number, ..)| *number <= oldest) {
            self.kept.pop_front();
        }
    }
}

/// One reader's.
pub struct View<'a> {
    shared: &'a Shared,
    /// How many layers had ended; `None` where there were none to see.
    since: Option<u64>,
}

impl Shared {
    /// A view for a reader whose state was taken after `ended` layers had ended; `None` if more have by now,
    /// which that state may not have.
    pub fn view(&self, ended: u64) -> Option<View<'_>> {
        let is_current = || self.ended.load(Ordering::SeqCst) == ended;
        if self.is_clean() {
            return is_current().then_some(View { shared: self, since: None });
        }
        let mut state = self.state.lock();
        is_current().then(|| {
            *state.views.open.entry(ended).or_default() += 1;
            View { shared: self, since: Some(ended) }
        })
    }
}

impl View<'_> {
    /// Whether nothing was put off.
    pub fn is_clean(&self) -> bool {
        self.since.is_none()
    }

    /// The layers of a file, from the lowest on.
    pub fn layers(&self, ino: Ino) -> Layers {
        let Some(since) = self.since else { return Layers::new() };
        let state = self.shared.state.lock();
        let ended = state.views.kept.iter().filter(|(number, of, _)| *of == ino && *number > since);
        let ended = ended.map(|(.., layer)| layer.clone());
        ended.chain(state.files.get(&ino).map(File::layers).unwrap_or_default()).collect()
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            self.shared.state.lock().views.leave(since);
        }
    }
}
