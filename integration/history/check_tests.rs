//! Records that are linearizable, and such that are not.

use super::*;
use crate::history::record::Moved;
use crate::random::Random;

fn lines(key: Key, calls: &[(u64, u64, Call)]) -> Vec<Line> {
    let line = |(client, (start, end, call)): (usize, &(u64, u64, Call))| Line {
        client,
        key,
        call: call.clone(),
        start: *start,
        end: *end,
    };
    calls.iter().enumerate().map(line).collect()
}

fn holds(key: Key, calls: &[(u64, u64, Call)]) -> bool {
    check(&lines(key, calls)).1.is_empty()
}

#[test]
fn a_register_is_never_stale() {
    let key = Key::Register(1);
    let (w, r) = (Call::Write, Call::Read);
    assert!(holds(key, &[(0, 10, w(1)), (5, 6, r(0)), (7, 8, r(1)), (11, 12, r(1))]));
    assert!(!holds(key, &[(0, 10, w(1)), (11, 12, r(0))]), "a stale read");
    assert!(!holds(key, &[(0, 20, w(1)), (1, 2, r(1)), (3, 4, r(0))]), "seen, and gone again");
    assert!(!holds(key, &[(0, 1, w(1)), (2, 3, r(7))]), "a value from nowhere");
    let late = [(0, NEVER, w(1)), (2, 3, w(2)), (4, 5, r(2)), (6, 7, r(1)), (8, 9, r(1))];
    assert!(holds(key, &late), "what nobody answered may come late");
    assert!(!holds(key, &[late.as_slice(), &[(10, 11, r(2))]].concat()), "but only once");
}

#[test]
fn one_of_those_who_make_a_name_wins() {
    let key = Key::Names(1);
    let make = |file, won| Call::Make { slot: 0, file, won };
    let unlink = |won| Call::Unlink { slot: 0, won };
    assert!(holds(key, &[(0, 9, make(Some(5), true)), (1, 8, make(None, false)), (10, 11, unlink(true))]));
    assert!(!holds(key, &[(0, 9, make(Some(5), true)), (1, 8, make(Some(6), true))]), "two made it");
    assert!(!holds(key, &[(0, 1, make(Some(5), true)), (2, 4, unlink(true)), (3, 5, unlink(true))]), "two removed it");
    assert!(!holds(key, &[(0, 1, make(None, false))]), "refused, for nothing");
    let unclear =
        [(0, NEVER, make(None, true)), (1, 2, make(Some(5), true)), (3, 4, unlink(true)), (5, 6, unlink(true))];
    assert!(holds(key, &unclear), "the one that nobody answered was made between the two");
    let look = |file| Call::Look { slot: 0, file };
    assert!(holds(key, &[(0, NEVER, make(None, true)), (1, 2, look(Some(8))), (3, 4, look(Some(8)))]));
    assert!(
        !holds(key, &[(0, NEVER, make(None, true)), (1, 2, look(Some(8))), (3, 4, look(Some(9)))]),
        "one has one number"
    );
    assert!(!holds(key, &[(0, 1, make(Some(5), true)), (2, 3, look(None))]));
}

#[test]
fn what_moves_is_at_one_name() {
    let key = Key::Names(1);
    let put = |file| Call::Put { slot: 0, file };
    let look = |slot, file| Call::Look { slot, file };
    let step = |answer| Call::Move { from: 0, answer };
    assert!(holds(key, &[(0, 1, put(5)), (2, 3, step(Moved::Done)), (4, 5, look(1, Some(5))), (6, 7, look(0, None))]));
    assert!(!holds(key, &[(0, 1, put(5)), (2, 3, step(Moved::Done)), (4, 5, look(0, Some(5)))]), "the old name");
    assert!(!holds(key, &[(0, 1, put(5)), (2, 9, step(Moved::Done)), (3, 8, step(Moved::Done))]), "moved twice");
    assert!(holds(key, &[(0, 1, put(5)), (2, 9, step(Moved::Done)), (3, 8, step(Moved::NoSource))]));
    assert!(!holds(key, &[(0, 1, put(5)), (2, 3, step(Moved::TargetThere))]));
    let take = |file, won| Call::Take { slot: 0, file, won };
    assert!(holds(key, &[(0, 1, put(5)), (2, 9, take(Some(5), true)), (3, 8, take(None, false))]));
    assert!(!holds(key, &[(0, 1, put(5)), (2, 3, put(6)), (4, 5, take(Some(5), true))]), "took what was replaced");
}

#[test]
fn what_is_appended_stays_in_its_place() {
    let key = Key::Log(1);
    let read = |seen: &[u64]| Call::ReadLog(seen.to_vec());
    let a = Call::Append;
    assert!(holds(key, &[(0, 9, a(1)), (1, 8, a(2)), (10, 11, read(&[2, 1])), (12, 13, read(&[2, 1]))]));
    assert!(!holds(key, &[(0, 9, a(1)), (1, 8, a(2)), (10, 11, read(&[2, 1])), (12, 13, read(&[1, 2]))]));
    assert!(!holds(key, &[(0, 1, a(1)), (2, 3, a(2)), (4, 5, read(&[2]))]), "one is lost");
    assert!(holds(key, &[(0, NEVER, a(1)), (2, 3, a(2)), (4, 5, read(&[2])), (6, 7, read(&[2, 1]))]));
    assert!(!holds(key, &[(0, NEVER, a(1)), (2, 3, a(2)), (4, 5, read(&[2, 1])), (6, 7, read(&[2, 1, 1]))]));
}

/// Records made from an order are accepted, also large ones with much at once.
#[test]
fn what_has_an_order_is_accepted() {
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let (mut state, mut record) = (State::Slots([None, None]), Vec::new());
        for number in 0..600u64 {
            let slot = random.below(2) as usize;
            let there = |slot: usize| match &state {
                State::Slots(slots) => slots.get(slot).copied().flatten(),
                _ => None,
            };
            let call = match random.below(6) {
                0 => Call::Make { slot, file: Some(number), won: there(slot).is_none() },
                1 => Call::Put { slot, file: number },
                2 => Call::Take { slot, file: there(slot), won: there(slot).is_some() },
                3 => Call::Unlink { slot, won: there(slot).is_some() },
                4 => Call::Move {
                    from: slot,
                    answer: match (there(slot), there(1 - slot)) {
                        (None, _) => Moved::NoSource,
                        (_, Some(_)) => Moved::TargetThere,
                        _ => Moved::Done,
                    },
                },
                _ => Call::Look { slot, file: there(slot) },
            };
            let at = number * 100;
            let (start, end) = (at.saturating_sub(random.below(700)), at + 1 + random.below(700));
            let end = if random.one_in(40) { NEVER } else { end };
            let line = Line { client: 0, key: Key::Names(0), call, start, end };
            if let Next::Changed(next) = state.after(&Line { end: at + 1, ..line.clone() }, number as usize) {
                state = next;
            }
            record.push(line);
        }
        let (_, wrong) = check(&record);
        assert!(wrong.is_empty(), "seed {seed}: {}", wrong[0].why);
    }
}
