//! Which files are being written sequentially. Remembers a bounded number of them.

use std::collections::HashMap;

use nexus_kernel::Ino;

/// Files remembered in each of two generations.
const GENERATION: usize = 2048;
/// Farthest that a write may skip ahead and still belong to the run.
const SKIP_BYTES: u64 = 1 << 20;
/// Farthest that a write may come late and not end the run.
const LATE_BYTES: u64 = 4 << 20;

#[derive(Clone, Copy, Debug)]
struct Run {
    next: u64,
    bytes: u64,
}

/// Sequential runs by file.
#[derive(Default, Debug)]
pub struct Runs {
    young: HashMap<Ino, Run>,
    old: HashMap<Ino, Run>,
}

impl Runs {
    /// Notes a write; answers how many bytes the run has that it continues, 0 for one that
    /// comes late. The kernel writes back in order, but several requests are under way at
    /// once, so a run allows for some that overtake others.
    pub fn note(&mut self, ino: Ino, offset: u64, len: u64) -> u64 {
        let before = self.young.get(&ino).or_else(|| self.old.get(&ino)).copied();
        let end = offset.saturating_add(len);
        let (run, bytes) = match before {
            Some(run) if offset >= run.next && offset - run.next <= SKIP_BYTES => {
                let bytes = run.bytes.saturating_add(len);
                (Run { next: end, bytes }, bytes)
            }
            Some(run) if offset < run.next && run.next - offset <= LATE_BYTES && offset != 0 => (run, 0),
            Some(_) | None => (Run { next: end, bytes: len }, len),
        };
        if self.young.len() >= GENERATION && !self.young.contains_key(&ino) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(ino, run);
        bytes
    }

    /// Forgets a file.
    pub fn forget(&mut self, ino: Ino) {
        self.young.remove(&ino);
        self.old.remove(&ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_grows_until_the_file_is_written_elsewhere() {
        let mut runs = Runs::default();
        assert_eq!(runs.note(Ino(7), 0, 100), 100);
        assert_eq!(runs.note(Ino(7), 100, 100), 200);
        assert_eq!(runs.note(Ino(7), 300, 100), 300, "skipped ahead");
        assert_eq!(runs.note(Ino(7), 200, 100), 0, "came late");
        assert_eq!(runs.note(Ino(7), 400, 100), 400);
        assert_eq!(runs.note(Ino(7), 50 << 20, 10), 10);
        assert_eq!(runs.note(Ino(7), 0, 10), 10, "from the start again");
    }

    #[test]
    fn random_writes_in_a_small_file_make_no_run() {
        let seed = 0x0da7_aba5;
        let mut random = crate::testing::Random::new(seed);
        let mut runs = Runs::default();
        for _ in 0..100_000 {
            let bytes = runs.note(Ino(1), random.below(1024) * 4096, 4096);
            assert!(bytes < 256 << 10, "seed {seed:#x}: {bytes}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut runs = Runs::default();
        for ino in 0..100_000 {
            runs.note(Ino(ino), 0, 1);
            assert!(runs.young.len() + runs.old.len() <= 2 * GENERATION);
        }
    }
}
