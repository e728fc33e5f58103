//! Decides from what was done and what is there whether a crash lost anything it must not.
//!
//! Each worker's folder must look as after some prefix of its actions (I3), one that holds
//! at least all that was promised: every acknowledged action after SIGKILL (I1), every one
//! up to the last acknowledged fsync after power loss (I2). The prefixes together must be a
//! prefix of what all did: an action that began after another was acknowledged is not there
//! without it.

use crate::crash::shadow::{Action, Shadow};
use crate::crash::worker::Step;
use crate::failure::{Check, Stop};
use crate::tree::{self, Tree};

/// What an acknowledgement promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// The action survives.
    EveryAction,
    /// The actions before an fsync survive.
    EverySync,
}

/// How many of a worker's actions survived: at least and at most, as some change nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Survived {
    /// Certainly there.
    pub least: usize,
    /// More are certainly not.
    pub most: usize,
}

/// Finds which prefix of `steps` from `base` on `found` shows. Answers the folder after it.
pub fn judge(base: &Shadow, steps: &[Step], found: &Tree, promise: Promise) -> Check<(Survived, Shadow)> {
    let promised = steps.iter().rposition(|step| {
        step.acked.is_some() && (promise == Promise::EveryAction || matches!(step.action, Action::Sync { .. }))
    });
    let promised = promised.map_or(0, |index| index + 1);
    let mut shadow = base.clone();
    let mut survived: Option<(Survived, Shadow)> = None;
    let mut closest: Option<(usize, Vec<String>)> = None;
    let mut look = |count: usize, shadow: &Shadow| {
        let differences = tree::differences(found, &shadow.tree(), |_, _| true);
        if differences.is_empty() {
            let least = survived.as_ref().map_or(count, |(survived, _)| survived.least);
            survived = Some((Survived { least, most: count }, shadow.clone()));
        } else if closest.as_ref().is_none_or(|(_, lines)| differences.len() < lines.len()) {
            closest = Some((count, differences));
        }
    };
    if promised == 0 {
        look(0, &shadow);
    }
    for (index, step) in steps.iter().enumerate() {
        if index >= promised {
            for part in parts(&step.action) {
                shadow.apply(&part);
                look(index, &shadow);
            }
        }
        shadow.apply(&step.action);
        if index + 1 >= promised {
            look(index + 1, &shadow);
        }
    }
    survived.ok_or_else(|| {
        let (count, lines) = closest.unwrap_or_default();
        let last: Vec<String> = steps.iter().take(count).rev().take(4).map(|step| brief(&step.action)).collect();
        Stop::Failed(format!(
            "{} actions, {promised} promised: the folder looks like no prefix of them; closest is {count} \
             (last of them, backwards: {}), found against expected: {}",
            steps.len(),
            last.join(", "),
            lines.join("; ")
        ))
    })
}

/// The heads of an action that the kernel may ask for in several requests: of a write, all
/// that end with a page of the file. Each contains the one before.
fn parts(action: &Action) -> Vec<Action> {
    const PAGE: usize = 4096;
    let Action::Write { name, offset, bytes } = action else { return Vec::new() };
    let first = PAGE - offset % PAGE;
    let head = |len: usize| bytes.get(..len).map(<[u8]>::to_vec);
    let heads = (first..bytes.len()).step_by(PAGE).filter_map(head);
    heads.map(|bytes| Action::Write { name: name.clone(), offset: *offset, bytes }).collect()
}

/// Holds the workers' prefixes against each other.
pub fn judge_order(workers: &[(Vec<Step>, Survived)]) -> Check {
    let newest =
        workers.iter().flat_map(|(steps, survived)| steps.iter().take(survived.least)).max_by_key(|step| step.started);
    let Some(newest) = newest else { return Ok(()) };
    for (index, (steps, survived)) in workers.iter().enumerate() {
        let lost = steps.iter().skip(survived.most).find(|step| step.acked.is_some_and(|acked| acked < newest.started));
        if let Some(lost) = lost {
            return Err(Stop::Failed(format!(
                "no prefix: {} of worker {index} was acknowledged before {} began, which is there without it",
                brief(&lost.action),
                brief(&newest.action)
            )));
        }
    }
    Ok(())
}

fn brief(action: &Action) -> String {
    match action {
        Action::Write { name, offset, bytes } => format!("Write {{ {name:?}, {offset}, {} bytes }}", bytes.len()),
        Action::SetXattr { name, value } => format!("SetXattr {{ {name:?}, {} bytes }}", value.len()),
        other => format!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(acked: usize) -> Vec<Step> {
        let names = ["a", "b", "c"];
        let actions = names.iter().map(|name| Action::Create { name: (*name).to_owned() });
        let with_sync = actions.take(2).chain([Action::Sync { name: "a".into() }, Action::Create { name: "c".into() }]);
        with_sync
            .enumerate()
            .map(|(index, action)| {
                let started = 2 * index as u64;
                Step { action, started, acked: (index < acked).then_some(started + 1) }
            })
            .collect()
    }

    fn after(count: usize) -> Tree {
        let mut shadow = Shadow::new();
        for step in steps(4).iter().take(count) {
            shadow.apply(&step.action);
        }
        shadow.tree()
    }

    #[test]
    fn a_lost_acknowledged_action_is_found() {
        assert!(judge(&Shadow::new(), &steps(4), &after(3), Promise::EveryAction).is_err());
        assert!(judge(&Shadow::new(), &steps(4), &after(4), Promise::EveryAction).is_ok());
    }

    #[test]
    fn the_one_in_flight_may_be_there_or_not() {
        for count in [3, 4] {
            let (survived, _) = judge(&Shadow::new(), &steps(3), &after(count), Promise::EveryAction).unwrap();
            assert_eq!(survived.most, count);
        }
    }

    #[test]
    fn a_write_in_flight_may_be_there_up_to_a_page() {
        let base = {
            let mut shadow = Shadow::new();
            shadow.apply(&Action::Create { name: "a".into() });
            shadow
        };
        let write = |len: usize| Action::Write { name: "a".into(), offset: 100, bytes: vec![7; len] };
        let step = Step { action: write(10_000), started: 0, acked: None };
        for (len, fine) in [(0, true), (3996, true), (8092, true), (10_000, true), (5000, false)] {
            let mut shadow = base.clone();
            shadow.apply(&write(len));
            let found = if len == 0 { base.tree() } else { shadow.tree() };
            let steps = std::slice::from_ref(&step);
            assert_eq!(judge(&base, steps, &found, Promise::EveryAction).is_ok(), fine, "{len}");
        }
    }

    #[test]
    fn power_loss_may_take_what_was_not_synced_but_no_more() {
        let base = Shadow::new();
        assert!(judge(&base, &steps(4), &after(3), Promise::EverySync).is_ok());
        assert!(judge(&base, &steps(4), &after(1), Promise::EverySync).is_err());
    }

    #[test]
    fn a_gap_is_no_prefix() {
        let mut gap = Shadow::new();
        gap.apply(&Action::Create { name: "b".into() });
        assert!(judge(&Shadow::new(), &steps(0), &gap.tree(), Promise::EveryAction).is_err());
    }

    #[test]
    fn workers_must_agree_on_the_order() {
        let lost = (steps(4), Survived { least: 0, most: 0 });
        let kept = (steps(4), Survived { least: 4, most: 4 });
        assert!(judge_order(&[lost, kept.clone()]).is_err());
        assert!(judge_order(&[kept.clone(), kept]).is_ok());
    }
}
