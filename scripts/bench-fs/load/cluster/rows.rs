//! What is done on each, in order.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nexus_bench::{Context, Failure, Report, Unit};

use super::{Amounts, Bench, Cluster};
use crate::crew::{Crew, time_program};
use crate::small;
use crate::subject::{settle_on, time_run};
use crate::work::Task;
use crate::workloads::Cache;

/// Processes that work at once.
const CROWD: u64 = 16;
/// From the start of the load until the node is killed.
const BEFORE_KILL: Duration = Duration::from_secs(2);

const STAT_COLD: &str = "zone: stat cold on a member";
const STAT: &str = "zone: stat on a member";
const OPEN: &str = "zone: open and close on a member";
const LIST: &str = "zone: readdir and stat on a member";
const CREATE: &str = "zone: create by 1 process";
const CREATE_CROWD: &str = "zone: create by 16 processes on all members";
const APPEAR: &str = "zone: from create to stat on another member";
const VANISH: &str = "zone: from unlink to ENOENT on another member";
const WRITE: &str = "zone: sequential write and fsync";
const READ: &str = "zone: sequential read on another member";
const WRITE_SMALL: &str = "zone: writes of 4 KiB and one fsync";
const WRITE_SYNCED: &str = "zone: writes of 4 KiB each with fsync";
const UNTAR: &str = "zone: untar of small files";
const READ_SMALL: &str = "zone: small files read on another member";
const IDLE: &str = "zone: processor time of an idle node in a minute";
const FAILOVER: &str = "zone: slowest file while a member is killed";

fn unit(row: &str, amounts: &Amounts) -> Unit {
    let operations = Unit::Operations;
    match row {
        STAT_COLD | STAT | OPEN | LIST | CREATE => operations(amounts.files),
        CREATE_CROWD => operations(amounts.crowd_files / CROWD * CROWD),
        APPEAR | VANISH | IDLE | FAILOVER => Unit::Latency,
        WRITE | READ => Unit::Bytes(amounts.large_mib << 20),
        WRITE_SMALL => operations(amounts.small_writes),
        WRITE_SYNCED => operations(amounts.synced_writes),
        READ_SMALL => operations(amounts.tree_files as u64),
        _ => Unit::Seconds,
    }
}

/// Adds a time to a row.
pub fn record(report: &mut Report, amounts: &Amounts, row: &str, column: usize, time: Duration) {
    report.record(row, unit(row, amounts), column, time);
}

impl Bench<'_> {
    /// Does all rows on one. The last one is that a node is killed.
    pub(super) fn rows(
        &self,
        cluster: &mut dyn Cluster,
        archive: &Path,
        record: &mut dyn FnMut(&str, Duration),
    ) -> Result<(), Failure> {
        let points = cluster.points();
        let (Some(here), Some(there)) = (points.first(), points.get(1).or(points.first())) else {
            return Err(Failure::new("no nodes"));
        };
        let several = points.len() > 1;
        let amounts = self.amounts;
        self.reads(here, record)?;
        self.creates(&points, record)?;
        if several {
            let folder = make(here, "seen")?;
            let other = there.join("seen");
            for (row, task) in [(APPEAR, Task::Appear), (VANISH, Task::Vanish)] {
                let crew = Crew::looking_at(self.interrupt, &folder, &other, task, amounts.seen_files)?;
                let times = crew.reported_times()?;
                record(row, times.first().copied().unwrap_or_default());
            }
        }

        let folder = make(here, "large")?;
        record(WRITE, self.crew(&[folder], Task::WriteBig, amounts.large_mib, Cache::AsIs)?);
        record(READ, self.crew(&[there.join("large")], Task::ReadBig, amounts.large_mib, Cache::Nothing)?);
        let folder = make(here, "blocks")?;
        record(WRITE_SMALL, self.crew(&[&folder], Task::WriteSmall, amounts.small_writes, Cache::AsIs)?);
        record(WRITE_SYNCED, self.crew(&[&folder], Task::SyncBlocks, amounts.synced_writes, Cache::AsIs)?);

        let folder = make(here, "small")?;
        Cache::AsIs.prepare()?;
        record(UNTAR, time_program(self.interrupt, &mut small::unpack(archive, &folder))?.0);
        Cache::Nothing.prepare()?;
        let started = Instant::now();
        small::read_files(&there.join("small"), amounts.tree_files, self.seed)?;
        record(READ_SMALL, started.elapsed());

        settle_on(|| vec![time_run(&cluster.processes())]);
        record(IDLE, self.idle(cluster, points.len())?);
        if let Some(victim) = cluster.victim()? {
            record(FAILOVER, self.failover(cluster, &points, victim)?);
        }
        Ok(())
    }

    fn reads(&self, here: &Path, record: &mut dyn FnMut(&str, Duration)) -> Result<(), Failure> {
        let (folder, files) = (make(here, "read")?, self.amounts.files);
        // Made by one process: that is a row of its own.
        record(CREATE, self.crew(&[&folder], Task::Create, files, Cache::AsIs)?);
        for (row, task, cache) in [
            (STAT_COLD, Task::Stat, Cache::NoInodes),
            (STAT, Task::Stat, Cache::AsIs),
            (OPEN, Task::Open, Cache::AsIs),
            (LIST, Task::List, Cache::AsIs),
        ] {
            record(row, self.crew(&[&folder], task, files, cache)?);
        }
        Ok(())
    }

    fn creates(&self, points: &[PathBuf], record: &mut dyn FnMut(&str, Duration)) -> Result<(), Failure> {
        let places = points.iter().cycle().zip(0..CROWD);
        let folders: Vec<PathBuf> =
            places.map(|(point, i)| make(point, &format!("crowd{i}"))).collect::<Result<_, _>>()?;
        record(CREATE_CROWD, self.crew(&folders, Task::Create, self.amounts.crowd_files / CROWD, Cache::AsIs)?);
        Ok(())
    }

    /// Processor time of one node in a minute in which nothing is asked of it.
    fn idle(&self, cluster: &dyn Cluster, nodes: usize) -> Result<Duration, Failure> {
        let (processes, started) = (cluster.processes(), Instant::now());
        let before = time_run(&processes);
        while started.elapsed() < Duration::from_secs(self.amounts.idle_s) {
            self.interrupt.check()?;
            sleep(Duration::from_millis(100));
        }
        let used = time_run(&processes).saturating_sub(before);
        Ok(used.mul_f64(60.0 / started.elapsed().as_secs_f64() / nodes as f64))
    }

    /// The longest that a file took on any of the nodes that are left.
    fn failover(&self, cluster: &mut dyn Cluster, points: &[PathBuf], victim: usize) -> Result<Duration, Failure> {
        let left = points.iter().enumerate().filter(|(place, _)| *place != victim);
        let folders: Vec<PathBuf> =
            left.map(|(place, point)| make(point, &format!("left{place}"))).collect::<Result<_, _>>()?;
        let mut crew = Crew::assemble(self.interrupt, &folders, Task::Steady, self.amounts.failover_s, self.seed)?;
        crew.start()?;
        let started = Instant::now();
        while started.elapsed() < BEFORE_KILL {
            self.interrupt.check()?;
            sleep(Duration::from_millis(20));
        }
        cluster.kill(victim)?;
        let reports = crew.reports()?;
        reports.iter().filter_map(|times| times.get(2)).max().copied().ok_or_else(|| Failure::new("nothing was timed"))
    }

    fn crew(&self, folders: &[impl AsRef<Path>], task: Task, count: u64, cache: Cache) -> Result<Duration, Failure> {
        self.interrupt.check()?;
        let crew = Crew::assemble(self.interrupt, folders, task, count, self.seed)?;
        cache.prepare()?;
        crew.time()
    }
}

fn make(point: &Path, name: &str) -> Result<PathBuf, Failure> {
    let folder = point.join(name);
    fs::create_dir(&folder).during(|| format!("making {}", folder.display()))?;
    Ok(folder)
}
