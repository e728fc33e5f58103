//! A replica of a zone's state: changes in memory over a metastore, with caches in front.
//! Whoever orders the commands applies them here; what is read is the newest state.

mod base;
mod caches;
mod memtable;
mod state;
mod view;

pub use base::Base;
pub use caches::Caches;
pub use memtable::MemTable;
pub use state::State;
pub use view::{Reader, View};
