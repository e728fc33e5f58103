//! The clients of one round: started, stopped, killed, and at the end all accounted for.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::failure::{Check, During, ensure, fail};
use crate::mount::signal;
use crate::storm::client::Orders;
use crate::storm::journal::{Journal, Last};
use crate::storm::kernel;
use crate::tool::wait_until;

/// Errors that a call may end with once the mount is gone: ENOTCONN, ECONNABORTED, EIO, EINTR of
/// a process that is being killed, EROFS of a daemon that closes its volume, ECANCELED of a request
/// that a ring held when its thread died.
const OF_A_LOST_MOUNT: [i32; 6] = [107, 103, 5, 4, 30, 125];

/// One of them.
struct Client {
    child: Child,
    folder: String,
    journal: PathBuf,
    is_stopped: bool,
    was_killed: bool,
    ended: Option<ExitStatus>,
}

/// All of them. None outlives it.
pub struct Crowd {
    clients: Vec<Client>,
    stop: PathBuf,
}

/// What a client left, by the name of its folder.
pub type Legacy = Vec<(String, Journal)>;

impl Crowd {
    /// Starts a client for each of `orders`, all with the same stop file.
    pub fn start(orders: &[Orders], stop: &Path) -> Check<Crowd> {
        let mut crowd = Crowd { clients: Vec::new(), stop: stop.to_owned() };
        let program = std::env::current_exe()?;
        for one in orders {
            let mut command = Command::new(&program);
            command.arg("storm-client").arg("--").args(one.words());
            command.stdin(Stdio::null()).stdout(Stdio::null()).process_group(0);
            crowd.clients.push(Client {
                child: command.spawn()?,
                folder: one.folder.clone(),
                journal: one.journal.clone(),
                is_stopped: false,
                was_killed: false,
                ended: None,
            });
        }
        Ok(crowd)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Bytes of all journals: how far the clients came.
    pub fn progress(&self) -> u64 {
        self.clients.iter().filter_map(|client| fs::metadata(&client.journal).ok()).map(|meta| meta.len()).sum()
    }

    /// How many have made their folder.
    pub fn begun(&self) -> usize {
        let has_begun = |client: &&Client| fs::metadata(&client.journal).is_ok_and(|meta| meta.len() > 10);
        self.clients.iter().filter(has_begun).count()
    }

    /// Suspends a client, or has it go on.
    pub fn stop_or_continue(&mut self, number: u64) -> Check {
        let count = self.clients.len() as u64;
        let Some(client) = self.clients.get_mut(number.checked_rem(count).unwrap_or(0) as usize) else { return Ok(()) };
        if client.is_running()? {
            signal(client.child.id(), if client.is_stopped { Signal::CONT } else { Signal::STOP })?;
            client.is_stopped = !client.is_stopped;
        }
        Ok(())
    }

    /// Kills a client, wherever it is.
    pub fn kill(&mut self, number: u64) -> Check {
        let count = self.clients.len() as u64;
        let Some(client) = self.clients.get_mut(number.checked_rem(count).unwrap_or(0) as usize) else { return Ok(()) };
        if client.is_running()? {
            client.child.kill()?;
            client.was_killed = true;
        }
        Ok(())
    }

    /// Fails if any client came to an end of its own.
    pub fn check_all_work(&mut self) -> Check {
        for client in &mut self.clients {
            if !client.was_killed && !client.is_running()? {
                fail!(
                    "client {} ended with {:?} while all was well: {:?}",
                    client.folder,
                    client.ended,
                    client.last()?
                );
            }
        }
        Ok(())
    }

    /// Has all clients go on, and stop.
    pub fn tell_to_stop(&mut self) -> Check {
        fs::write(&self.stop, "")?;
        for client in &mut self.clients {
            if client.is_stopped && client.is_running()? {
                signal(client.child.id(), Signal::CONT)?;
                client.is_stopped = false;
            }
        }
        Ok(())
    }

    /// Tells all to stop and waits for each. After `losing` the mount their calls may have failed.
    pub fn finish(mut self, losing: bool, patience: Duration) -> Check<Legacy> {
        self.tell_to_stop()?;
        let all_ended = wait_until("all clients end", patience, || {
            let mut running = false;
            for client in &mut self.clients {
                running |= client.is_running()?;
            }
            Ok(!running)
        });
        if let Err(stop) = all_ended {
            let mut stuck = Vec::new();
            for client in &mut self.clients {
                if client.is_running()? {
                    stuck.push(format!("{}: {}", client.folder, kernel::where_is(client.child.id())));
                }
            }
            return Err(stop.during(stuck.join("; ")));
        }
        let mut legacy = Legacy::new();
        for client in &self.clients {
            let journal = client.read()?;
            client.judge_end(&journal, losing).during(format!("client {}", client.folder))?;
            legacy.push((client.folder.clone(), journal));
        }
        fs::remove_file(&self.stop)?;
        Ok(legacy)
    }
}

impl Client {
    fn is_running(&mut self) -> Check<bool> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait()?;
        }
        Ok(self.ended.is_none())
    }

    fn read(&self) -> Check<Journal> {
        // One that was killed early has none.
        Journal::parse(&fs::read_to_string(&self.journal).unwrap_or_default())
    }

    fn last(&self) -> Check<Last> {
        self.read().map(|journal| journal.last)
    }

    fn judge_end(&self, journal: &Journal, losing: bool) -> Check {
        let signal = self.ended.and_then(|status| status.signal()).map(Signal::from_named_raw);
        match &journal.last {
            Last::Wrong(what) => fail!("saw what cannot be: {what}"),
            Last::Error(errno, doing) => {
                let error = std::io::Error::from_raw_os_error(*errno);
                ensure!(losing && OF_A_LOST_MOUNT.contains(errno), "{doing}: {error}");
            }
            Last::Stopped => {}
            Last::Silence if self.was_killed => {}
            // A map of a file whose mount is gone.
            Last::Silence if losing && signal == Some(Some(Signal::BUS)) => {}
            Last::Silence => fail!("ended with {:?}, without a word", self.ended),
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for client in &mut self.clients {
            if client.ended.is_none() {
                let _ = client.child.kill();
            }
        }
        // Whoever hangs in the kernel hangs until its mount goes; the machine takes it then.
        for client in &mut self.clients {
            let gone = || Ok(client.child.try_wait()?.is_some());
            let _ = wait_until("a killed client ends", Duration::from_secs(1), gone);
        }
    }
}
