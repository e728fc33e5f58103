//! Random commands on a local zone and on a zone without a log: answers, errors and states
//! must be the same, whatever is drained, cached, closed or killed in between.

use nexus_drivers::disk::SimDisk;
use nexus_drivers::metastore::MemoryMetastore;
use nexus_kernel::content::NoContent;
use nexus_kernel::direct_zone::DirectZone;
use nexus_kernel::{Name, SystemClock};

use super::*;

fn reference() -> DirectZone {
    let NewZone { id, hash_seed, mode, uid, gid } = NEW;
    let now = nexus_kernel::Clock::now(&Ticks::default());
    let format = Command::Format { id, hash_seed, mode, uid, gid, now };
    let parts = (Arc::new(MemoryMetastore::new()), Arc::new(NoContent), Arc::new(SystemClock));
    DirectZone::open_or_format_as(parts.0, parts.1, parts.2, &format).unwrap()
}

fn digest_of(zone: &dyn Zone) -> u128 {
    let mut digest = 0;
    zone.read(&mut |state| {
        digest = crate::digest(state)?;
        Ok(())
    })
    .unwrap();
    digest
}

/// What reads answer, asked without and within a consistent read.
fn assert_same_reads(zone: &LocalZone, model: &DirectZone, commands: &mut Commands) {
    for _ in 0..6 {
        let (ino, name) = commands.entry();
        assert_eq!(zone.inode(ino).unwrap(), model.inode(ino).unwrap());
        let name = Name::new(&name).unwrap();
        let found = zone.lookup(ino, name).unwrap();
        assert_eq!(found, model.lookup(ino, name).unwrap());
        zone.read(&mut |state| {
            assert_eq!(state.inode(ino)?, model.inode(ino)?);
            if state.inode(ino)?.is_some_and(|inode| inode.is_dir()) {
                assert_eq!(nexus_kernel::machine::find_dentry(state, NEW.hash_seed, ino, name.as_bytes())?, found);
            }
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(zone.usage().unwrap(), model.usage().unwrap());
}

fn run(seed: u64, steps: u64, config: ZoneConfig) {
    println!("seed {seed}");
    let mut disk = SimDisk::new();
    let (mut zone, mut content) = on_disk(&disk, config.clone()).unwrap();
    let model = reference();
    assert_eq!(zone.digest().unwrap(), digest_of(&model));
    let mut commands = Commands::new(seed);
    let mut applied = 0;
    for step in 0..steps {
        commands.look(&zone);
        let command = commands.next(&content);
        let (ours, theirs) = (zone.propose(&command), model.propose(&command));
        assert_eq!(ours, theirs, "seed {seed}, step {step}: {command:?}");
        applied += u64::from(ours.is_ok());
        assert_same_reads(&zone, &model, &mut commands);
        match commands.below(60) {
            0 => zone.checkpoint().unwrap(),
            1 => zone.sync().unwrap(),
            2 => {
                // A kill: the next process finds what was written, synced or not.
                disk = disk.fork();
                (zone, content) = on_disk(&disk, config.clone()).unwrap();
            }
            3 => {
                zone.close().unwrap();
                let log = zone.inner.log.clone();
                drop(zone);
                log.close().unwrap();
                (zone, content) = on_disk(&disk, config.clone()).unwrap();
            }
            4 => assert_eq!(zone.digest().unwrap(), digest_of(&model), "seed {seed}, step {step}"),
            _ => {}
        }
    }
    assert_eq!(zone.digest().unwrap(), digest_of(&model), "seed {seed}");
    assert!(applied > steps / 4, "too few commands went through: {applied} of {steps}");
}

#[test]
fn does_what_a_zone_without_a_log_does() {
    for seed in 1..=4 {
        run(seed, 1200, ZoneConfig { memtable_bytes: 60_000, ..zone_config() });
    }
}

#[test]
fn also_with_tiny_caches_and_many_drains() {
    for seed in 11..=13 {
        run(seed, 500, ZoneConfig { memtable_bytes: 6_000, cache_bytes: 0, ..zone_config() });
    }
}
