//! The times that one workload took on one subject, over the runs.

use std::time::Duration;

/// Times of one workload on one subject.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds a run's time.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The runs' times in seconds, in the order that they were made.
    pub fn seconds(&self) -> Vec<f64> {
        self.0.iter().map(Duration::as_secs_f64).collect()
    }

    /// How many runs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No run yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The median in seconds; the mean of the middle two for an even count.
    pub fn median_s(&self) -> Option<f64> {
        let mut sorted: Vec<f64> = self.0.iter().map(Duration::as_secs_f64).collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        let lower = *sorted.get(middle.checked_sub(1)?)?;
        Some((lower + upper) / 2.0)
    }

    /// Half the distance from the fastest run to the slowest, as a part of the median.
    pub fn spread(&self) -> Option<f64> {
        let median = self.median_s().filter(|m| *m > 0.0)?;
        let fastest = self.0.iter().min()?.as_secs_f64();
        let slowest = self.0.iter().max()?.as_secs_f64();
        Some((slowest - fastest) / 2.0 / median)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(ms: &[u64]) -> Samples {
        let mut samples = Samples::default();
        for &ms in ms {
            samples.push(Duration::from_millis(ms));
        }
        samples
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(samples(&[]).median_s(), None);
        assert_eq!(samples(&[30, 10, 20]).median_s(), Some(0.020));
        assert_eq!(samples(&[40, 10, 20, 30]).median_s(), Some(0.025));
    }

    #[test]
    fn spread_is_half_the_range() {
        let spread = samples(&[90, 100, 120]).spread().unwrap();
        assert!((spread - 0.15).abs() < 1e-9, "{spread}");
    }
}
