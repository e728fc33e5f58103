//! The storm: many processes work on a mount while it is unmounted under them, its connection
//! aborted, its daemon killed or suspended, they themselves suspended or killed, the kernel's
//! caches dropped, and the volume mounted again at once. Nothing may hang or be left behind,
//! the volume must pass fsck, and all that was acknowledged must be there.

mod client;
mod crowd;
mod journal;
mod kernel;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::mount::UnmountFlags;
use rustix::process::Signal;

use crate::failure::{Check, During, Stop, ensure};
use crate::lab::Lab;
use crate::mount::{Mount, is_mount_point, signal};
use crate::random::Random;
use crate::report::Tally;
use crate::scratch::Scratch;
use crate::tool::wait_until;
use client::{Habit, Orders};
use crowd::{Crowd, Legacy};
use kernel::{Connections, Messages};

/// Seconds in CI, and in a soak.
const CI_SECONDS: u64 = 75;
const SOAK_SECONDS: u64 = 1800;
/// How long anything may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// The daemon's memory limit here, in MiB.
const MEMORY_MIB: u64 = 128;
/// Clients of the round with very many, and of the largest other one.
const VERY_MANY: u64 = 200;
const MANY: u64 = 24;
/// The round with very many; there is another in each hundred.
const ROUND_OF_MANY: u64 = 2;

pub use client::from_words as client;

/// How a mount goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Disaster {
    /// Unmounted lazily; its clients go on.
    Detach,
    /// Unmounted by force, which aborts it, too.
    Force,
    /// Aborted by the kernel's control file.
    Abort,
    /// The daemon is killed.
    Kill,
    /// The daemon is asked to end.
    Terminate,
    /// The daemon is suspended, and then goes this way.
    Suspended(Blow),
}

/// What becomes of a suspended daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Blow {
    Detach,
    Abort,
    Kill,
}

const DISASTERS: [Disaster; 11] = [
    Disaster::Detach,
    Disaster::Force,
    Disaster::Abort,
    Disaster::Abort,
    Disaster::Kill,
    Disaster::Kill,
    Disaster::Terminate,
    Disaster::Suspended(Blow::Detach),
    Disaster::Suspended(Blow::Abort),
    Disaster::Suspended(Blow::Abort),
    Disaster::Suspended(Blow::Kill),
];

impl Disaster {
    /// Whether calls fail by it.
    fn loses_the_mount(self) -> bool {
        !matches!(self, Disaster::Detach | Disaster::Suspended(Blow::Detach))
    }

    /// Whether the daemon dies of it, and not by itself.
    fn kills(self) -> bool {
        matches!(self, Disaster::Kill | Disaster::Suspended(Blow::Kill))
    }
}

/// Round after round until the time is over; each counts. A word of `filter` is a round's number.
pub fn run(lab: &Lab, filter: &[String]) -> Tally {
    let mut tally = Tally::default();
    let messages = Messages::from_now();
    let end = Instant::now() + Duration::from_secs(lab.seconds.unwrap_or(lab.scale(CI_SECONDS, SOAK_SECONDS)));
    let wanted: Vec<u64> = filter.iter().filter_map(|word| word.parse().ok()).collect();
    let mut storm = match Storm::new(lab) {
        Ok(storm) => storm,
        Err(stop) => {
            println!("no storm: {stop:?}");
            tally.count(&Err(stop));
            return tally;
        }
    };
    let mut numbers: Box<dyn Iterator<Item = u64>> =
        if wanted.is_empty() { Box::new(0..) } else { Box::new(wanted.into_iter()) };
    while let Some(number) = numbers.next().filter(|_| Instant::now() < end || !filter.is_empty()) {
        let start = Instant::now();
        let mut told = String::new();
        let result = storm.round(number, &mut told);
        let seconds = start.elapsed().as_secs_f32();
        match &result {
            Ok(()) => println!("ok      round {number}: {told} ({seconds:.1} s)"),
            Err(stop) => println!("FAILED  seed {} round {number}: {told} ({seconds:.1} s): {stop:?}", lab.seed),
        }
        tally.count(&result);
        if tally.failed > 0 {
            // What is left of it would fail the rounds that follow.
            break;
        }
    }
    drop(storm);
    match messages.alarming() {
        None => println!("(the kernel's log can't be read here)"),
        Some(lines) => lines.iter().for_each(|line| println!("kernel: {line}")),
    }
    tally
}

/// One volume through all rounds.
struct Storm<'a> {
    lab: &'a Lab,
    mount: Mount,
    connections: Connections,
    scratch: Scratch,
}

impl<'a> Storm<'a> {
    fn new(lab: &'a Lab) -> Check<Storm<'a>> {
        let scratch = Scratch::new(&lab.scratch, "storm")?;
        let mount = lab.mount_on(&scratch.path().join("data"), &scratch)?;
        let mount = mount.with_options(&format!("memory={MEMORY_MIB}M"));
        let connections = Connections::new(&scratch)?;
        Ok(Storm { lab, mount, connections, scratch })
    }

    /// A mount, its load, its end, and what is there afterwards. `told` is what happens, in a
    /// few words.
    fn round(&mut self, number: u64, told: &mut String) -> Check {
        let mut random = Random::new(self.lab.seed.wrapping_mul(1000).wrapping_add(number));
        let very_many = number % 100 == ROUND_OF_MANY;
        let disaster = random.pick(&DISASTERS);
        let at_once = random.one_in(2);
        let count = if very_many { VERY_MANY } else { 2 + random.below(MANY) };
        let again = if at_once { ", mounted again at once" } else { "" };
        *told = format!("{count} clients, {disaster:?}{again}");

        self.mount.start()?;
        let device = fs::metadata(self.mount.point())?.dev();
        let stop = self.scratch.path().join("stop");
        let orders: Vec<Orders> =
            (0..count).map(|client| self.orders(number, client, device, &stop, very_many, &mut random)).collect();
        let mut crowd = Crowd::start(&orders, &stop)?;
        self.load(&mut crowd, very_many, &mut random)?;
        crowd.check_all_work()?;
        let old = self.strike(disaster, device, &mut random)?;
        if at_once {
            if !disaster.loses_the_mount() {
                // The old daemon serves for as long as anybody uses the mount.
                crowd.tell_to_stop()?;
            }
            self.mount.start().during("mounting again at once")?;
        }
        let legacy = crowd.finish(disaster.loses_the_mount(), PATIENCE)?;
        old.retire(disaster)?;
        if !at_once {
            self.mount.clear()?;
            self.mount.fsck()?;
            self.mount.start()?;
        }
        self.judge(&legacy)?;
        for one in &orders {
            let _ = fs::remove_file(&one.journal);
        }
        self.mount.stop()?;
        ensure!(!is_mount_point(self.mount.point())?, "a mount is left");
        self.mount.check_log()?;
        self.mount.fsck()
    }

    fn orders(&self, round: u64, client: u64, device: u64, stop: &Path, small: bool, random: &mut Random) -> Orders {
        let folder = format!("r{round}c{client}");
        Orders {
            point: self.mount.point().to_owned(),
            device,
            journal: self.scratch.path().join(format!("{folder}.journal")),
            folder,
            stop: stop.to_owned(),
            seed: random.next(),
            habit: match (client, small) {
                (0, _) => Habit::Holds,
                (_, true) => Habit::Small,
                (_, false) => Habit::Plain,
            },
        }
    }

    /// Lets the clients work until they came far enough, with bad weather all the time.
    fn load(&mut self, crowd: &mut Crowd, very_many: bool, random: &mut Random) -> Check {
        let goal = if very_many { 100_000 } else { random.below(20_000) };
        let daemon = self.mount.pid()?;
        let mut most_kib = 0;
        let start = Instant::now();
        // Those that are suspended or killed can't begin.
        let enough = |crowd: &Crowd| crowd.progress() >= goal && (!very_many || crowd.begun() * 2 > crowd.len());
        while !enough(crowd) && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(random.below(40)));
            match random.below(14) {
                0 => kernel::drop_caches()?,
                1..=4 => crowd.stop_or_continue(random.next())?,
                5 if random.one_in(3) => crowd.kill(random.next())?,
                6 => {
                    signal(daemon, Signal::STOP)?;
                    std::thread::sleep(Duration::from_millis(random.below(120)));
                    signal(daemon, Signal::CONT)?;
                }
                7 => drop(rustix::fs::statfs(self.mount.point())?),
                _ => {}
            }
            most_kib = most_kib.max(self.mount.memory_kib()?);
        }
        let mib = most_kib >> 10;
        ensure!(mib <= MEMORY_MIB, "the daemon took {mib} MiB of memory, its limit is {MEMORY_MIB}");
        if very_many {
            println!("        {} clients of {} at work, {mib} MiB at most", crowd.begun(), crowd.len());
        }
        Ok(())
    }

    /// Takes the mount away in the way of `disaster`. Answers the daemon that was.
    fn strike(&mut self, disaster: Disaster, device: u64, random: &mut Random) -> Check<OldDaemon> {
        let mut old = OldDaemon(self.mount.let_go()?);
        let point = self.mount.point().to_owned();
        let detach = || rustix::mount::unmount(&point, UnmountFlags::DETACH);
        match disaster {
            Disaster::Detach => detach()?,
            Disaster::Force => rustix::mount::unmount(&point, UnmountFlags::FORCE | UnmountFlags::DETACH)?,
            Disaster::Abort => self.connections.abort(device)?,
            Disaster::Kill => old.0.kill()?,
            Disaster::Terminate => {
                signal(old.0.id(), Signal::TERM)?;
                wait_until("the daemon takes its mount away", PATIENCE, || Ok(!is_mount_point(&point)?))?;
            }
            Disaster::Suspended(blow) => {
                signal(old.0.id(), Signal::STOP)?;
                std::thread::sleep(Duration::from_millis(random.below(400)));
                match blow {
                    Blow::Detach => detach()?,
                    Blow::Abort => self.connections.abort(device)?,
                    Blow::Kill => old.0.kill()?,
                }
                std::thread::sleep(Duration::from_millis(random.below(100)));
                if blow != Blow::Kill {
                    signal(old.0.id(), Signal::CONT)?;
                }
            }
        }
        Ok(old)
    }

    /// Holds what is there against what was done, and clears it away.
    fn judge(&self, legacy: &Legacy) -> Check {
        for (name, journal) in legacy {
            let folder = self.mount.point().join(name);
            let found = read_folder(&folder)?;
            journal.judge(found.as_ref()).during(format!("after the storm, client {name}"))?;
            if found.is_some() {
                fs::remove_dir_all(&folder)?;
            }
        }
        let left: Vec<_> = fs::read_dir(self.mount.point())?.flatten().map(|entry| entry.file_name()).collect();
        ensure!(left.is_empty(), "nobody made these: {left:?}");
        Ok(())
    }
}

fn read_folder(folder: &Path) -> Check<Option<BTreeMap<String, Vec<u8>>>> {
    let mut files = BTreeMap::new();
    match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
            }
        }
    }
    Ok(Some(files))
}

/// A daemon whose mount is gone, or about to go. It does not outlive this.
struct OldDaemon(Child);

impl OldDaemon {
    /// Waits for its end.
    fn retire(mut self, disaster: Disaster) -> Check {
        let mut ended = None;
        let gone = wait_until("the daemon ends", PATIENCE, || {
            ended = self.0.try_wait()?;
            Ok(ended.is_some())
        });
        gone.map_err(|stop| stop.during(kernel::where_is(self.0.id())))?;
        match ended {
            Some(status) if status.success() || disaster.kills() => Ok(()),
            _ => Err(Stop::Failed(format!("the daemon ended with {ended:?}"))),
        }
    }
}

impl Drop for OldDaemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
