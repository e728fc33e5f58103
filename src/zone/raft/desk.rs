//! [`Desk`]: where this node's commands are handed in, and their answers waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nexus_kernel::content::ContentSync;
use nexus_kernel::model::Inode;
use nexus_kernel::{Command, Error, Ino, Outcome, Result};

use super::behind::Sink;
use super::copies::{Copies, Span};
use super::patience::Patience;
use super::pause::below_detached;
use super::pending::Answer;
use super::proposer::{Proposer, Queued};
use super::replica::Replica;

/// How often a change that waits for a pause to end looks at all.
const LOOK: Duration = Duration::from_millis(100);
/// Longest that changes wait while a directory is shared.
const MOST_PAUSE: Duration = Duration::from_secs(300);
/// How much longer than its patience a change waits for whoever is to give it up.
const BACKSTOP: Duration = Duration::from_secs(5);

/// Hands commands in.
pub struct Desk {
    replica: Arc<Replica>,
    proposer: Proposer,
    content: Arc<dyn ContentSync>,
    copies: Arc<dyn Copies>,
    /// How long a change waits for a majority before it is given up.
    patience: Arc<Patience>,
    closed: AtomicBool,
}

/// A command that is on its way.
struct Handed {
    seq: u64,
    answer: Arc<Answer>,
    until: Instant,
}

impl Desk {
    /// For the commands of a replica's node.
    pub fn new(
        replica: Arc<Replica>,
        proposer: Proposer,
        content: Arc<dyn ContentSync>,
        copies: Arc<dyn Copies>,
        patience: Arc<Patience>,
    ) -> Desk {
        Desk { replica, proposer, content, copies, patience, closed: AtomicBool::new(false) }
    }

    /// What brings the commands to the leader.
    pub fn proposer(&self) -> &Proposer {
        &self.proposer
    }

    /// Refuses commands from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Makes content safe that commands are about to refer to: once others know of it, it must not be lost with
    /// this node's power or disk.
    pub fn keep_content<'a>(&self, commands: impl Iterator<Item = &'a Command>) -> Result<()> {
        let spans: Vec<Span> = commands.flat_map(Command::pieces).map(Span::from).collect();
        if spans.is_empty() {
            return Ok(());
        }
        let copying = self.copies.begin(spans);
        self.content.sync()?;
        copying()
    }

    /// Proposes, and waits for the answer; while the zone is paused, for that to end first.
    pub fn propose(&self, command: &Command) -> Result<Outcome> {
        self.propose_after(command, false)
    }

    /// As [`Desk::propose`]; `paused` says that the command has waited for a pause already.
    fn propose_after(&self, command: &Command, paused: bool) -> Result<Outcome> {
        self.check_version(command)?;
        let mut waited = paused;
        loop {
            if !command.passes_pause() && self.replica.paused()?.is_some() {
                if command.is_upkeep() {
                    return Err(Error::Unavailable("a directory of the zone is being shared".into()));
                }
                self.await_resumption()?;
                waited = true;
            }
            if waited && below_detached(&self.replica.state(), command)? {
                // Its directory has become a zone meanwhile: whoever came by a path finds that there.
                return Err(Error::Stale);
            }
            match self.hand_in([command]).and_then(|[handed]| self.answer_of(&handed)) {
                Err(Error::Paused) => waited = true,
                other => return other,
            }
        }
    }

    fn check_version(&self, command: &Command) -> Result<()> {
        if command.version() > self.replica.commands() {
            log::debug!("a command of version {} has to wait until all members know it", command.version());
            return Err(Error::NotSupported);
        }
        Ok(())
    }

    /// Waits until the zone is not paused any more, or nobody seems to look after the pause.
    fn await_resumption(&self) -> Result<()> {
        let most = Instant::now() + MOST_PAUSE;
        let (mut seen, mut until) = (None, Instant::now() + self.patience.get());
        loop {
            let applied = self.replica.applied();
            let mark = self.replica.paused()?;
            if mark.is_none() {
                return Ok(());
            }
            if mark != seen {
                (seen, until) = (mark, Instant::now() + self.patience.get());
            }
            self.check()?;
            if Instant::now() >= until.min(most) {
                return Err(Error::Io("a directory of the zone is being shared, which takes too long".into()));
            }
            self.replica.wait_change(applied, LOOK);
        }
    }

    fn check(&self) -> Result<()> {
        match self.closed.load(Ordering::Acquire) {
            true => Err(Error::Unavailable("the zone is closed".into())),
            false => Ok(()),
        }
    }

    /// Hands commands in that are applied together, in this order.
    fn hand_in<const N: usize>(&self, commands: [&Command; N]) -> Result<[Handed; N]> {
        self.check()?;
        let payloads: Vec<Bytes> =
            commands.iter().map(|command| Ok(command.encode()?.into())).collect::<Result<_>>()?;
        let until = Instant::now() + self.patience.get();
        let handed = commands.map(|_| {
            let (seq, answer) = self.replica.pending.add();
            Handed { seq, answer, until }
        });
        let commands = handed.iter().map(|handed| handed.seq).zip(payloads).collect();
        self.proposer.send(Queued { commands, until })?;
        Ok(handed)
    }

    fn answer_of(&self, handed: &Handed) -> Result<Outcome> {
        loop {
            // The proposer answers where the time is over; this is only its backstop.
            if let Some(outcome) = handed.answer.wait(self.patience.get() + BACKSTOP) {
                return outcome;
            }
            if Instant::now() >= handed.until {
                self.replica.pending.answer(handed.seq, Err(unclear("nobody has answered")));
            }
        }
    }
}

impl Sink for Desk {
    fn propose_all(&self, commands: &[Command]) -> Vec<Result<Outcome>> {
        if let Err(error) = self.keep_content(commands.iter()) {
            return commands.iter().map(|_| Err(error.clone())).collect();
        }
        // Handed in together, so that they share an entry.
        let handed: Vec<_> = commands.iter().map(|command| self.hand_in([command])).collect();
        let answers = handed.into_iter().map(|handed| handed.and_then(|[handed]| self.answer_of(&handed)));
        let answers = commands.iter().zip(answers).map(|(command, answer)| match answer {
            Err(Error::Paused) => self.propose_after(command, true),
            other => other,
        });
        answers.collect()
    }

    fn propose_in_order(&self, first: &Command, then: &Command) -> [Result<Outcome>; 2] {
        if let Err(error) = self.keep_content([first, then].into_iter()) {
            return [Err(error), self.propose(then)];
        }
        let ready = || {
            self.check_version(then)?;
            self.replica.paused()
        };
        if !matches!(ready(), Ok(None)) {
            return [self.propose(first), self.propose(then)];
        }
        match self.hand_in([first, then]) {
            Ok(handed) => {
                let answers = handed.map(|handed| self.answer_of(&handed));
                let again = |(command, answer)| match answer {
                    Err(Error::Paused) => self.propose_after(command, true),
                    other => other,
                };
                let [first_answer, then_answer] = answers;
                [again((first, first_answer)), again((then, then_answer))]
            }
            Err(error) => [Err(error.clone()), Err(error)],
        }
    }

    fn version(&self) -> u8 {
        self.replica.commands()
    }

    fn inode(&self, ino: Ino) -> Result<Option<Inode>> {
        self.replica.state().inode(ino)
    }

    fn lost(&self, ino: Ino) {
        self.replica.listener().lost(ino);
    }
}

/// The answer where it is not known whether a change was made.
pub(super) fn unclear(why: &str) -> Error {
    Error::NoMajority(format!(
        "no majority of the zone's members has taken the change in time ({why}); it may still be made"
    ))
}
