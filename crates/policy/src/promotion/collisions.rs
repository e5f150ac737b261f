//! Whether two promotion policies can write the same tag of a target from different sources.
//!
//! Errs on the safe side: two policies are distinct only if the literal text of their templates and patterns proves it.

use sluice_domain::resources::PromotionPolicy;

use super::tag_template::TagTemplate;
use super::token_pattern::{CharClass, Token, have_common_text};

/// Says whether two policies can promote different images to one tag of one target.
///
/// Policies that make the same name of the same source promote the same image, so it does not matter which of them does.
#[must_use]
pub fn can_collide(one: &PromotionPolicy, other: &PromotionPolicy) -> bool {
    if one.to.registry() != other.to.registry() || have_same_sources(one, other) {
        return false;
    }
    let targets = (target_tokens(one), target_tokens(other));
    let tags = (tag_tokens(one), tag_tokens(other));
    have_common_text(&targets.0, &targets.1) && have_common_text(&tags.0, &tags.1)
}

/// Says whether a name in the target can only be made of one source, and both policies make it in the same way.
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

/// Reads a pattern of repositories; from the first character class or alternative on it stands for any text.
fn pattern_tokens(pattern: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = pattern;
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**") {
            tokens.push(Token::Many(CharClass::Any));
            // `**/` also matches the empty text.
            rest = after.strip_prefix('/').unwrap_or(after);
            continue;
        }
        match first {
            '*' => tokens.push(Token::Many(CharClass::Component)),
            c if is_special(c) => {
                tokens.push(Token::Many(CharClass::Any));
                return tokens;
            }
            c => tokens.push(Token::Char(c)),
        }
        rest = rest.strip_prefix(first).unwrap_or_default();
    }
    tokens
}

/// Returns the pattern of the targets of a policy, made of the pattern of its sources.
fn target_tokens(policy: &PromotionPolicy) -> Vec<Token> {
    let from = policy.from.as_str();
    let plain = |part: &str| !part.contains("**") && !part.contains(|c| c != '*' && is_special(c));
    let (organisation, name) = match from.split_once('/') {
        Some((organisation, name)) if plain(organisation) => {
            (pattern_tokens(organisation), pattern_tokens(name))
        }
        None if plain(from) => (
            vec![Token::Many(CharClass::Component)],
            pattern_tokens(from),
        ),
        _ => (
            vec![Token::Many(CharClass::Component)],
            vec![Token::Many(CharClass::Any)],
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
    // An invalid template is refused by its own check.
    template.map_or_else(
        |_| vec![Token::Many(CharClass::Any)],
        |template| template.tokens(),
    )
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use proptest::prelude::*;
    use sluice_domain::resources::{Resource, parse_documents};
    use sluice_domain::{Repository, Tag};

    use super::*;

    fn policy(from: &str, to: &str, tag: &str) -> Option<PromotionPolicy> {
        let text = format!(
            "kind: PromotionPolicy\nname: p\nfrom: '{from}'\nto: '{to}'\ntag: '{tag}'\nwhen: 'true'\n"
        );
        match parse_documents(&text).ok()?.remove(0).resource {
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
