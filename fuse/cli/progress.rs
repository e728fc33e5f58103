//! How far something is that takes long: a bar on a terminal, else a line now and then.

use std::io::{IsTerminal, Write};

use nexus::config::ByteSize;

/// Places in the bar.
const BAR: u64 = 24;
/// Lines that are printed where there is no terminal, at the most.
const LINES: u64 = 10;

/// Bytes of which some are done.
pub struct Progress {
    total: u64,
    /// Tenths that were told.
    told: Option<u64>,
    is_terminal: bool,
}

impl Progress {
    /// Nothing of `total` bytes is done.
    pub fn new(total: u64) -> Progress {
        Progress { total, told: None, is_terminal: std::io::stderr().is_terminal() }
    }

    /// So many bytes are left. Nothing is told of nothing.
    pub fn left(&mut self, left: u64) {
        let done = self.total.saturating_sub(left);
        let tenth = part(done, self.total, LINES);
        if self.is_terminal && self.total > 0 {
            eprint!("\r{} {}   ", bar(done, self.total), text(done, self.total));
            let _ = std::io::stderr().flush();
        } else if self.total > 0 && self.told != Some(tenth) {
            eprintln!("{}", text(done, self.total));
        }
        self.told = Some(tenth);
    }

    /// Nothing more is told.
    pub fn end(self) {
        if self.is_terminal && self.told.is_some() && self.total > 0 {
            eprintln!();
        }
    }
}

fn part(done: u64, total: u64, parts: u64) -> u64 {
    let part = u128::from(done.min(total)) * u128::from(parts) / u128::from(total.max(1));
    u64::try_from(part).unwrap_or(parts)
}

fn bar(done: u64, total: u64) -> String {
    (0..BAR).map(|at| if at < part(done, total, BAR) { '#' } else { '.' }).collect()
}

fn text(done: u64, total: u64) -> String {
    format!("{} of {} sent", ByteSize(done), ByteSize(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_grows_and_is_full_only_at_the_end() {
        assert_eq!(bar(0, 100), "........................");
        assert_eq!(bar(50, 100), "############............");
        assert_eq!(bar(99, 100), "#######################.");
        assert_eq!(bar(100, 100), "########################");
        assert_eq!(bar(u64::MAX, u64::MAX).matches('#').count(), 24);
        assert_eq!(text(1 << 20, 3 << 20), "1 MiB of 3 MiB sent");
    }

    #[test]
    fn lines_are_few() {
        let tenths: std::collections::BTreeSet<u64> = (0..=1000).map(|done| part(done, 1000, LINES)).collect();
        assert_eq!(tenths.len(), 11);
    }
}
