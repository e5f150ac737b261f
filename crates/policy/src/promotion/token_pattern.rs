//! Patterns of names as tokens, and whether some text matches two of them.

use std::collections::BTreeSet;

/// An element of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// This character.
    Char(char),
    /// Any number of these.
    Many(CharClass),
}

/// A class of characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CharClass {
    /// All of them.
    Any,
    /// Those within one component of a repository's name.
    Component,
    /// Digits.
    Digit,
    /// Letters.
    Letter,
}

impl CharClass {
    const fn has(self, c: char) -> bool {
        match self {
            Self::Any => true,
            Self::Component => c != '/',
            Self::Digit => c.is_ascii_digit(),
            Self::Letter => c.is_ascii_alphabetic(),
        }
    }
}

/// Says whether some text matches both patterns.
pub(super) fn have_common_text(one: &[Token], other: &[Token]) -> bool {
    let mut open = vec![(0, 0)];
    let mut seen = BTreeSet::new();
    while let Some((i, j)) = open.pop() {
        if !seen.insert((i, j)) {
            continue;
        }
        match (one.get(i), other.get(j)) {
            (None, None) => return true,
            (Some(Token::Char(a)), Some(Token::Char(b))) if a == b => open.push((i + 1, j + 1)),
            (Some(Token::Many(class)), Some(Token::Char(c))) => {
                open.push((i + 1, j));
                open.extend(class.has(*c).then_some((i, j + 1)));
            }
            (Some(Token::Char(c)), Some(Token::Many(class))) => {
                open.push((i, j + 1));
                open.extend(class.has(*c).then_some((i + 1, j)));
            }
            (Some(Token::Many(_)), Some(Token::Many(_))) => open.extend([(i + 1, j), (i, j + 1)]),
            (Some(Token::Many(_)), None) => open.push((i + 1, j)),
            (None, Some(Token::Many(_))) => open.push((i, j + 1)),
            _ => {}
        }
    }
    false
}
