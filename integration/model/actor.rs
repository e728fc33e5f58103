//! Threads that make calls as one user each. Linux keeps a user per thread, and calls on the
//! other threads keep theirs.

use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::failure::{Check, Stop};
use crate::model::op::{SHARED_GROUP, User};

type Job = Box<dyn FnOnce() + Send>;

/// One thread for each user.
pub struct Actors(Vec<Sender<Job>>);

impl Actors {
    /// Starts the threads. They end with this value.
    pub fn new() -> Check<Actors> {
        let mut senders = Vec::new();
        for user in User::ALL {
            let (jobs, queue) = channel::<Job>();
            let (ready, started) = channel();
            std::thread::spawn(move || {
                let result = become_user(user);
                let failed = result.is_err();
                if ready.send(result).is_ok() && !failed {
                    serve(&queue);
                }
            });
            started.recv()??;
            senders.push(jobs);
        }
        Ok(Actors(senders))
    }

    /// Runs `job` as `user`, and waits for its answer.
    pub fn run<T: Send + 'static>(&self, user: User, job: impl FnOnce() -> T + Send + 'static) -> Check<T> {
        let index = User::ALL.iter().position(|one| *one == user).unwrap_or(0);
        let (answer, answered) = channel();
        let job: Job = Box::new(move || {
            let _ = answer.send(job());
        });
        let queue = self.0.get(index).ok_or_else(|| Stop::Failed("no such actor".to_owned()))?;
        queue.send(job).map_err(|_| Stop::Failed("an actor ended".to_owned()))?;
        Ok(answered.recv()?)
    }
}

fn serve(queue: &Receiver<Job>) {
    while let Ok(job) = queue.recv() {
        job();
    }
}

fn become_user(user: User) -> rustix::io::Result<()> {
    if user == User::Root {
        return set_thread_groups(&[Gid::ROOT]);
    }
    let (uid, gid) = (Uid::from_raw(user.id()), Gid::from_raw(user.id()));
    set_thread_groups(&[gid, Gid::from_raw(SHARED_GROUP)])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)
}
