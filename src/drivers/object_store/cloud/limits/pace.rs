//! [`Pace`]: bytes a second, shared out fairly. Decides only; who waits is told for how long, and time is
//! given, so that a test can hold it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::Urgency;

/// Bytes that one turn pays for: this part of a second's, within bounds.
const TURNS_A_SECOND: u64 = 50;
/// Fewest and most bytes of a turn.
const TURN_BYTES: (u64, u64) = (512, 256 << 10);
/// Part of a second's bytes that are saved up while nobody wants any: the longest burst.
const SAVED: u64 = 4;
/// Of so many turns one is for what is read ahead, however much is demanded.
const SHARE: u32 = 8;
/// Longest time after which who waits asks again, so that a changed rate counts soon.
const LONGEST: Duration = Duration::from_millis(250);
/// Shortest time.
const SHORTEST: Duration = Duration::from_millis(1);

/// Who waits to have its bytes paid.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Payer(u64);

/// A bucket of tokens, a byte each, that fills at a rate. Requests are paid for before they begin, in
/// turns: a small one waits for one turn of each of those before it, however large they are.
#[derive(Debug, Default)]
pub struct Pace {
    /// Bytes a second; as fast as it goes if not said.
    rate: Option<u64>,
    tokens: f64,
    filled: Duration,
    demand: VecDeque<(Payer, u64)>,
    ahead: VecDeque<(Payer, u64)>,
    paid: BTreeSet<Payer>,
    turns: u32,
    last: u64,
}

impl Pace {
    /// From now on at this rate.
    pub fn set(&mut self, now: Duration, rate: Option<u64>) {
        self.fill(now);
        self.rate = rate.map(|rate| rate.max(1));
    }

    /// Someone wants to send or fetch `bytes`; to be asked until they are paid, or to leave.
    pub fn join(&mut self, now: Duration, bytes: u64, urgency: Urgency) -> Payer {
        self.fill(now);
        self.last += 1;
        let payer = Payer(self.last);
        match (bytes, urgency) {
            (0, _) => drop(self.paid.insert(payer)),
            (_, Urgency::Demand) => self.demand.push_back((payer, bytes)),
            (_, Urgency::Ahead) => self.ahead.push_back((payer, bytes)),
        }
        payer
    }

    /// Whether it is paid; else when to ask again.
    pub fn ask(&mut self, now: Duration, payer: Payer) -> Result<(), Duration> {
        self.fill(now);
        self.take_turns();
        if self.paid.remove(&payer) {
            return Ok(());
        }
        let missing = (self.turn_bytes() as f64 - self.tokens).max(0.0);
        let wait = missing / self.rate.unwrap_or(u64::MAX) as f64;
        Err(Duration::try_from_secs_f64(wait).unwrap_or(LONGEST).clamp(SHORTEST, LONGEST))
    }

    /// It does not want them any more. What it has paid is gone.
    pub fn leave(&mut self, payer: Payer) {
        self.demand.retain(|(other, _)| *other != payer);
        self.ahead.retain(|(other, _)| *other != payer);
        self.paid.remove(&payer);
    }

    /// How many wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.demand.len() + self.ahead.len()
    }

    fn turn_bytes(&self) -> u64 {
        (self.rate.unwrap_or(u64::MAX) / TURNS_A_SECOND).clamp(TURN_BYTES.0, TURN_BYTES.1)
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled);
        self.filled = self.filled.max(now);
        if let Some(rate) = self.rate {
            let most = (rate / SAVED).max(self.turn_bytes()) as f64;
            self.tokens = (self.tokens + passed.as_secs_f64() * rate as f64).min(most);
        }
    }

    fn take_turns(&mut self) {
        let turn_bytes = self.turn_bytes();
        loop {
            let is_share = self.turns % SHARE == SHARE - 1;
            let queue = match (self.demand.is_empty(), self.ahead.is_empty()) {
                (true, true) => return,
                (true, false) => &mut self.ahead,
                (false, true) => &mut self.demand,
                (false, false) if is_share => &mut self.ahead,
                (false, false) => &mut self.demand,
            };
            let Some((payer, left)) = queue.pop_front() else { return };
            let turn = if self.rate.is_some() { left.min(turn_bytes) } else { left };
            if self.rate.is_some() {
                if self.tokens < turn as f64 {
                    queue.push_front((payer, left));
                    return;
                }
                self.tokens -= turn as f64;
            }
            self.turns = self.turns.wrapping_add(1);
            if left > turn {
                queue.push_back((payer, left - turn));
            } else {
                self.paid.insert(payer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: u64 = 1_000_000;

    /// Asks for all until they are paid; answers when each was, and in which order.
    fn run(pace: &mut Pace, mut payers: Vec<Payer>, mut now: Duration) -> Vec<(Payer, Duration)> {
        let mut paid = Vec::new();
        while !payers.is_empty() {
            let mut next = LONGEST;
            payers.retain(|payer| match pace.ask(now, *payer) {
                Ok(()) => {
                    paid.push((*payer, now));
                    false
                }
                Err(wait) => {
                    assert!(wait >= SHORTEST && wait <= LONGEST);
                    next = next.min(wait);
                    true
                }
            });
            now += next;
        }
        paid
    }

    fn limited() -> Pace {
        let mut pace = Pace::default();
        pace.set(Duration::ZERO, Some(RATE));
        pace
    }

    #[test]
    fn the_rate_is_kept_with_a_short_burst_at_most() {
        let mut pace = limited();
        let payers = (0..20).map(|_| pace.join(Duration::ZERO, RATE, Urgency::Demand)).collect();
        let end = run(&mut pace, payers, Duration::ZERO).last().unwrap().1.as_secs_f64();
        assert!((19.7..20.3).contains(&end), "{end}");
        // Nobody came for long: no more than a quarter of a second is saved.
        let later = Duration::from_secs(1000);
        let payer = pace.join(later, RATE, Urgency::Demand);
        let end = (run(&mut pace, vec![payer], later)[0].1 - later).as_secs_f64();
        assert!((0.7..0.8).contains(&end), "{end}");
    }

    #[test]
    fn small_requests_do_not_wait_for_large_ones() {
        let mut pace = limited();
        let large = pace.join(Duration::ZERO, 100 * RATE, Urgency::Demand);
        let small = pace.join(Duration::ZERO, 4096, Urgency::Demand);
        let (first, at) = run(&mut pace, vec![large, small], Duration::ZERO)[0];
        assert!(first == small && at < Duration::from_millis(100), "{at:?}");
    }

    #[test]
    fn demand_goes_before_what_is_read_ahead_which_still_moves() {
        let mut pace = limited();
        let ahead: Vec<_> = (0..8).map(|_| pace.join(Duration::ZERO, RATE, Urgency::Ahead)).collect();
        let demand = pace.join(Duration::ZERO, RATE, Urgency::Demand);
        let paid = run(&mut pace, [ahead.clone(), vec![demand]].concat(), Duration::ZERO);
        assert_eq!(paid[0].0, demand);
        // Seven of eight turns were its own.
        assert!(paid[0].1 < Duration::from_millis(1250), "{:?}", paid[0].1);
        // And demand without end leaves one of eight to the other.
        let mut pace = limited();
        let ahead = pace.join(Duration::ZERO, RATE, Urgency::Ahead);
        let demand = pace.join(Duration::ZERO, 100 * RATE, Urgency::Demand);
        let (first, at) = run(&mut pace, vec![ahead, demand], Duration::ZERO)[0];
        assert!(first == ahead && at < Duration::from_secs(9), "{at:?}");
    }

    #[test]
    fn a_rate_that_is_set_counts_for_those_who_wait() {
        let mut pace = Pace::default();
        let free = pace.join(Duration::ZERO, u64::MAX, Urgency::Ahead);
        assert_eq!(pace.ask(Duration::ZERO, free), Ok(()));
        pace.set(Duration::ZERO, Some(1));
        let slow = pace.join(Duration::ZERO, RATE, Urgency::Demand);
        assert!(pace.ask(Duration::from_secs(60), slow).is_err());
        pace.set(Duration::from_secs(61), None);
        assert_eq!(pace.ask(Duration::from_secs(61), slow), Ok(()));
    }

    #[test]
    fn who_leaves_is_forgotten() {
        let mut pace = limited();
        for urgency in [Urgency::Demand, Urgency::Ahead] {
            let gone = pace.join(Duration::ZERO, u64::MAX, urgency);
            pace.leave(gone);
        }
        let gone = pace.join(Duration::ZERO, 0, Urgency::Demand);
        pace.leave(gone);
        assert!(pace.demand.is_empty() && pace.ahead.is_empty() && pace.paid.is_empty());
    }
}
