//! What goes wrong when: a function of the seed alone.

use std::time::Duration;

use crate::cluster::{Event, Fault};
use crate::random::Random;

/// Whether a fault keeps a node's daemon from being meddled with otherwise meanwhile.
fn holds(fault: Fault, node: usize) -> bool {
    matches!(fault, Fault::Suspended(held) | Fault::Killed(held) if held == node)
}

/// What happens to so many nodes in that time, in order. All has ended by then.
pub fn schedule(seed: u64, nodes: usize, length: Duration) -> Vec<Event> {
    let mut random = Random::new(seed ^ 0x5eed_fa17);
    let length = length.as_millis() as u64;
    let mut events = Vec::new();
    let mut taken: Vec<(u64, u64, Fault)> = Vec::new();
    // Two lines of trouble, the second of which is often quiet: so that faults overlap now and then.
    for line in 0..2u64 {
        let mut at = 1000 + line * 1500;
        loop {
            at += 300 + random.below(1500 + 3000 * line);
            let lasts = if random.one_in(3) { 2500 + random.below(2500) } else { 300 + random.below(1500) };
            if at + lasts >= length {
                break;
            }
            let first = random.below(nodes as u64) as usize;
            let second = (first + 1 + random.below(nodes as u64 - 1) as usize) % nodes;
            let fault = match random.below(if line == 0 { 10 } else { 6 }) {
                0 | 1 => Fault::Cut(first, second),
                2 | 3 => Fault::CutOneWay(first, second),
                4 | 5 => Fault::Unplugged(first),
                6 | 7 => Fault::Suspended(first),
                _ => Fault::Killed(first),
            };
            let overlaps = |(from, to, other): &(u64, u64, Fault)| {
                *from < at + lasts && at < *to && (0..nodes).any(|node| holds(fault, node) && holds(*other, node))
            };
            if !taken.iter().any(overlaps) {
                taken.push((at, at + lasts, fault));
                events.push(Event { at: Duration::from_millis(at), fault, begins: true });
                events.push(Event { at: Duration::from_millis(at + lasts), fault, begins: false });
            }
            at += lasts;
        }
    }
    events.sort_by_key(|event| (event.at, event.begins, event.fault));
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_is_the_same_trouble_and_all_of_it_ends() {
        let length = Duration::from_secs(60);
        assert_eq!(schedule(7, 3, length), schedule(7, 3, length));
        assert_ne!(schedule(7, 3, length), schedule(8, 3, length));
        let mut kinds = [0; 5];
        for seed in 0..50 {
            let mut wrong = Vec::new();
            for event in schedule(seed, 5, length) {
                assert!(event.at < length);
                if event.begins {
                    let (kind, nodes) = match event.fault {
                        Fault::Cut(a, b) => (0, vec![a, b]),
                        Fault::CutOneWay(a, b) => (1, vec![a, b]),
                        Fault::Unplugged(a) => (2, vec![a]),
                        Fault::Suspended(a) => (3, vec![a]),
                        Fault::Killed(a) => (4, vec![a]),
                    };
                    kinds[kind] += 1;
                    assert!(nodes.iter().all(|node| *node < 5) && (nodes.len() < 2 || nodes[0] != nodes[1]));
                    wrong.push(event.fault);
                } else {
                    let place = wrong.iter().position(|fault| *fault == event.fault).unwrap();
                    wrong.remove(place);
                }
            }
            assert!(wrong.is_empty());
        }
        assert!(kinds.iter().all(|count| *count > 20), "{kinds:?}");
    }
}
