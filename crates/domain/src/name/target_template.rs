//! Target templates: which repository an image is promoted into.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::name::target::Target;
use crate::name::{InvalidName, RegistryHost, Repository, split_registry};

/// A target repository with `{org}`, `{name}` and `{repository}` of the source; with a registry in front, as in references
/// of images, it is a repository there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(title = "target")]
pub struct TargetTemplate {
    text: String,
    registry: Option<RegistryHost>,
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// The first component of the source.
    Organisation,
    /// What follows it, which may have several components.
    Name,
    /// All of the source.
    Repository,
}

impl Piece {
    const PLACEHOLDERS: [(&'static str, Self); 3] = [
        ("{org}", Self::Organisation),
        ("{name}", Self::Name),
        ("{repository}", Self::Repository),
    ];
}

impl TargetTemplate {
    /// Returns the target for a source repository.
    ///
    /// # Errors
    /// `{org}` of a repository without one, and a result that is not a repository name.
    pub fn render(&self, source: &Repository) -> Result<Target, InvalidName> {
        let mut target = String::new();
        for piece in &self.pieces {
            target.push_str(match piece {
                Piece::Literal(text) => text,
                Piece::Organisation => source.organisation().ok_or_else(|| {
                    const REASON: &str =
                        "it has no organisation for `{org}`; write `{name}` or `{repository}`";
                    InvalidName::new("source of this target", source.as_str(), REASON)
                })?,
                Piece::Name => source.name(),
                Piece::Repository => source.as_str(),
            });
        }
        Ok(Target {
            registry: self.registry.clone(),
            repository: target.parse()?,
        })
    }

    /// Returns the remote registry that it is in, if it is not in the internal one.
    #[must_use]
    pub const fn registry(&self) -> Option<&RegistryHost> {
        self.registry.as_ref()
    }

    /// Returns whether some source could be promoted into this repository of the internal registry.
    ///
    /// Never false for what `render` returns: access to targets is decided by it.
    #[must_use]
    pub fn could_produce(&self, repository: &Repository) -> bool {
        self.registry.is_none() && self.could_name(repository)
    }

    /// Returns whether some source could be promoted into this target.
    #[must_use]
    pub fn could_reach(&self, target: &Target) -> bool {
        self.registry == target.registry && self.could_name(&target.repository)
    }

    fn could_name(&self, repository: &Repository) -> bool {
        // The positions in the name up to which the pieces read so far can reach.
        let bytes = repository.as_str().as_bytes();
        let mut reached = vec![0];
        for piece in &self.pieces {
            reached = match piece {
                Piece::Literal(text) => reached
                    .into_iter()
                    .filter(|at| {
                        bytes
                            .get(*at..)
                            .is_some_and(|rest| rest.starts_with(text.as_bytes()))
                    })
                    .map(|at| at + text.len())
                    .collect(),
                Piece::Organisation => ends(bytes, &reached, |byte| byte != b'/'),
                Piece::Name | Piece::Repository => ends(bytes, &reached, |_| true),
            };
        }
        reached.contains(&bytes.len())
    }
}

/// Returns where a placeholder can end that starts at one of the given positions and takes only such bytes.
fn ends(bytes: &[u8], starts: &[usize], takes: impl Fn(u8) -> bool) -> Vec<usize> {
    let mut found = Vec::new();
    let mut open = false;
    for (index, byte) in bytes.iter().enumerate() {
        open = (open || starts.contains(&index)) && takes(*byte);
        if open {
            found.push(index + 1);
        }
    }
    found
}

fn pieces(text: &str) -> Vec<Piece> {
    let (mut pieces, mut literal, mut rest) = (Vec::new(), String::new(), text);
    while let Some(first) = rest.chars().next() {
        let placeholder = Piece::PLACEHOLDERS
            .into_iter()
            .find_map(|(written, piece)| Some((rest.strip_prefix(written)?, piece)));
        if let Some((after, piece)) = placeholder {
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(piece);
            rest = after;
        } else {
            literal.push(first);
            rest = rest.strip_prefix(first).unwrap_or_default();
        }
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal));
    }
    pieces
}

impl FromStr for TargetTemplate {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (registry, rest) = match split_registry(text) {
            Some((host, rest)) => (Some(host.parse()?), rest),
            None => (None, text),
        };
        let template = Self {
            text: text.to_owned(),
            registry,
            pieces: pieces(rest),
        };
        // With the shortest source every rule of names is tried, and a wrong placeholder leaves its brace.
        let shortest = template
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text,
                Piece::Organisation | Piece::Name | Piece::Repository => "x",
            })
            .collect::<String>();
        shortest.parse::<Repository>().map_err(|_| {
            InvalidName::new(
                "target",
                text,
                "expected a repository with `{name}`, `{org}` or `{repository}` of the source, as in `official/{name}` or `registry.example/team/{name}`",
            )
        })?;
        Ok(template)
    }
}

impl TryFrom<String> for TargetTemplate {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TargetTemplate> for String {
    fn from(template: TargetTemplate) -> Self {
        template.text
    }
}

impl fmt::Display for TargetTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets_are_made_of_the_source() {
        for (template, source, target) in [
            ("official/{name}", "hub/alpine", "official/alpine"),
            ("official/{name}", "hub/team/app", "official/team/app"),
            ("official/{name}", "alpine", "official/alpine"),
            (
                "official/app-{name}",
                "hub/team/app",
                "official/app-team/app",
            ),
            ("{org}-approved/{name}", "hub/alpine", "hub-approved/alpine"),
            ("official/{repository}", "hub/alpine", "official/hub/alpine"),
            ("official/fixed", "hub/alpine", "official/fixed"),
        ] {
            let read: TargetTemplate = template.parse().unwrap();
            let rendered = read.render(&source.parse().unwrap()).unwrap();
            assert_eq!(rendered.to_string(), target, "{template}");
            assert!(read.could_reach(&rendered), "{template}");
            assert!(read.could_produce(rendered.local().unwrap()), "{template}");
            assert_eq!(read.to_string(), template);
        }
    }

    #[test]
    fn a_registry_in_front_makes_a_target_there_and_none_here() {
        for (template, registry, target) in [
            (
                "registry.example/team/{name}",
                "registry.example",
                "team/app",
            ),
            ("localhost/{repository}", "localhost", "hub/app"),
            ("Host:5000/{org}-x/{name}", "host:5000", "hub-x/app"),
        ] {
            let read: TargetTemplate = template.parse().unwrap();
            let rendered = read.render(&"hub/app".parse().unwrap()).unwrap();
            assert_eq!(rendered.registry.as_ref().unwrap().as_str(), registry);
            assert_eq!(rendered.repository.as_str(), target);
            assert!(read.could_reach(&rendered));
            assert!(!read.could_produce(&rendered.repository), "{template}");
            assert!(!read.could_reach(&rendered.repository.clone().into()));
            assert_eq!(read.to_string(), template);
        }
        // A placeholder is no host, and neither is a name alone.
        for template in ["{org}.x/{name}", "official.x"] {
            let read: TargetTemplate = template.parse().unwrap();
            assert_eq!(read.registry(), None, "{template}");
        }
        for bad in ["registry.example:x/{name}", "registry.example/Team/{name}"] {
            assert!(bad.parse::<TargetTemplate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_template_does_not_claim_what_it_cannot_make() {
        for (template, repository) in [
            ("official/{name}", "hub/alpine"),
            ("official/{name}", "official"),
            ("official/{name}-x", "official/alpine"),
            ("{org}/stable", "a/b/stable"),
            ("a{org}b/c", "ab/c"),
        ] {
            let read: TargetTemplate = template.parse().unwrap();
            assert!(
                !read.could_produce(&repository.parse().unwrap()),
                "{template}"
            );
        }
    }

    #[test]
    fn what_is_no_target_is_refused() {
        for bad in [
            "",
            "official/{nme}",
            "Official/{name}",
            "official/",
            "/{name}",
            "{",
            "{na{org}me}",
        ] {
            let message = bad.parse::<TargetTemplate>().unwrap_err().to_string();
            assert!(message.contains("official/{name}"), "{message}");
        }
        let template: TargetTemplate = "x{org}/y".parse().unwrap();
        assert!(template.render(&"alpine".parse().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_made_could_be_made(
            parts in proptest::collection::vec(
                prop_oneof!["[a-z/-]{1,6}", Just("{org}".to_owned()), Just("{name}".to_owned()), Just("{repository}".to_owned())],
                1..5,
            ),
            source in "[a-z]{1,4}(/[a-z]{1,4}){0,3}",
        ) {
            let source: Repository = source.parse().unwrap();
            if let Ok(template) = parts.concat().parse::<TargetTemplate>()
                && let Ok(target) = template.render(&source)
            {
                prop_assert!(template.could_reach(&target), "{template} {source} {target}");
            }
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            if let Ok(template) = text.parse::<TargetTemplate>() {
                prop_assert_eq!(template.to_string(), text);
            }
        }
    }
}
