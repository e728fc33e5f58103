//! [`Slots`]: how many requests are under way. Decides only.

use std::collections::VecDeque;

use super::Urgency;

/// Who waits to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u64, Urgency);

/// Places for requests, given in the order in which they are asked for; demand first. What is read
/// ahead leaves one place free where there are several, so that demand waits for no large request.
#[derive(Debug, Default)]
pub struct Slots {
    most: Option<u32>,
    used: u32,
    used_ahead: u32,
    demand: VecDeque<u64>,
    ahead: VecDeque<u64>,
    last: u64,
}

impl Slots {
    /// At most so many from now on. Those under way go on.
    pub fn set(&mut self, most: Option<u32>) {
        self.most = most.map(|most| most.max(1));
    }

    /// Someone wants to begin; to enter when it may, or to leave.
    pub fn join(&mut self, urgency: Urgency) -> Ticket {
        self.last += 1;
        let id = self.last;
        self.queue(urgency).push_back(id);
        Ticket(id, urgency)
    }

    /// Begins, if it may.
    pub fn enter(&mut self, ticket: Ticket) -> bool {
        let Ticket(id, urgency) = ticket;
        let may = match self.most {
            None => true,
            Some(most) => {
                let is_next = self.queue(urgency).front() == Some(&id);
                let is_free = match urgency {
                    Urgency::Demand => self.used < most,
                    Urgency::Ahead => self.demand.is_empty() && self.used < most && self.used_ahead < (most - 1).max(1),
                };
                is_next && is_free
            }
        };
        if may {
            self.queue(urgency).retain(|other| *other != id);
            self.used += 1;
            self.used_ahead += u32::from(urgency == Urgency::Ahead);
        }
        may
    }

    /// It does not want to begin any more.
    pub fn leave(&mut self, ticket: Ticket) {
        self.queue(ticket.1).retain(|other| *other != ticket.0);
    }

    /// One that had entered has ended.
    pub fn end(&mut self, urgency: Urgency) {
        self.used = self.used.saturating_sub(1);
        self.used_ahead = self.used_ahead.saturating_sub(u32::from(urgency == Urgency::Ahead));
    }

    /// How many wait.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.demand.len() + self.ahead.len()
    }

    fn queue(&mut self, urgency: Urgency) -> &mut VecDeque<u64> {
        match urgency {
            Urgency::Demand => &mut self.demand,
            Urgency::Ahead => &mut self.ahead,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_in_order_and_demand_comes_first() {
        let mut slots = Slots::default();
        slots.set(Some(2));
        let [first, second, third] = [(); 3].map(|()| slots.join(Urgency::Ahead));
        assert!(!slots.enter(second), "it is not its turn");
        assert!(slots.enter(first));
        assert!(!slots.enter(second), "the other place is for demand");
        let [one, two] = [(); 2].map(|()| slots.join(Urgency::Demand));
        assert!(slots.enter(one));
        assert!(!slots.enter(two), "both are taken");
        slots.end(Urgency::Ahead);
        assert!(!slots.enter(second), "demand waits");
        assert!(slots.enter(two));
        slots.end(Urgency::Demand);
        slots.leave(second);
        assert!(slots.enter(third));
        slots.end(Urgency::Demand);
        slots.end(Urgency::Ahead);
        assert_eq!((slots.used, slots.used_ahead), (0, 0));
    }

    #[test]
    fn one_place_serves_both_and_none_is_no_limit() {
        let mut slots = Slots::default();
        slots.set(Some(1));
        let (ahead, demand) = (slots.join(Urgency::Ahead), slots.join(Urgency::Demand));
        assert!(!slots.enter(ahead) && slots.enter(demand));
        slots.end(Urgency::Demand);
        assert!(slots.enter(ahead));
        slots.set(None);
        for _ in 0..100 {
            let more = slots.join(Urgency::Ahead);
            assert!(slots.enter(more));
        }
    }
}
