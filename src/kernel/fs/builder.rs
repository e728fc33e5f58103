//! Puts a `NexusFs` together from what the caller has; a metastore is enough.

use std::sync::Arc;

use super::{FsOptions, NexusFs};
use crate::clock::{Clock, SystemClock};
use crate::content::{ContentStore, NoContent};
use crate::direct_zone::DirectZone;
use crate::error::Result;
use crate::metastore::Metastore;

/// See [`NexusFs::builder`].
pub struct FsBuilder {
    metastore: Arc<dyn Metastore>,
    content: Arc<dyn ContentStore>,
    clock: Arc<dyn Clock>,
    options: FsOptions,
    root_owner: (u32, u32),
}

impl FsBuilder {
    pub(super) fn new(metastore: Arc<dyn Metastore>) -> FsBuilder {
        FsBuilder {
            metastore,
            content: Arc::new(NoContent),
            clock: Arc::new(SystemClock),
            options: FsOptions::default(),
            root_owner: (0, 0),
        }
    }

    /// Where content goes; without it, only metadata works.
    pub fn content(mut self, content: Arc<dyn ContentStore>) -> FsBuilder {
        self.content = content;
        self
    }

    /// Where time comes from; the machine's clock unless told.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> FsBuilder {
        self.clock = clock;
        self
    }

    /// Options; the default ones fit an embedded kernel.
    pub fn options(mut self, options: FsOptions) -> FsBuilder {
        self.options = options;
        self
    }

    /// User and group of the root directory, where the metastore is empty and is formatted now.
    pub fn root_owner(mut self, uid: u32, gid: u32) -> FsBuilder {
        self.root_owner = (uid, gid);
        self
    }

    /// Opens the metastore, formatting it if it is empty, and starts.
    pub fn build(self) -> Result<NexusFs> {
        let content: Arc<dyn ContentStore> = self.content;
        let zone = DirectZone::open_or_format(self.metastore, content.clone(), self.clock, self.root_owner)?;
        NexusFs::with_zone(Arc::new(zone), content, self.options)
    }
}
