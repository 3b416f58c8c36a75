//! The report: what was measured, and the figure.

use std::time::Duration;

/// Percentile `p` (0 to 100) of durations, by nearest rank.
pub fn percentile(samples: &mut [Duration], p: f64) -> Duration {
    assert!(!samples.is_empty(), "nothing was measured");
    samples.sort_unstable();
    let rank = (p / 100.0 * samples.len() as f64).ceil().max(1.0);
    samples[rank as usize - 1]
}

/// A duration in milliseconds with one decimal.
pub fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

/// Prints one row of a Markdown table.
pub fn row(what: &str, figure: &str) {
    println!("| {what} | {figure} |");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut samples: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut samples, 50.0), Duration::from_millis(50));
        assert_eq!(percentile(&mut samples, 99.0), Duration::from_millis(99));
        assert_eq!(percentile(&mut samples, 100.0), Duration::from_millis(100));
        assert_eq!(
            percentile(&mut samples[..1], 50.0),
            Duration::from_millis(1)
        );
    }
}
