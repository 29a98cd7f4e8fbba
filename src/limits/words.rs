//! Numbers and spans as people read them: 36,000 in 6 h. Pure.

/// A number in groups of three digits: 36,000, or 36.000 where the separator is a point.
pub(crate) fn grouped(number: u64, separator: char) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(separator);
        }
        grouped.push(digit);
    }
    grouped
}

/// A span in the largest unit of which it is a multiple: 6 h, 90 min, 100 s. The units are the same in every language.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        _ if seconds >= 3600 && seconds.is_multiple_of(3600) => format!("{} h", seconds / 3600),
        _ if seconds >= 60 && seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_a_separator_before_each_three_digits() {
        let said = [0, 999, 1_000, 36_000, 1_234_567].map(|number| grouped(number, ','));
        assert_eq!(said, ["0", "999", "1,000", "36,000", "1,234,567"]);
        assert_eq!(grouped(36_000, '.'), "36.000");
    }

    #[test]
    fn a_span_is_in_the_largest_unit_that_is_exact() {
        let said = [0, 59, 60, 100, 5_400, 3_600, 21_600, 86_400].map(span);
        assert_eq!(said, ["0 s", "59 s", "1 min", "100 s", "90 min", "1 h", "6 h", "24 h"]);
    }
}
