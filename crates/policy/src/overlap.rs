//! Whether two promotion policies can write the same tag of a target from different sources.
//!
//! Answers on the safe side: only what is certainly apart, by what the templates and patterns say literally, is apart.

use std::collections::BTreeSet;

use sluice_domain::resources::PromotionPolicy;

use crate::template::TagTemplate;

/// What a place in a name can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Token {
    /// This character.
    Char(char),
    /// Any number of these.
    Many(Class),
}

/// A class of characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// All of them.
    Any,
    /// Those within one component of a repository's name.
    Component,
    /// Digits.
    Digit,
    /// Letters.
    Letter,
}

impl Class {
    const fn has(self, c: char) -> bool {
        match self {
            Self::Any => true,
            Self::Component => c != '/',
            Self::Digit => c.is_ascii_digit(),
            Self::Letter => c.is_ascii_alphabetic(),
        }
    }
}

/// Says whether two policies can bring different images to one tag of one target.
///
/// Policies that make the same name of the same source bring the same image there, so that it does not matter which of
/// them does.
#[must_use]
pub fn can_collide(one: &PromotionPolicy, other: &PromotionPolicy) -> bool {
    if one.to.registry() != other.to.registry() || have_same_sources(one, other) {
        return false;
    }
    let targets = (target_tokens(one), target_tokens(other));
    let tags = (tag_tokens(one), tag_tokens(other));
    overlap(&targets.0, &targets.1) && overlap(&tags.0, &tags.1)
}

/// Says whether one name in the target can only come of one source, and is made in the same way by both.
fn have_same_sources(one: &PromotionPolicy, other: &PromotionPolicy) -> bool {
    let to = one.to.to_string();
    let is_whole = to.contains("{repository}");
    let organisation = literal_organisation(one.from.as_str());
    let is_known =
        organisation.is_some() && organisation == literal_organisation(other.from.as_str());
    let has_one_source =
        is_whole && to.matches('{').count() == 1 || is_known && (is_whole || to.contains("{name}"));
    let template = one.tag.parse::<TagTemplate>();
    let has_one_tag = template.is_ok_and(|template| template.keeps_source_tag());
    one.to == other.to && one.tag == other.tag && has_one_source && has_one_tag
}

fn literal_organisation(from: &str) -> Option<&str> {
    let (organisation, _) = from.split_once('/')?;
    (!organisation.contains(is_special)).then_some(organisation)
}

const fn is_special(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | ']' | '{' | '}' | '\\' | '!' | ',')
}

/// Reads a pattern of repositories; what is more than stars can be anything from there on.
fn pattern_tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**") {
            tokens.push(Token::Many(Class::Any));
            // `**/` is also nothing at all.
            rest = after.strip_prefix('/').unwrap_or(after);
            continue;
        }
        match first {
            '*' => tokens.push(Token::Many(Class::Component)),
            c if is_special(c) => {
                tokens.push(Token::Many(Class::Any));
                return tokens;
            }
            c => tokens.push(Token::Char(c)),
        }
        rest = rest.strip_prefix(first).unwrap_or_default();
    }
    tokens
}

/// Returns what the targets of a policy look like, made of what its sources look like.
fn target_tokens(policy: &PromotionPolicy) -> Vec<Token> {
    let from = policy.from.as_str();
    let plain = |part: &str| !part.contains("**") && !part.contains(|c| c != '*' && is_special(c));
    let (organisation, name) = match from.split_once('/') {
        Some((organisation, name)) if plain(organisation) => {
            (pattern_tokens(organisation), pattern_tokens(name))
        }
        None if plain(from) => (vec![Token::Many(Class::Component)], pattern_tokens(from)),
        _ => (
            vec![Token::Many(Class::Component)],
            vec![Token::Many(Class::Any)],
        ),
    };
    let to = policy.to.to_string();
    let registry = policy.to.registry().map(ToString::to_string);
    let to = registry.map_or(to.as_str(), |registry| {
        to.get(registry.len() + 1..).unwrap_or_default()
    });
    let mut tokens = Vec::new();
    let mut rest = to;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{org}") {
            tokens.extend(&organisation);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{name}") {
            tokens.extend(&name);
            rest = after;
        } else if let Some(after) = rest.strip_prefix("{repository}") {
            tokens.extend(pattern_tokens(from));
            rest = after;
        } else {
            tokens.push(Token::Char(first));
            rest = rest.strip_prefix(first).unwrap_or_default();
        }
    }
    tokens
}

fn tag_tokens(policy: &PromotionPolicy) -> Vec<Token> {
    let template = policy.tag.parse::<TagTemplate>();
    // What is no template is refused by itself.
    template.map_or_else(
        |_| vec![Token::Many(Class::Any)],
        |template| template.tokens(),
    )
}

/// Says whether some text is read by both.
fn overlap(one: &[Token], other: &[Token]) -> bool {
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

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;
    use sluice_domain::resources::{Resource, documents};
    use sluice_domain::{Repository, Tag};

    use super::*;

    fn policy(from: &str, to: &str, tag: &str) -> Option<PromotionPolicy> {
        let text = format!(
            "kind: PromotionPolicy\nname: p\nfrom: '{from}'\nto: '{to}'\ntag: '{tag}'\nwhen: 'true'\n"
        );
        match documents(&text).ok()?.remove(0).resource {
            Resource::PromotionPolicy(policy) => Some(policy),
            _ => None,
        }
    }

    #[test]
    fn policies_collide_unless_names_or_sources_tell_them_apart() {
        for (one, other, expected) in [
            // Different repositories make the same one.
            (
                ("hub/*", "official/{name}", "%n"),
                ("staging/*", "official/{name}", "%n"),
                true,
            ),
            (
                ("hub/*", "official/{name}", "%n"),
                ("hub/b", "official/a", "b-%n"),
                true,
            ),
            (
                ("hub/**", "official/{name}", "%n"),
                ("*/app", "official/{name}", "%n"),
                true,
            ),
            (
                ("hub/*", "official/{name}", "%n"),
                ("hub/*", "official/{name}", "high-%n"),
                true,
            ),
            (
                ("hub/*", "official/{name}", "%n"),
                ("hub/*", "official/{name}", "stable"),
                true,
            ),
            (
                ("hub/{a,b}", "official/{name}", "%n"),
                ("x/c", "official/{name}", "%n"),
                true,
            ),
            (
                ("hub/*", "r.example/{name}", "%n"),
                ("x/*", "r.example/{name}", "%n"),
                true,
            ),
            (
                ("hub/*", "official/{name}", "%n-%Y"),
                ("hub/*", "official/{name}", "%n-%Y"),
                true,
            ),
            // The same source, made in the same way.
            (
                ("hub/*", "official/{name}", "%n"),
                ("hub/app", "official/{name}", "%n"),
                false,
            ),
            (
                ("**", "official/{repository}", "%n"),
                ("x/*", "official/{repository}", "%n"),
                false,
            ),
            // Other targets.
            (
                ("hub/*", "official/{name}", "%n"),
                ("hub/*", "approved/{name}", "%n"),
                false,
            ),
            (
                ("hub/a*", "official/{name}", "%n"),
                ("x/b*", "official/{name}", "%n"),
                false,
            ),
            (
                ("hub/*", "official/{name}", "%n"),
                ("x/*/y", "official/{name}", "%n"),
                false,
            ),
            (
                ("hub/*", "{org}-ok/{name}", "%n"),
                ("x/*", "{org}-ok/{name}", "%n"),
                false,
            ),
            (
                ("hub/*", "official/{name}", "%n"),
                ("x/*", "r.example/official/{name}", "%n"),
                false,
            ),
            // Other tags.
            (
                ("hub/*", "official/{name}", "a-%n"),
                ("x/*", "official/{name}", "b-%n"),
                false,
            ),
            (
                ("hub/*", "official/{name}", "%Y%m%d"),
                ("x/*", "official/{name}", "stable"),
                false,
            ),
        ] {
            let make = |(from, to, tag): (&str, &str, &str)| policy(from, to, tag).unwrap();
            let (one, other) = (make(one), make(other));
            assert_eq!(can_collide(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(can_collide(&other, &one), expected, "{other:?} {one:?}");
        }
    }

    proptest! {
        /// Whatever two policies really write to the same place from different sources is called a collision.
        #[test]
        fn what_collides_is_never_said_to_be_apart(
            patterns in proptest::array::uniform2("(\\*\\*|[ab*?]{1,2})(/(\\*\\*|[ab*]{1,2})){0,2}"),
            targets in proptest::array::uniform2("([ab]{1,2}|\\{org\\}|\\{name\\}|\\{repository\\})(/([ab]|\\{name\\})){0,1}"),
            tags in proptest::array::uniform2("[1a]{0,1}(%n|%d|%n%d)?[1a]{0,1}"),
            sources in proptest::array::uniform2("[ab]{1,2}(/[ab]{1,2}){0,2}"),
            names in proptest::array::uniform2("[1a]{1,2}"),
        ) {
            let at: DateTime<Utc> = "2026-01-11T11:00:00Z".parse().unwrap();
            let made = |i: usize| {
                let policy = policy(&patterns[i], &targets[i], &tags[i])?;
                let (source, tag): (Repository, Tag) = (sources[i].parse().ok()?, names[i].parse().ok()?);
                if !policy.from.matches(source.as_str()) {
                    return None;
                }
                let target = policy.to.render(&source).ok()?;
                let template: TagTemplate = policy.tag.parse().ok()?;
                let place = (target, template.render(&tag, at).ok()?);
                Some((policy, (source, tag), place))
            };
            if let (Some((one, source, place)), Some((other, another, elsewhere))) = (made(0), made(1))
                && place == elsewhere
                && source != another
            {
                prop_assert!(can_collide(&one, &other), "{one:?} {other:?}");
            }
        }
    }
}
