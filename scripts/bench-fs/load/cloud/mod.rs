//! Content in S3: a volume whose content is in a bucket against a plain client of the same server
//! in the same run, against a volume on this disk, and against other file systems on the same server.

mod beside;
mod client;
mod peer;
mod server;
mod volume;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use nexus_bench::{Context, Failure, Report, Rng, Role, Unit};

use crate::crew::time_program;
use crate::interrupt::Interrupt;
use crate::small::{self, SMALL};
pub use beside::Part;
use client::Client;
use peer::Kind;
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
/// Columns.
const NEXUS: usize = 0;
const REFERENCE: usize = 1;
/// The first of the peers'.
const FIRST_PEER: usize = 2;
/// Rows that peers do too.
const WRITE: &str = "S3 sequential write";
const READ: &str = "S3 sequential read cold";
const READ_AT: &str = "S3 random read 4 KiB cold";
const UNTAR: &str = "S3 untar, against a volume on this disk";
const UNTAR_STORED: &str = "S3 untar until all is in the bucket";
const READ_SMALL: &str = "S3 small files read cold";

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
    /// What is done.
    pub parts: &'a [Part],
    /// Whether other file systems are measured too.
    pub peers: bool,
}

/// The table and the lines above it.
pub struct Outcome {
    /// The table.
    pub report: Report,
    /// What was counted.
    pub facts: Vec<(String, String)>,
    /// What peers lacked or failed at.
    pub failed: Vec<String>,
}

impl Bench<'_> {
    /// Does all of it `runs` times.
    pub fn run(&self, runs: usize) -> Result<Outcome, Failure> {
        let column = |name: &str, role| nexus_bench::Subject { name: name.to_owned(), role, transport: String::new() };
        let (peers, failed) = if self.peers { Kind::here() } else { (Vec::new(), Vec::new()) };
        let mut columns = vec![column("nexus", Role::Nexus), column("reference", Role::Local)];
        columns.extend(peers.iter().map(|kind| column(kind.name(), Role::Peer)));
        let mut outcome = Outcome { report: Report::new(columns), facts: Vec::new(), failed };
        let server = Server::start(self.folder)?;
        let client = Client::of(&server)?;
        let archive = small::archive(self.folder, self.amounts.tree_files, self.seed, self.interrupt)?;
        for run in 0..runs {
            outcome.facts.clear();
            let started = Instant::now();
            for &part in self.parts {
                if part == Part::Bill {
                    self.bill(run, &server, &mut outcome)?;
                    continue;
                }
                // Another one goes first in each run.
                let count = peers.len() + 1;
                for place in (0..count).map(|i| (i + run) % count) {
                    match place.checked_sub(1).and_then(|i| peers.get(i).map(|kind| (i, *kind))) {
                        Some((i, kind)) => {
                            self.beside(part, run, (kind, FIRST_PEER + i), &server, &archive, &mut outcome)?
                        }
                        None if part == Part::Large => self.large(run, &server, &client, &mut outcome)?,
                        None => self.untar(run, &server, &archive, &mut outcome)?,
                    }
                }
            }
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
            drop(write_all(&path, &parts)?);
            volume.flush()
        };
        let own = || -> Result<_, Failure> {
            let before = (volume.cpu(), server.cpu());
            let took = timed(|| write(&volume))?;
            outcome.spent("sequential write", before, (volume.cpu(), server.cpu()));
            Ok(took)
        };
        // What serves a plain client best is another way of sending with each server.
        let plain = || -> Result<_, Failure> {
            let before = server.cpu();
            let apart = timed(|| client.upload_apart(&object, &parts))?;
            let spent = server.cpu().saturating_sub(before);
            server.remove(&object)?;
            rustix::fs::sync();
            Ok((apart, spent, timed(|| client.upload(&object, &parts))?))
        };
        let (own, (apart, spent, multipart)) = self.both(run, own, plain)?;
        outcome.record(WRITE, Unit::Bytes(len), own, apart.min(multipart));
        let seconds = format!(
            "{:.2} s as objects of 8 MiB (of the server {:.2} s), {:.2} s as one in parts",
            apart.as_secs_f64(),
            spent.as_secs_f64(),
            multipart.as_secs_f64()
        );
        outcome.facts.push(("plain client, writing".to_owned(), seconds));
        outcome.count("sequential write", volume.requests()?);

        volume.remount_empty()?;
        let download = || -> Result<_, Failure> {
            let before = server.cpu();
            let took = timed(|| client.download(&object, len, PART as u64))?;
            Ok((took, server.cpu().saturating_sub(before)))
        };
        let own = || -> Result<_, Failure> {
            let before = (volume.cpu(), server.cpu());
            let took = timed(|| read_all(&path, len))?;
            outcome.spent("sequential read", before, (volume.cpu(), server.cpu()));
            Ok(took)
        };
        let (own, (plain, spent)) = self.both(run, own, download)?;
        let seconds = format!("{:.2} s (of the server {:.2} s)", plain.as_secs_f64(), spent.as_secs_f64());
        outcome.facts.push(("plain client, reading".to_owned(), seconds));
        outcome.record(READ, Unit::Bytes(len), own, plain);
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
        outcome.record(READ_AT, Unit::Latency, own, median(raw));
        outcome.record("S3 random read 4 KiB cold, against 64 KiB GETs", Unit::Latency, own, median(raw_frame));
        outcome.count(&format!("{READS} random reads"), volume.requests()?);
        server.remove(&object)?;
        self.remove(&name, volume, server)
    }

    /// Both in turn; another one goes first in each run.
    fn both<A, B>(
        &self,
        run: usize,
        own: impl FnOnce() -> Result<A, Failure>,
        reference: impl FnOnce() -> Result<B, Failure>,
    ) -> Result<(A, B), Failure> {
        rustix::fs::sync();
        self.interrupt.check()?;
        if run.is_multiple_of(2) {
            let own = own()?;
            rustix::fs::sync();
            Ok((own, reference()?))
        } else {
            let reference = reference()?;
            rustix::fs::sync();
            Ok((own()?, reference))
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

    /// Small files unpacked, against a volume on this disk, and read.
    fn untar(&self, run: usize, server: &Server, archive: &Path, outcome: &mut Outcome) -> Result<(), Failure> {
        let (far_name, near_name) = (format!("far-{run}"), format!("near-{run}"));
        let (mut far, near) = (self.volume(&far_name, Some(server))?, self.volume(&near_name, None)?);
        let unpack = |volume: &Volume| time_program(self.interrupt, &mut small::unpack(archive, &volume.point()));
        let own = || -> Result<_, Failure> {
            let (unpacked, _) = unpack(&far)?;
            Ok((unpacked, unpacked + timed(|| far.flush())?))
        };
        let ((own, stored), reference) = self.both(run, own, || unpack(&near).map(|(time, _)| time))?;
        outcome.record(UNTAR, Unit::Seconds, own, reference);
        outcome.report.record(UNTAR_STORED, Unit::Seconds, NEXUS, stored);
        outcome.count(&format!("untar of {} files", self.amounts.tree_files), far.requests()?);
        far.remount_empty()?;
        let files = self.amounts.tree_files;
        let read = timed(|| small::read_files(&far.point(), files, self.seed))?;
        outcome.report.record(READ_SMALL, Unit::Operations(files as u64), NEXUS, read);
        self.remove(&near_name, near, server)?;
        self.remove(&far_name, far, server)
    }

    /// What small files cost in requests.
    fn bill(&self, run: usize, server: &Server, outcome: &mut Outcome) -> Result<(), Failure> {
        let (name, files) = (format!("bill-{run}"), self.amounts.bill_files);
        let mut volume = self.volume(&name, Some(server))?;
        let folder = volume.point().join("files");
        small::write_files(&folder, files, self.seed)?;
        rustix::fs::sync();
        volume.flush()?;
        let puts = volume.requests()?.puts;
        volume.remount_empty()?;
        let before = volume.requests()?.gets;
        small::read_files(&folder, files, self.seed)?;
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

    /// Processor time of the daemon and of the server.
    fn spent(&mut self, what: &str, before: (Duration, Duration), after: (Duration, Duration)) {
        let seconds = |before: Duration, after: Duration| after.saturating_sub(before).as_secs_f64();
        let (daemon, server) = (seconds(before.0, after.0), seconds(before.1, after.1));
        self.facts.push((format!("processor time, {what}"), format!("daemon {daemon:.2} s, server {server:.2} s")));
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

fn write_all(path: &Path, parts: &[Bytes]) -> Result<File, Failure> {
    let mut file = File::create(path).during(|| "making the large file".to_owned())?;
    parts.iter().try_for_each(|part| file.write_all(part)).during(|| "writing the large file".to_owned())?;
    Ok(file)
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
