//! The library's timers, as [`Rest`](crate::raft::rest::Rest) switches them.

use std::sync::Arc;
use std::time::Duration;

use openraft::Raft;
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::machine::Machine;
use super::types::TypeConfig;
use crate::raft::rest::Timers;

/// The timers of one group.
pub struct RaftTimers {
    raft: Raft<TypeConfig, Machine>,
    runtime: Handle,
    /// How long a leader that is about to be heard has, before elections go on.
    grace: Duration,
    /// Counts switches, so that one that was put off is dropped if another came.
    turn: Arc<Mutex<u64>>,
}

impl RaftTimers {
    /// The timers of a group.
    pub fn new(raft: Raft<TypeConfig, Machine>, runtime: Handle, grace: Duration) -> RaftTimers {
        RaftTimers { raft, runtime, grace, turn: Arc::default() }
    }

    fn switch(&self, on: bool) {
        let mut turn = self.turn.lock();
        *turn += 1;
        self.raft.runtime_config().tick(on);
    }
}

impl Timers for RaftTimers {
    fn stop(&self) {
        self.switch(false);
    }

    fn lead(&self) {
        self.switch(true);
        let raft = self.raft.clone();
        // Fails where the group has ended.
        self.runtime.spawn(async move { raft.trigger().heartbeat().await });
    }

    fn stand(&self) {
        self.switch(true);
        let raft = self.raft.clone();
        self.runtime.spawn(async move { raft.trigger().elect(true).await });
    }

    fn listen(&self) {
        let mut now = self.turn.lock();
        *now += 1;
        let (mine, turn, raft, grace) = (*now, self.turn.clone(), self.raft.clone(), self.grace);
        self.runtime.spawn(async move {
            tokio::time::sleep(grace).await;
            let turn = turn.lock();
            if *turn == mine {
                raft.runtime_config().tick(true);
            }
        });
    }
}
