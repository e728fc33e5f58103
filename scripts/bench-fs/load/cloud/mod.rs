//! Content in S3: a volume whose content is in a bucket against a plain client of the same server
//! in the same run, and against a volume on this disk.

mod client;
mod server;
mod volume;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use nexus_bench::{Context, Failure, Report, Rng, Role, Unit};

use crate::crew::time_program;
use crate::interrupt::Interrupt;
use client::Client;
use server::Server;
use volume::{Requests, Volume};

/// Bytes of a part and of a range of the plain client.
const PART: usize = 8 << 20;
/// Reads at random whose median is a sample.
const READS: u64 = 200;
/// Most PUTs that the small files of the bill may cost together.
const MOST_PUTS: u64 = 20;
/// Most GETs that reading them in order may cost.
const MOST_GETS: u64 = 40;
/// Bytes of a small file.
const SMALL: usize = 4096;
/// Columns.
const NEXUS: usize = 0;
const REFERENCE: usize = 1;

/// A kind of store.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// A server that speaks S3, started for the run.
    S3,
}

/// How much is done.
#[derive(Clone, Copy)]
pub struct Amounts {
    /// Bytes of the large file.
    pub large_bytes: u64,
    /// Files that are unpacked.
    pub tree_files: usize,
    /// Files of the bill.
    pub bill_files: usize,
}

/// What stays the same in all runs.
pub struct Bench<'a> {
    /// The daemon's program.
    pub program: &'a Path,
    /// Where everything lies.
    pub folder: &'a Path,
    /// Further arguments of the daemon.
    pub arguments: &'a [String],
    /// Whether to stop.
    pub interrupt: &'a Interrupt,
    /// How much is done.
    pub amounts: Amounts,
    /// Seed of contents and offsets.
    pub seed: u64,
}

/// The table and the lines above it.
pub struct Outcome {
    /// The table.
    pub report: Report,
    /// What was counted.
    pub facts: Vec<(String, String)>,
}

impl Bench<'_> {
    /// Does all of it `runs` times.
    pub fn run(&self, runs: usize) -> Result<Outcome, Failure> {
        let column = |name: &str, role| nexus_bench::Subject { name: name.to_owned(), role, transport: String::new() };
        let columns = vec![column("nexus", Role::Nexus), column("reference", Role::Local)];
        let mut outcome = Outcome { report: Report::new(columns), facts: Vec::new() };
        let server = Server::start(self.folder)?;
        let client = Client::of(&server)?;
        let archive = self.archive()?;
        for run in 0..runs {
            outcome.facts.clear();
            let started = Instant::now();
            self.large(run, &server, &client, &mut outcome)?;
            self.untar(run, &server, &archive, &mut outcome)?;
            self.bill(run, &server, &mut outcome)?;
            eprintln!("run {}/{runs}: {:.1} s", run + 1, started.elapsed().as_secs_f64());
        }
        Ok(outcome)
    }

    fn volume<'a>(&'a self, name: &str, server: Option<&'a Server>) -> Result<Volume<'a>, Failure> {
        let store = server.map(|server| (server, name));
        Volume::make(self.program, &self.folder.join(name), store, self.arguments, self.interrupt)
    }

    /// Ends a volume and removes what it kept, so that the next one finds the disk as this one did.
    fn remove(&self, name: &str, volume: Volume, server: &Server) -> Result<(), Failure> {
        drop(volume);
        let folder = self.folder.join(name);
        fs::remove_dir_all(&folder).during(|| format!("removing {}", folder.display()))?;
        server.remove(name)
    }

    /// The large file: written, read in order, read at random.
    fn large(&self, run: usize, server: &Server, client: &Client, outcome: &mut Outcome) -> Result<(), Failure> {
        let parts = self.content(run);
        let len = self.amounts.large_bytes;
        let (name, object) = (format!("large-{run}"), format!("plain-{run}"));
        let mut volume = self.volume(&name, Some(server))?;
        let path = volume.point().join("large");

        let write = |volume: &Volume| {
            let mut file = File::create(&path).during(|| "making the large file".to_owned())?;
            for part in &parts {
                file.write_all(part).during(|| "writing the large file".to_owned())?;
            }
            drop(file);
            volume.flush()
        };
        let (own, plain) = self.both(run, || write(&volume), || client.upload(&object, &parts))?;
        outcome.record("S3 sequential write", Unit::Bytes(len), own, plain);
        outcome.count("sequential write", volume.requests()?);

        volume.remount_empty()?;
        let (own, plain) = self.both(run, || read_all(&path, len), || client.download(&object, len, PART as u64))?;
        outcome.record("S3 sequential read cold", Unit::Bytes(len), own, plain);
        outcome.count("sequential read", volume.requests()?);

        volume.remount_empty()?;
        let file = File::open(&path).during(|| "opening the large file".to_owned())?;
        let (mut own, mut raw, mut raw_frame) = (Vec::new(), Vec::new(), Vec::new());
        for offset in self.offsets(run) {
            self.interrupt.check()?;
            let mut read = [0; SMALL];
            own.push(timed(|| file.read_exact_at(&mut read, offset).during(|| "reading at random".to_owned()))?);
            let mut bytes = Bytes::new();
            raw.push(timed(|| client.get(&object, offset..offset + SMALL as u64).map(|got| bytes = got))?);
            if bytes != read.as_slice() {
                return Err(Failure::new(format!("at {offset} the mount has other bytes than were written")));
            }
            let frame = offset / FRAME * FRAME;
            raw_frame.push(timed(|| client.get(&object, frame..len.min(frame + FRAME)).map(drop))?);
        }
        drop(file);
        let own = median(own);
        outcome.record("S3 random read 4 KiB cold", Unit::Latency, own, median(raw));
        outcome.record("S3 random read 4 KiB cold, against 64 KiB GETs", Unit::Latency, own, median(raw_frame));
        outcome.count(&format!("{READS} random reads"), volume.requests()?);
        server.remove(&object)?;
        self.remove(&name, volume, server)
    }

    /// Both in turn; another one goes first in each run.
    fn both(
        &self,
        run: usize,
        own: impl FnOnce() -> Result<(), Failure>,
        reference: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<(Duration, Duration), Failure> {
        rustix::fs::sync();
        self.interrupt.check()?;
        if run.is_multiple_of(2) {
            let own = timed(own)?;
            rustix::fs::sync();
            Ok((own, timed(reference)?))
        } else {
            let reference = timed(reference)?;
            rustix::fs::sync();
            Ok((timed(own)?, reference))
        }
    }

    /// Bytes that do not compress, other ones in each run.
    fn content(&self, run: usize) -> Vec<Bytes> {
        let mut rng = Rng::new(self.seed.wrapping_add(run as u64));
        let mut left = self.amounts.large_bytes;
        let mut parts = Vec::new();
        while left > 0 {
            let mut part = vec![0; left.min(PART as u64) as usize];
            rng.fill(&mut part);
            left -= part.len() as u64;
            parts.push(Bytes::from(part));
        }
        parts
    }

    /// Offsets far apart, in random order: one in each of so many equal pieces of the file.
    fn offsets(&self, run: usize) -> Vec<u64> {
        let mut rng = Rng::new(!self.seed.wrapping_add(run as u64));
        let piece = self.amounts.large_bytes / READS;
        let pages = (piece / SMALL as u64).saturating_sub(1);
        let mut offsets: Vec<u64> =
            (0..READS).map(|i| (i * piece).next_multiple_of(SMALL as u64) + rng.below(pages) * SMALL as u64).collect();
        rng.shuffle(&mut offsets);
        offsets
    }

    /// A tar file of small files.
    fn archive(&self) -> Result<std::path::PathBuf, Failure> {
        let tree = self.folder.join("tree");
        write_files(&tree, self.amounts.tree_files, self.seed)?;
        let archive = self.folder.join("tree.tar");
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&archive).arg("-C").arg(&tree).arg(".");
        time_program(self.interrupt, &mut tar)?;
        fs::remove_dir_all(&tree).during(|| "removing the tree".to_owned())?;
        Ok(archive)
    }

    /// Small files unpacked, against a volume on this disk.
    fn untar(&self, run: usize, server: &Server, archive: &Path, outcome: &mut Outcome) -> Result<(), Failure> {
        let (far_name, near_name) = (format!("far-{run}"), format!("near-{run}"));
        let (far, near) = (self.volume(&far_name, Some(server))?, self.volume(&near_name, None)?);
        let unpack = |volume: &Volume| {
            let mut tar = Command::new("tar");
            tar.arg("-xf").arg(archive).arg("-C").arg(volume.point());
            time_program(self.interrupt, &mut tar).map(drop)
        };
        let (own, reference) = self.both(run, || unpack(&far), || unpack(&near))?;
        outcome.record("S3 untar, against a volume on this disk", Unit::Seconds, own, reference);
        far.flush()?;
        outcome.count(&format!("untar of {} files", self.amounts.tree_files), far.requests()?);
        self.remove(&near_name, near, server)?;
        self.remove(&far_name, far, server)
    }

    /// What small files cost in requests.
    fn bill(&self, run: usize, server: &Server, outcome: &mut Outcome) -> Result<(), Failure> {
        let (name, files) = (format!("bill-{run}"), self.amounts.bill_files);
        let mut volume = self.volume(&name, Some(server))?;
        let folder = volume.point().join("files");
        write_files(&folder, files, self.seed)?;
        rustix::fs::sync();
        volume.flush()?;
        let puts = volume.requests()?.puts;
        volume.remount_empty()?;
        let before = volume.requests()?.gets;
        for i in 0..files {
            let read = fs::read(folder.join(i.to_string())).during(|| format!("reading small file {i}"))?;
            if read != small(i, self.seed) {
                return Err(Failure::new(format!("small file {i} is not what was written")));
            }
        }
        let gets = volume.requests()?.gets - before;
        let judged =
            |count: u64, most: u64| format!("{count} (≤{most}: {})", if count <= most { "met" } else { "not met" });
        let fact =
            format!("{files} files of 4 KiB: PUTs {}, GETs {}", judged(puts, MOST_PUTS), judged(gets, MOST_GETS));
        outcome.facts.push(("bill".to_owned(), fact));
        self.remove(&name, volume, server)
    }
}

/// Bytes that the daemon reads of an object at least.
const FRAME: u64 = 64 << 10;

impl Outcome {
    fn record(&mut self, row: &str, unit: Unit, own: Duration, reference: Duration) {
        self.report.record(row, unit, NEXUS, own);
        self.report.record(row, unit, REFERENCE, reference);
    }

    /// Of the last run: the earlier ones are cleared.
    fn count(&mut self, what: &str, requests: Requests) {
        self.facts.push((format!("requests, {what}"), format!("{} PUTs, {} GETs", requests.puts, requests.gets)));
    }
}

fn timed(work: impl FnOnce() -> Result<(), Failure>) -> Result<Duration, Failure> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn read_all(path: &Path, len: u64) -> Result<(), Failure> {
    let mut file = File::open(path).during(|| "opening the large file".to_owned())?;
    let (mut buffer, mut came) = (vec![0; 1 << 20], 0);
    loop {
        match file.read(&mut buffer).during(|| "reading the large file".to_owned())? {
            0 if came == len => return Ok(()),
            0 => return Err(Failure::new(format!("the large file has {came} bytes, not {len}"))),
            read => came += read as u64,
        }
    }
}

/// The content of a small file.
fn small(i: usize, seed: u64) -> Vec<u8> {
    let mut content = vec![0; SMALL];
    Rng::new(seed.wrapping_mul(1 << 32).wrapping_add(i as u64)).fill(&mut content);
    content
}

fn write_files(folder: &Path, count: usize, seed: u64) -> Result<(), Failure> {
    fs::create_dir_all(folder).during(|| format!("making {}", folder.display()))?;
    for i in 0..count {
        fs::write(folder.join(i.to_string()), small(i, seed)).during(|| format!("writing small file {i}"))?;
    }
    Ok(())
}
