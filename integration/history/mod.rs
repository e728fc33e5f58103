//! The history checker: clients on several real daemons, whose network is cut, which are suspended
//! and killed, as a seed has it. All that the clients were told is written down, and must be what
//! one machine could have told (it is linearizable). Then everything heals: all nodes are
//! served again in time, what was acknowledged is there, and all have the same state.

mod check;
mod client;
mod model;
mod record;
mod schedule;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::failure::{Check, Stop, ensure};
use crate::lab::Lab;
use crate::report::Tally;
use client::{Client, Common};
use record::{Key, Line};

/// Length of the troubled part of a run.
const RUN: Duration = Duration::from_secs(20);
/// Within this every node is served again once all is well.
const LIVENESS: Duration = Duration::from_secs(60);
/// Clients of each node.
const CLIENTS: usize = 2;

/// How many runs, and how long.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amount {
    /// Runs, each with its own seed; else one of each kind.
    pub seeds: Option<u64>,
    /// Go on for so long, whatever the number.
    pub minutes: Option<u64>,
}

/// Runs seed after seed. With a filter, its words are the seeds.
pub fn run(lab: &Lab, amount: Amount, filter: &[String]) -> Tally {
    let mut tally = Tally::default();
    let wanted: Vec<u64> = filter.iter().filter_map(|word| word.parse().ok()).collect();
    let until =
        amount.minutes.or(lab.soak.then_some(60)).map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let count = amount.seeds.unwrap_or(3);
    let seeds: Box<dyn Iterator<Item = u64>> = match until {
        _ if !wanted.is_empty() => Box::new(wanted.into_iter()),
        Some(until) => Box::new((lab.seed..).take_while(move |_| Instant::now() < until)),
        None => Box::new(lab.seed..lab.seed.saturating_add(count)),
    };
    for seed in seeds {
        // Members with files, and witnesses.
        let members = match seed % 3 {
            0 => (2, 1),
            1 => (3, 0),
            _ => (5, 0),
        };
        let began = Instant::now();
        let result = one_seed(lab, seed, members);
        let nodes = match members {
            (nodes, 0) => format!("{nodes} nodes"),
            (nodes, _) => format!("{nodes} nodes and a witness"),
        };
        match &result {
            Ok(()) => println!("ok      seed {seed}, {nodes} ({:.1} s)", began.elapsed().as_secs_f32()),
            Err(Stop::Failed(reason)) => println!("FAILED  seed {seed}, {nodes}: {reason}"),
            Err(Stop::Skipped(reason)) => println!("skipped seed {seed}: {reason}"),
        }
        tally.count(&result);
        if tally.skipped > 0 {
            break;
        }
    }
    tally
}

fn one_seed(lab: &Lab, seed: u64, members: (usize, usize)) -> Check {
    lab.needs_mount()?;
    let cluster = Cluster::on_hosts(lab, members, "consistency=strict")?;
    let outcome = trouble(&cluster, seed);
    if outcome.is_err() {
        println!("    the daemons' last words:\n{}", cluster.last_words());
    }
    outcome?;
    cluster.finish()
}

fn trouble(cluster: &Cluster, seed: u64) -> Check {
    let common = Common::new();
    let events = schedule::schedule(seed, cluster.len(), RUN);
    let nodes = cluster.with_files();
    let mut clients: Vec<Client<'_>> =
        (0..nodes * CLIENTS).map(|number| Client::new(number, cluster.zone(number % nodes), seed, &common)).collect();
    let healed = std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| client.run());
        }
        let done = cluster.play(&events, RUN);
        common.stop.store(true, Ordering::Relaxed);
        // Whatever went wrong, clients must come back.
        let healed = cluster.heal();
        done.and(healed).map(|()| Instant::now())
    })?;
    let record: Vec<Line> = clients.iter().flat_map(|client| client.record.iter().cloned()).collect();
    let keys: Vec<Key> = record.iter().map(|line| line.key).collect::<BTreeSet<_>>().into_iter().collect();
    for client in clients.iter_mut().take(nodes) {
        while !client.is_served() {
            ensure!(
                healed.elapsed() < LIVENESS,
                "node {} is not served {LIVENESS:?} after all healed",
                client.node(nodes)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    let alive = healed.elapsed();
    std::thread::scope(|scope| {
        for client in clients.iter_mut().take(nodes) {
            scope.spawn(|| client.read_all(&keys));
        }
    });
    let record: Vec<Line> = clients.iter().flat_map(|client| client.record.iter().cloned()).collect();
    let unclear = record.iter().filter(|line| line.end == record::NEVER).count();
    let refused: usize = clients.iter().map(|client| client.refused).sum();
    let (things, wrong) = check::check(&record);
    println!(
        "    seed {seed}: {} troubles, {} calls on {things} things, {unclear} unanswered, {refused} refused; \
         all served {alive:.1?} after it healed",
        events.len() / 2,
        record.len(),
    );
    if let Some(first) = clients.iter().flat_map(|client| client.wrong.first()).next() {
        return Err(Stop::Failed(first.clone()));
    }
    for wrong in wrong.iter().skip(1) {
        println!("    {:?}: {}", wrong.key, wrong.why);
    }
    if let Some(first) = wrong.first() {
        return Err(Stop::Failed(format!("{} things are wrong; {:?}: {}", wrong.len(), first.key, first.why)));
    }
    ensure!(record.len() > 500, "only {} calls were answered", record.len());
    cluster.agree(LIVENESS)
}
