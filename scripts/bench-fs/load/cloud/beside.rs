//! The rows that other file systems do on the same server.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use clap::ValueEnum;
use nexus_bench::{Context, Failure, Unit};

use super::peer::{Kind, Mounted};
use super::server::Server;
use super::{Bench, Outcome, PART, READ, READ_AT, READ_SMALL, UNTAR, UNTAR_STORED, WRITE};
use super::{median, read_all, timed, write_all};
use crate::crew::time_program;
use crate::small::{self, SMALL};

/// What is done by all before the next is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The large file.
    Large,
    /// The small files.
    Tree,
    /// What small files cost in requests, which no peer does.
    Bill,
}

impl Bench<'_> {
    /// Has one peer do one part. What it fails at is told, and no reason to stop.
    pub(super) fn beside(
        &self,
        part: Part,
        run: usize,
        (kind, column): (Kind, usize),
        server: &Server,
        archive: &Path,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let started = Instant::now();
        let name = format!("peer-{}-{part:?}-{run}", kind.name().replace(' ', "-")).to_lowercase();
        let done =
            Mounted::make(kind, &self.folder.join(&name), server, &name, self.interrupt).and_then(|mut mounted| {
                rustix::fs::sync();
                match part {
                    Part::Large => self.large_beside(run, column, &mut mounted, outcome)?,
                    Part::Tree => self.tree_beside(column, &mut mounted, archive, outcome)?,
                    Part::Bill => {}
                }
                mounted.remove()
            });
        match done.during(|| format!("{part:?} on {}", kind.name())) {
            Ok(()) => eprintln!("{part:?} on {}: {:.1} s", kind.name(), started.elapsed().as_secs_f64()),
            Err(failure) => {
                self.interrupt.check()?;
                eprintln!("{failure}");
                outcome.failed.push(failure.to_string());
            }
        }
        Ok(())
    }

    fn large_beside(
        &self,
        run: usize,
        column: usize,
        mounted: &mut Mounted,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let (parts, len) = (self.content(run), self.amounts.large_bytes);
        let path = mounted.point().join("large");
        let time = timed(|| {
            // Closing tells no failures.
            write_all(&path, &parts)?.sync_all().during(|| "syncing the large file".to_owned())?;
            mounted.stored(std::iter::once(("large".to_owned(), len)))
        })?;
        outcome.report.record(WRITE, Unit::Bytes(len), column, time);

        mounted.remount_empty()?;
        let time = timed(|| read_all(&path, len))?;
        outcome.report.record(READ, Unit::Bytes(len), column, time);

        mounted.remount_empty()?;
        let file = File::open(&path).during(|| "opening the large file".to_owned())?;
        let mut times = Vec::new();
        for offset in self.offsets(run) {
            self.interrupt.check()?;
            let mut read = [0; SMALL];
            times.push(timed(|| file.read_exact_at(&mut read, offset).during(|| "reading at random".to_owned()))?);
            let (part, at) = (offset as usize / PART, offset as usize % PART);
            if parts.get(part).and_then(|part| part.get(at..at + SMALL)) != Some(read.as_slice()) {
                return Err(Failure::new(format!("at {offset} it has other bytes than were written")));
            }
        }
        outcome.report.record(READ_AT, Unit::Latency, column, median(times));
        Ok(())
    }

    fn tree_beside(
        &self,
        column: usize,
        mounted: &mut Mounted,
        archive: &Path,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let files = self.amounts.tree_files;
        let started = Instant::now();
        let (unpacked, _) = time_program(self.interrupt, &mut small::unpack(archive, &mounted.point()))?;
        mounted.stored((0..files).map(|i| (i.to_string(), SMALL as u64)))?;
        let stored = started.elapsed();
        outcome.report.record(UNTAR, Unit::Seconds, column, unpacked);
        outcome.report.record(UNTAR_STORED, Unit::Seconds, column, stored);
        mounted.remount_empty()?;
        let read = timed(|| small::read_files(&mounted.point(), files, self.seed))?;
        outcome.report.record(READ_SMALL, Unit::Operations(files as u64), column, read);
        Ok(())
    }
}
