//! Medians, percentiles and spans: one odd run on a shared machine should not decide what is
//! shown.

/// The middle value, or the mean of the two middle ones; nothing of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let values = sorted(values);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The smallest value that is no less than `percent` of 100 values (nearest rank); nothing of
/// nothing.
pub(crate) fn percentile(values: impl IntoIterator<Item = f64>, percent: usize) -> Option<f64> {
    let values = sorted(values);
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied()
}

/// The least and the greatest value; nothing of nothing.
pub(crate) fn span(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64)> {
    let values = sorted(values);
    Some((*values.first()?, *values.last()?))
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_found() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0, 1.0, 100.0]), Some(3.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        assert_eq!(percentile([], 50), None);
        assert_eq!(percentile([7.0], 99), Some(7.0));
        let hundred = || (1..=100).rev().map(f64::from);
        assert_eq!(percentile(hundred(), 50), Some(50.0));
        assert_eq!(percentile(hundred(), 99), Some(99.0));
        assert_eq!(percentile([1.0, 2.0, 3.0], 99), Some(3.0));
        assert_eq!(percentile([1.0, 2.0, 3.0], 0), Some(1.0));
    }

    #[test]
    fn a_span_has_both_ends() {
        assert_eq!(span([]), None);
        assert_eq!(span([2.0, 9.0, -1.0]), Some((-1.0, 9.0)));
    }
}
