//! Makes a failing sequence short: drops what it fails without.

use std::time::{Duration, Instant};

use crate::failure::Check;

/// Most tries of one search.
const MAX_TRIES: usize = 1500;

/// A subsequence of `items` on which `fails` still answers `true`, from which no single item
/// can be dropped, unless the search ran out of tries or time.
pub fn shrink<T: Clone>(items: &[T], limit: Duration, mut fails: impl FnMut(&[T]) -> Check<bool>) -> Check<Vec<T>> {
    let start = Instant::now();
    let mut tries = 0;
    let mut best = items.to_vec();
    let mut chunk = best.len().div_ceil(2).max(1);
    loop {
        let mut shorter = false;
        let mut at = 0;
        while at < best.len() {
            if tries >= MAX_TRIES || start.elapsed() > limit {
                return Ok(best);
            }
            tries += 1;
            let kept = best.iter().take(at).chain(best.iter().skip(at + chunk));
            let candidate: Vec<T> = kept.cloned().collect();
            if !candidate.is_empty() && fails(&candidate)? {
                best = candidate;
                shorter = true;
            } else {
                at += chunk;
            }
        }
        match (chunk, shorter) {
            (1, false) => return Ok(best),
            (1, true) => {}
            _ => chunk = chunk.div_ceil(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_goes() {
        let items: Vec<u32> = (0..300).collect();
        let short = shrink(&items, Duration::from_secs(60), |some| {
            Ok(some.contains(&17)
                && some.contains(&202)
                && some.iter().position(|n| *n == 17) < some.iter().position(|n| *n == 202))
        });
        assert_eq!(short, Ok(vec![17, 202]));
    }

    #[test]
    fn a_single_item_stays() {
        assert_eq!(shrink(&[5], Duration::from_secs(60), |some| Ok(some == [5])), Ok(vec![5]));
    }
}
