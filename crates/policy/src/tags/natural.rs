//! An order of names in which runs of digits count as numbers: `alpine3.9` before `alpine3.20`.

use std::cmp::Ordering;

/// Compares two names; those that differ are never equal.
pub(crate) fn compare_natural(a: &str, b: &str) -> Ordering {
    let (mut own, mut others) = (a, b);
    while !own.is_empty() && !others.is_empty() {
        let ((x, own_rest), (y, others_rest)) = (chunk(own), chunk(others));
        let order = if starts_with_digit(x) && starts_with_digit(y) {
            let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            x.cmp(y)
        };
        if order.is_ne() {
            return order;
        }
        (own, others) = (own_rest, others_rest);
    }
    own.len().cmp(&others.len()).then_with(|| a.cmp(b))
}

fn starts_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Splits off what is all digits, or has none.
fn chunk(text: &str) -> (&str, &str) {
    let digits = starts_with_digit(text);
    let end = text.find(|c: char| c.is_ascii_digit() != digits);
    text.split_at(end.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_of_digits_are_numbers() {
        let mut names = ["r11", "r9", "alpine3.20", "alpine3.9", "alpine", "r09", ""];
        names.sort_by(|a, b| compare_natural(a, b));
        assert_eq!(
            names,
            ["", "alpine", "alpine3.9", "alpine3.20", "r09", "r9", "r11"]
        );
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[a1029.-]{0,6}", b in "[a1029.-]{0,6}", c in "[a1029.-]{0,6}") {
            prop_assert_eq!(compare_natural(&a, &b), compare_natural(&b, &a).reverse());
            prop_assert_eq!(compare_natural(&a, &b).is_eq(), a == b);
            if compare_natural(&a, &b).is_le() && compare_natural(&b, &c).is_le() {
                prop_assert!(compare_natural(&a, &c).is_le());
            }
        }
    }
}
