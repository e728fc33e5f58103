//! Requests, which cost money: how many there are, and that `status` tells them all.

use std::fs;

use super::bench::{Bench, expect, write};
use super::requests::Requests;
use crate::failure::{Check, ensure};
use crate::lab::Lab;
use crate::random::Random;

/// Small files, their size, and the most requests that storing them and reading them in order take.
const FILES: usize = 10_000;
const FILE_BYTES: usize = 4096;
const MOST_PUTS: u64 = 20;
const MOST_GETS: u64 = 40;

/// Many small files share requests; every request is told of; what is cached costs none.
pub fn bill(lab: &Lab) -> Check {
    let mut bench = Bench::new(lab)?;
    let folder = bench.path("small");
    fs::create_dir(&folder)?;
    let name = |number: usize| folder.join(format!("{number:05}"));
    let content = |number: usize| Random::new(lab.seed + number as u64).bytes(FILE_BYTES);
    let began = Told::of(&bench)?;
    let before = bench.proxy.requests();
    for number in 0..FILES {
        fs::write(name(number), content(number))?;
    }
    bench.flush()?;
    let stored = bench.proxy.requests().since(before);
    ensure!(stored.puts <= MOST_PUTS, "{stored:?} for {FILES} small files, at most {MOST_PUTS} puts expected");
    let large = write(&bench.path("large"), lab.seed, 40 << 20)?;
    bench.flush()?;
    began.check(&bench)?;
    bench.stop_and_forget()?;
    bench.mount.start()?;
    let start = bench.proxy.requests();
    for number in 0..FILES {
        ensure!(fs::read(name(number))? == content(number), "file {number} holds something else");
    }
    let read = bench.proxy.requests().since(start);
    println!("        {FILES} files of {FILE_BYTES} bytes: stored with {stored:?}, read in order with {read:?}");
    ensure!(read.gets <= MOST_GETS, "{read:?} for {FILES} small files, at most {MOST_GETS} gets expected");
    expect(&bench.path("large"), &large)?;
    // What was read once is here, also after a restart.
    for _ in 0..2 {
        let gets = bench.proxy.requests().gets;
        expect(&bench.path("large"), &large)?;
        ensure!(bench.proxy.requests().gets == gets, "what is cached was fetched again");
        bench.mount.stop()?;
        bench.mount.start()?;
    }
    bench.finish(&[])
}

/// What `status` told when so much had passed. Making the volume took a request more, before anybody counted.
struct Told {
    passed: Requests,
    told: Requests,
}

impl Told {
    fn of(bench: &Bench) -> Check<Told> {
        let told = Requests {
            puts: bench.told("puts")?,
            gets: bench.told("gets")?,
            lists: bench.told("lists")?,
            others: bench.told("heads")? + bench.told("deletes")?,
        };
        Ok(Told { passed: bench.proxy.requests(), told })
    }

    /// Fails unless `status` told of all that passed since.
    fn check(&self, bench: &Bench) -> Check {
        let now = Told::of(bench)?;
        let (passed, told) = (now.passed.since(self.passed), now.told.since(self.told));
        ensure!(passed == told, "status tells {told:?}, but {passed:?} passed");
        Ok(())
    }
}
