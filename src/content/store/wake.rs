//! The bell between writers and the collector's thread: segments to seal, or no room left.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// What the collector's thread is to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// Nothing was asked for; it is simply time.
    Time,
    /// There is something to do.
    Work,
    /// Writers wait for room.
    Room,
    /// End.
    Stop,
}

/// The bell.
#[derive(Default)]
pub struct Wake {
    state: Mutex<State>,
    to_thread: Condvar,
    to_writers: Condvar,
}

#[derive(Default)]
struct State {
    listening: bool,
    stop: bool,
    work: bool,
    room: bool,
    /// Passes for room that started and ended.
    started: u64,
    ended: u64,
    freed: bool,
    /// Until then, asking for room again is in vain.
    barren_until_ms: u64,
}

impl Wake {
    /// Tells that there is something to do soon.
    pub fn work(&self) {
        self.state.lock().work = true;
        self.to_thread.notify_one();
    }

    /// Asks for room without waiting.
    pub fn room(&self) {
        self.state.lock().room = true;
        self.to_thread.notify_one();
    }

    /// Asks for room and waits, at most `timeout`, for one whole pass; true if it freed some.
    pub fn wait_for_room(&self, timeout: Duration, now_ms: u64) -> bool {
        let mut state = self.state.lock();
        if !state.listening || state.stop || now_ms < state.barren_until_ms {
            return false;
        }
        let needed = state.started + 1;
        state.room = true;
        self.to_thread.notify_one();
        let ended = |state: &mut State| state.ended < needed && state.listening && !state.stop;
        self.to_writers.wait_while_for(&mut state, ended, timeout);
        state.ended >= needed && state.freed
    }

    /// Waits until a pass for room ends, or for `time`; false if there is no collector that would make some.
    pub fn pause(&self, time: Duration) -> bool {
        let mut state = self.state.lock();
        let ended = state.ended;
        self.to_writers.wait_while_for(
            &mut state,
            |state| state.ended == ended && state.listening && !state.stop,
            time,
        );
        state.listening && !state.stop
    }

    /// The thread's side: waits for a call, at most `timeout`.
    pub fn next(&self, timeout: Duration) -> Call {
        let mut state = self.state.lock();
        state.listening = true;
        if !state.stop && !state.work && !state.room {
            self.to_thread.wait_for(&mut state, timeout);
        }
        if state.stop {
            return Call::Stop;
        }
        let work = std::mem::take(&mut state.work);
        if std::mem::take(&mut state.room) {
            state.started += 1;
            return Call::Room;
        }
        if work { Call::Work } else { Call::Time }
    }

    /// The thread's side: rests, at most `timeout`; calls other than stop and room wait.
    pub fn rest(&self, timeout: Duration) {
        let mut state = self.state.lock();
        self.to_thread.wait_while_for(&mut state, |state| !state.stop && !state.room, timeout);
    }

    /// The thread's side: a pass for room has ended. One that freed nothing spares writers
    /// the wait until `barren_until_ms`.
    pub fn room_made(&self, freed: bool, barren_until_ms: u64) {
        let mut state = self.state.lock();
        state.ended = state.started;
        state.freed = freed;
        state.barren_until_ms = if freed { 0 } else { barren_until_ms };
        self.to_writers.notify_all();
    }

    /// Whether somebody waits for a pass that makes room.
    pub fn is_wanted(&self) -> bool {
        self.state.lock().room
    }

    /// Whether the thread is to end.
    pub fn is_stopped(&self) -> bool {
        self.state.lock().stop
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.to_thread.notify_all();
        self.to_writers.notify_all();
    }

    /// The thread's side: it has ended.
    pub fn gone(&self) {
        let mut state = self.state.lock();
        state.listening = false;
        state.stop = false;
        self.to_writers.notify_all();
    }
}
