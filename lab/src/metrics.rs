//! The metrics that an agent serves.

/// Where an agent serves them, in its machine.
pub const URL: &str = "http://127.0.0.1:9469/metrics";

/// The sum of a metric over all its labels.
pub fn total(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_it = rest.starts_with('{') || rest.starts_with(' ');
        let (_, value) = rest.rsplit_once(' ')?;
        value.parse::<f64>().ok().filter(|_| is_it)
    });
    values.sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)]
    use super::*;

    #[test]
    fn a_total_is_that_of_one_metric_with_all_labels() {
        let metrics =
            "# TYPE x counter\nx_total{of=\"a b\"} 2\nx_total{of=\"c\"} 3\nx_totals 7\ny 1.5\n";
        assert_eq!(total(metrics, "x_total"), 5.0);
        assert_eq!(total(metrics, "y"), 1.5);
        assert_eq!(total(metrics, "z"), 0.0);
    }
}
