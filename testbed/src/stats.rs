//! Percentiles of times.

use std::time::Duration;

/// A duration in milliseconds, to a thousandth.
pub fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Times of one kind.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// Adds one time.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// Number of times.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if it holds no times.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them, in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = Duration> + '_ {
        self.0.iter().copied()
    }

    /// The smallest time that at least `percent` of all do not exceed; `None` without times.
    pub fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied()
    }

    /// The greatest; `None` without times.
    pub fn max(&self) -> Option<Duration> {
        self.0.iter().max().copied()
    }

    /// The smallest; `None` without times.
    pub fn min(&self) -> Option<Duration> {
        self.0.iter().min().copied()
    }
}

impl Extend<Duration> for Times {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, times: T) {
        self.0.extend(times);
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        Self(times.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let times: Times = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(times.percentile(50), Some(Duration::from_millis(100)));
        assert_eq!(times.percentile(99), Some(Duration::from_millis(198)));
        assert_eq!(
            (times.min(), times.max()),
            (Some(Duration::from_millis(1)), Some(Duration::from_millis(200)))
        );
        assert_eq!(Times::default().percentile(99), None);
        assert_eq!(
            [Duration::from_millis(7)].into_iter().collect::<Times>().percentile(1),
            times.percentile(3).map(|_| Duration::from_millis(7))
        );
    }
}
