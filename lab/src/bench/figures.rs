//! What all benches share: the machine that they ran on, and figures over several runs.

use std::fs;

use serde::{Deserialize, Serialize};

/// The machine that ran all of a bench.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Processors that this process may use.
    pub processors: usize,
    /// The processors' model as in /proc/cpuinfo; the architecture if it names none.
    pub model: String,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = about.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == "model name").then(|| value.trim().to_owned())
        });
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            model: model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        }
    }
}

/// A figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median; for an even number, the mean of the two middle values.
    pub median: f64,
    /// The minimum.
    pub least: f64,
    /// The maximum.
    pub most: f64,
}

impl Spread {
    /// The spread of these values; all zero if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        let half = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(at(half.saturating_sub(1)), at(half))
        } else {
            at(half)
        };
        Self {
            median,
            least: at(0),
            most: at(values.len().saturating_sub(1)),
        }
    }
}

/// Converts a count to a figure.
#[allow(clippy::cast_precision_loss, reason = "counts here are far below 2^52")]
pub fn count(number: u64) -> f64 {
    number as f64
}

/// A rounded number with separated thousands.
pub fn whole(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The value below which nine of ten lie; zero if there are none.
pub fn p90(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * 9).div_ceil(10);
    values
        .get(rank.saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// The interval that contains the median of the sampled distribution with at least 95 % confidence,
/// whatever the distribution is: the narrowest pair of values with the same rank from either end.
/// `None` for fewer than six values, which are too few.
pub fn interval(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let number = values.len();
    // The median is beyond one end with the probability that at most `outer` of `number` coins show
    // heads, and beyond the other end with the same probability.
    let coins = 0.5_f64.powi(i32::try_from(number).ok()?);
    let (mut outside, mut ways, mut outer) = (0.0, 1.0, 0_usize);
    let mut found = None;
    while outer < number / 2 {
        outside += 2.0 * ways * coins;
        if outside > 0.05 {
            break;
        }
        found = Some((*values.get(outer)?, *values.get(number - 1 - outer)?));
        ways *= count((number - outer) as u64) / count(outer as u64 + 1);
        outer += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::float_cmp)]
    use super::*;

    #[test]
    fn a_spread_has_median_minimum_and_maximum() {
        let spread = |values: &[f64]| {
            let Spread {
                median,
                least,
                most,
            } = Spread::of(values.iter().copied());
            (median, least, most)
        };
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), (2.5, 1.0, 4.0));
        assert_eq!(spread(&[5.0]), (5.0, 5.0, 5.0));
        assert_eq!(spread(&[]), (0.0, 0.0, 0.0));
    }

    #[test]
    fn nine_of_ten_are_not_above_p90() {
        assert_eq!(p90((1..=20).map(f64::from)), 18.0);
        assert_eq!(p90((1..=10).map(f64::from)), 9.0);
        assert_eq!(p90([3.0]), 3.0);
        assert_eq!(p90([]), 0.0);
    }

    /// The ranks are those of any table for the sign test.
    #[test]
    fn the_interval_of_the_median_has_the_ranks_of_the_sign_test() {
        let of = |number: u8| interval((1..=number).map(f64::from));
        assert_eq!(of(5), None);
        assert_eq!(of(6), Some((1.0, 6.0)));
        assert_eq!(of(10), Some((2.0, 9.0)));
        assert_eq!(of(20), Some((6.0, 15.0)));
    }
}
