//! Many threads at once: every reader sees what some writer wrote, while the collector works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nexus_kernel::Zone;
use nexus_kernel::content::ContentSync;

use super::rig::{Model, Rig};
use crate::testing::Random;
use crate::{ReclaimConfig, Reclaimer};

const WRITERS: u64 = 4;

#[test]
fn writers_readers_and_the_collector_do_not_disturb_each_other() {
    let rig = Arc::new(Rig::new());
    let zones: Vec<Arc<dyn Zone>> = vec![rig.zone.clone()];
    let config = ReclaimConfig { interval_ms: 1, rest_percent: 0, drop_grace_ms: 0, ..super::rig::eager() };
    let thread =
        Reclaimer::new(rig.store.clone(), crate::ZoneSet::new(zones), rig.clock.clone(), config).spawn().unwrap();
    let seed = 0x7ead_5eed_u64;
    let done = Arc::new(AtomicBool::new(false));
    let syncer = {
        let (rig, done) = (rig.clone(), done.clone());
        std::thread::spawn(move || {
            while !done.load(Ordering::SeqCst) {
                rig.store.sync().unwrap();
                rig.clock.advance_ms(1000);
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let rig = rig.clone();
            std::thread::spawn(move || {
                let mut random = Random::new(seed + writer);
                let mut model = Model::default();
                for step in 0..250 {
                    model.step(&rig, &mut random).unwrap();
                    if step % 10 == 0 {
                        model.assert_same(&rig, &format!("seed {seed:#x}, writer {writer}, step {step}"));
                    }
                }
                model
            })
        })
        .collect();
    let models: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
    done.store(true, Ordering::SeqCst);
    syncer.join().unwrap();
    thread.stop();
    for (writer, model) in models.iter().enumerate() {
        model.assert_same(&rig, &format!("seed {seed:#x}, writer {writer}, end"));
    }
    rig.assert_sound("after all");
    let again = rig.killed().unwrap();
    for model in &models {
        model.assert_same(&again, "after a kill");
    }
    again.collect().unwrap();
    again.assert_sound("after a kill");
}
