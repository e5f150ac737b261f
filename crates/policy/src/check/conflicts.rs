//! Conflicts between resources: of a file with each other, and with those that are applied and stay.

use std::collections::BTreeSet;

use sluice_domain::Repository;
use sluice_domain::resources::{Document, Problem, PromotionPolicy, Resource};

use crate::promotion::can_collide;

/// Checks the resources of a file against each other; each conflict is reported once.
pub(super) fn within(documents: &[Document]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (place, document) in documents.iter().enumerate() {
        for (other_place, other) in documents.iter().enumerate() {
            let is_reported_there = match (&document.resource, &other.resource) {
                (Resource::PromotionPolicy(_), Resource::PromotionPolicy(_)) => other_place > place,
                (Resource::PromotionPolicy(_), Resource::Mirror(_)) => false,
                (Resource::PromotionPolicy(_), _) | (Resource::Mirror(_), _) => true,
                _ => false,
            };
            if !is_reported_there {
                let whereabouts = format!("line {}", other.line);
                problems.extend(conflict(document, &other.resource, &whereabouts));
            }
        }
    }
    problems
}

/// Checks the resources of a file against what is applied and stays, and mirrors against the repositories that hold
/// promoted images.
#[must_use]
pub fn applied_targets(
    documents: &[Document],
    applied: &[Resource],
    targets: &BTreeSet<Repository>,
) -> Vec<Problem> {
    let is_replaced = |other: &Resource| {
        documents.iter().any(|document| {
            let resource = &document.resource;
            resource.kind() == other.kind() && resource.name() == other.name()
        })
    };
    let mut problems = Vec::new();
    for document in documents {
        if let Resource::Mirror(mirror) = &document.resource
            && targets.contains(&mirror.to)
        {
            problems.push(problem(document, "to", &format!(
                "promoted images are in `{}`, so only the promoter may write there; mirror into another repository, or remove \
                 the images first",
                mirror.to
            )));
            continue;
        }
        for other in applied.iter().filter(|other| !is_replaced(other)) {
            problems.extend(conflict(document, other, "which is applied"));
        }
    }
    problems
}

/// Says what conflicts between a resource and another one.
fn conflict(document: &Document, other: &Resource, whereabouts: &str) -> Option<Problem> {
    match (&document.resource, other) {
        (Resource::PromotionPolicy(policy), Resource::PromotionPolicy(other)) => {
            shares_unintentionally(policy, other)
                .then(|| problem(document, "to", &shared_target(policy, other, whereabouts)))
        }
        (Resource::PromotionPolicy(policy), Resource::Mirror(mirror)) => {
            policy.to.could_produce(&mirror.to).then(|| {
                let message = format!(
                    "`{}` includes `{}`, into which mirror `{}` ({whereabouts}) copies images that no policy evaluates; keep mirrors and targets apart",
                    policy.to, mirror.to, mirror.name
                );
                problem(document, "to", &message)
            })
        }
        (Resource::Mirror(mirror), Resource::PromotionPolicy(policy)) => {
            policy.to.could_produce(&mirror.to).then(|| {
                let message = format!(
                    "`{}` is a target of policy `{}` ({whereabouts}), and a mirror copies images that no policy evaluates; keep mirrors and targets apart",
                    mirror.to, policy.name
                );
                problem(document, "to", &message)
            })
        }
        (Resource::PromotionPolicy(policy), other) => {
            let (_, message) = deletion_in_target(policy, other)?;
            let message = format!("{} `{}` ({whereabouts}) {message}", other.kind(), other.name());
            Some(problem(document, "to", &message))
        }
        (resource, Resource::PromotionPolicy(policy)) => {
            let (key, message) = deletion_in_target(policy, resource)?;
            Some(problem(
                document,
                key,
                &format!("it {message} ({whereabouts})"),
            ))
        }
        _ => None,
    }
}

fn problem(document: &Document, key: &str, message: &str) -> Problem {
    Problem {
        line: document.line_of(key),
        message: format!("`{key}`: {message}"),
    }
}

/// Says whether two policies can write the same tag of a target, and not both have `shares_target`.
fn shares_unintentionally(one: &PromotionPolicy, other: &PromotionPolicy) -> bool {
    one.name != other.name
        && one.enabled
        && other.enabled
        && !(one.shares_target && other.shares_target)
        && can_collide(one, other)
}

fn shared_target(policy: &PromotionPolicy, other: &PromotionPolicy, whereabouts: &str) -> String {
    format!(
        "policy `{}` can write the same tags of `{}` as policy `{}` ({whereabouts}) from other sources, and whichever \
         decides last has the tag; give one of them another `to` or `tag`, or write `shares_target: true` in both, in one file",
        policy.name, policy.to, other.name
    )
}

/// Returns the key by which a resource deletes only in targets of a policy, where only the promoter may delete.
fn deletion_in_target(
    policy: &PromotionPolicy,
    resource: &Resource,
) -> Option<(&'static str, String)> {
    let (key, patterns) = match resource {
        Resource::Repository(settings) => {
            let keep = settings.keep.filter(|keep| keep.newest > 0);
            ("keep", vec![keep.and(Some(settings.name.as_str()))?])
        }
        Resource::PruningPolicy(pruning) => (
            "repositories",
            pruning.repositories.iter().map(|p| p.as_str()).collect(),
        ),
        _ => return None,
    };
    let covered = patterns.into_iter().find(|pattern| {
        let samples = samples(pattern);
        !samples.is_empty() && samples.iter().all(|sample| policy.to.could_produce(sample))
    })?;
    Some((
        key,
        format!(
            "deletes in `{covered}`, which is a target of policy `{}`, where only the promoter does; name what is mirrored, as \
             in `{}`",
            policy.name, policy.from
        ),
    ))
}

/// Returns repositories that a pattern matches, of each form that it can have.
pub(super) fn samples(pattern: &str) -> Vec<Repository> {
    let alternatives = match pattern.split_once('{').and_then(|(before, rest)| {
        let (inner, after) = rest.split_once('}')?;
        Some((before, inner, after))
    }) {
        Some((before, inner, after)) => inner
            .split(',')
            .map(|inner| format!("{before}{inner}{after}"))
            .collect(),
        None => vec![pattern.to_owned()],
    };
    let mut samples = Vec::new();
    for alternative in alternatives {
        for (deep, flat) in [("x", "x"), ("x/y", "y")] {
            let name = alternative.replace("**", "\n").replace(['*', '?'], flat);
            samples.extend(name.replace('\n', deep).parse::<Repository>());
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use sluice_domain::resources::parse_documents;

    use super::*;
    use crate::check::resources;

    const MIRROR: &str = "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\n";

    fn checked(text: &str) -> Vec<Problem> {
        resources(&parse_documents(text).unwrap())
    }

    /// Checks one resource in a file with another, before and behind it, and against the other applied.
    fn assert_refused(resource: &str, other: &str, expected: &str) {
        for text in [
            format!("{resource}---\n{other}"),
            format!("{other}---\n{resource}"),
        ] {
            let problems = checked(&text);
            assert_eq!(problems.len(), 1, "{text}: {problems:?}");
            assert!(problems[0].message.contains(expected), "{problems:?}");
        }
        for (written, applied) in [(resource, other), (other, resource)] {
            let applied = parse_documents(applied).unwrap().remove(0).resource;
            let written = parse_documents(written).unwrap();
            let problems = applied_targets(&written, &[applied], &BTreeSet::new());
            assert_eq!(problems.len(), 1, "{problems:?}");
            let message = &problems[0].message;
            assert!(message.contains(expected), "{message}");
            assert!(message.contains("which is applied"), "{message}");
        }
    }

    const POLICY: &str =
        "kind: PromotionPolicy\nname: clean\nfrom: hub/*\nto: official/{name}\nwhen: 'true'\n";

    #[test]
    fn mirrors_and_targets_are_kept_apart_whichever_is_applied_first() {
        let mirror = MIRROR.replace("to: hub/a", "to: official/a");
        assert_refused(&mirror, POLICY, "keep mirrors and targets apart");
        assert_eq!(checked(&format!("{MIRROR}---\n{POLICY}")), vec![]);
    }

    #[test]
    fn nothing_is_kept_or_pruned_in_targets_by_anybody_but_the_promoter() {
        let keep = |name: &str| format!("kind: Repository\nname: '{name}'\nkeep: 5\n");
        let prune = |names: &str| {
            format!(
                "kind: PruningPolicy\nname: old\nrepositories: [{names}]\nschedule: '0 3 * * *'\ndelete: 'true'\n"
            )
        };
        let expected = "where only the promoter does";
        for resource in [
            keep("official/*"),
            keep("official/app"),
            keep("official/**"),
            prune("hub/*, official/*"),
        ] {
            assert_refused(&resource, POLICY, expected);
        }
        for resource in [
            keep("hub/*"),
            keep("**"),
            prune("hub/*"),
            "kind: Repository\nname: official/*\nvisibility: public\nkeep: 0\n".to_owned(),
        ] {
            let text = format!("{resource}---\n{POLICY}");
            assert_eq!(checked(&text), vec![], "{resource}");
        }
    }

    #[test]
    fn what_is_written_again_replaces_what_is_applied() {
        let mirror = MIRROR.replace("to: hub/a", "to: official/a");
        let applied = parse_documents(&mirror).unwrap().remove(0).resource;
        let written = parse_documents(&format!("{MIRROR}---\n{POLICY}")).unwrap();
        let problems = applied_targets(&written, &[applied], &BTreeSet::new());
        assert_eq!(problems, vec![]);
    }

    #[test]
    fn two_policies_into_one_target_tag_are_refused_unless_both_say_so() {
        let policy = |name: &str, from: &str, more: &str| {
            format!(
                "---\nkind: PromotionPolicy\nname: {name}\nfrom: {from}\nto: official/{{name}}\nwhen: 'true'\n{more}"
            )
        };
        let says = "shares_target: true\n";
        let off = "enabled: false\n";
        for (one, other, from, refused) in [
            ("", "", "x/*", true),
            (says, "", "x/*", true),
            ("", says, "x/*", true),
            (says, says, "x/*", false),
            ("", off, "x/*", false),
            ("", "", "hub/*", false),
        ] {
            let (one, other) = (policy("one", "hub/*", one), policy("other", from, other));
            let both = checked(&format!("{one}{other}"));
            assert_eq!(both.len(), usize::from(refused), "{one}{other}");
            let applied = parse_documents(&one).unwrap().remove(0).resource;
            let written = parse_documents(&other).unwrap();
            let problems = applied_targets(&written, &[applied], &BTreeSet::new());
            assert_eq!(problems.len(), usize::from(refused), "{one}{other}");
            for problem in both.iter().chain(&problems) {
                let message = &problem.message;
                assert!(
                    message.contains("`shares_target: true` in both"),
                    "{message}"
                );
                assert!(
                    message.contains("`one`") && message.contains("`other`"),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_mirrored_into_a_repository_with_promoted_images() {
        let targets = BTreeSet::from(["hub/a".parse().unwrap()]);
        let problems = applied_targets(&parse_documents(MIRROR).unwrap(), &[], &targets);
        assert_eq!((problems.len(), problems[0].line), (1, 4), "{problems:?}");
        assert!(
            problems[0]
                .message
                .contains("promoted images are in `hub/a`")
        );
        assert_eq!(
            applied_targets(&parse_documents(MIRROR).unwrap(), &[], &BTreeSet::new()),
            vec![]
        );
    }
}
