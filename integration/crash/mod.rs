//! Crashes under load: SIGKILL of the daemon, and power loss of the disk under its data
//! folder, at random moments. After each the data folder must pass fsck and show a prefix
//! of what was done that holds all that was promised (I1, I2, I3).

mod shadow;
mod verdict;
mod worker;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::failure::{Check, During, Stop, fail};
use crate::lab::Lab;
use crate::mount::Mount;
use crate::random::Random;
use crate::report::Case;
use crate::scratch::{Image, ImageKind, Scratch};
use crate::tool::wait_until;
use crate::transport::Transport;
use crate::tree;
use shadow::Shadow;
use verdict::Promise;
use worker::{Shared, Step};

const WORKERS: usize = 4;

/// A round of each kind of crash, with a few seeds; each kind over one transport, then over the other.
pub fn cases(lab: &Lab) -> Vec<Case> {
    let mut cases = Vec::new();
    let rounds = lab.scale(14, 60);
    for seed in lab.seed..lab.seed + lab.scale(3, 6) {
        let by_turns = |index| if (seed + index) % 2 == 0 { Transport::Device } else { Transport::Ring };
        let transport = lab.transport.unwrap_or(by_turns(0));
        let name = format!("sigkill seed={seed} {transport}");
        cases.push(Case::new(name, move |lab| sigkill(&lab.or_over(transport), seed, rounds)));
        for (index, kind) in (0..).zip([ImageKind::Ext4, ImageKind::Xfs]) {
            let transport = lab.transport.unwrap_or(by_turns(index));
            let name = format!("power-loss-{} seed={seed} {transport}", kind.name());
            cases.push(Case::new(name, move |lab| power_loss(&lab.or_over(transport), kind, seed, rounds / 2)));
        }
    }
    cases
}

fn sigkill(lab: &Lab, seed: u64, rounds: u64) -> Check {
    let scratch = Scratch::new(&lab.scratch, "sigkill")?;
    let mut mount = lab.mount_on(&scratch.path().join("data"), &scratch)?;
    let point = mount.point().to_owned();
    let mut load = Load::new(seed);
    for round in 0..rounds {
        mount.start()?;
        let result = load.crash_under_load(&point, |moment| {
            moment()?;
            mount.kill()
        });
        let trail = || format!("round {round}");
        let work = result.during(trail())?;
        if load.random.one_in(2) {
            mount.start_and_kill(Duration::from_micros(load.random.below(60_000)))?;
        }
        mount.fsck().during(trail())?;
        mount.start()?;
        load.judge(mount.point(), work, Promise::EveryAction).during(trail())?;
        if load.random.one_in(2) { mount.kill()? } else { mount.stop()? }
    }
    Ok(())
}

fn power_loss(lab: &Lab, kind: ImageKind, seed: u64, rounds: u64) -> Check {
    lab.needs_mount()?;
    let scratch = Scratch::new(&lab.scratch, "power-loss")?;
    let image = Image::new(&scratch, kind, 2048)?;
    let mut mount = lab.mount_on(&image.path().join("data"), &scratch)?;
    let point = mount.point().to_owned();
    let mut load = Load::new(seed);
    for round in 0..rounds {
        mount.start()?;
        let trail = || format!("round {round}");
        let result = load.crash_under_load(&point, |moment| {
            moment()?;
            image.cut_power()?;
            mount.kill()
        });
        let work = result.during(trail())?;
        image.restore_power()?;
        mount.fsck().during(trail())?;
        mount.start()?;
        load.judge(mount.point(), work, Promise::EverySync).during(trail())?;
        mount.stop()?;
    }
    drop(mount);
    drop(image);
    Ok(())
}

/// The workers' folders, as they must look when nothing is under way.
struct Load {
    random: Random,
    folders: Vec<Shadow>,
}

type Work = Vec<Vec<Step>>;

impl Load {
    fn new(seed: u64) -> Load {
        Load { random: Random::new(seed), folders: Vec::new() }
    }

    /// Lets the workers loose on the mount and calls `crash` with a function that returns
    /// when the moment has come. Answers what the workers did.
    fn crash_under_load(
        &mut self,
        point: &Path,
        crash: impl FnOnce(&mut dyn FnMut() -> Check) -> Check,
    ) -> Check<Work> {
        if self.folders.is_empty() {
            for folder in folders(point) {
                fs::create_dir(&folder)?;
                self.folders.push(Shadow::new());
            }
            // They are part of what must be there after the first power loss.
            fs::File::open(point)?.sync_all()?;
        }
        let shared = Shared::default();
        let goal = if self.random.one_in(6) { self.random.below(40) } else { 100 + self.random.below(2500) };
        let seeds: Vec<u64> = (0..WORKERS).map(|_| self.random.next()).collect();
        let (crashed, done) = std::thread::scope(|scope| {
            let workers: Vec<_> = folders(point)
                .into_iter()
                .zip(self.folders.clone())
                .zip(seeds)
                .enumerate()
                .map(|(index, ((folder, shadow), seed))| {
                    let max_bytes = if index == 0 { 500_000 } else { 60_000 };
                    let shared = &shared;
                    scope.spawn(move || worker::run(&folder, shadow, seed, max_bytes, shared))
                })
                .collect();
            let mut moment = || {
                let running = || workers.iter().all(|worker| !worker.is_finished());
                wait_until("the workers get far enough", Duration::from_secs(120), || {
                    Ok(shared.acked.load(Ordering::Acquire) >= goal || !running())
                })?;
                shared.cut.store(true, Ordering::Release);
                Ok(())
            };
            let crashed = crash(&mut moment);
            shared.stop.store(true, Ordering::Release);
            let done: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            (crashed, done)
        });
        crashed?;
        let mut work = Work::new();
        for (index, done) in done.into_iter().enumerate() {
            let (steps, error) = done.map_err(|_| Stop::Failed("a worker panicked".to_owned()))?;
            if let Some(error) = error {
                let action = steps.last().map(|step| &step.action);
                fail!("before the crash, worker {index} got \"{error}\" from {action:?}");
            }
            work.push(steps);
        }
        Ok(work)
    }

    /// Holds what is there now against what was done, and goes on from it.
    fn judge(&mut self, point: &Path, work: Work, promise: Promise) -> Check {
        let mut judged = Vec::new();
        for (index, ((folder, base), steps)) in folders(point).iter().zip(&mut self.folders).zip(work).enumerate() {
            let found = tree::read(folder)?;
            let (survived, now) = verdict::judge(base, &steps, &found, promise).during(format!("worker {index}"))?;
            *base = now;
            judged.push((steps, survived));
        }
        verdict::judge_order(&judged)
    }
}

fn folders(point: &Path) -> Vec<PathBuf> {
    (0..WORKERS).map(|index| point.join(format!("worker{index}"))).collect()
}

impl Mount {
    /// Starts the daemon and kills it after `delay`, wherever it is then.
    fn start_and_kill(&mut self, delay: Duration) -> Check {
        self.launch()?;
        std::thread::sleep(delay);
        self.kill()
    }
}
