//! Checks resources without a server: what `sluice apply` and the API refuse, with its line.

mod conflicts;

use std::collections::HashMap;

use sluice_domain::resources::{
    Document, Kind, Mirror, Problem, PromotionPolicy, PruningPolicy, Registry, Resource,
    parse_documents,
};
use sluice_domain::{Repository, ResourceName, Tag};

use crate::condition::{CompiledCondition, Scope};
use crate::cron;
use crate::promotion::{self, InvalidTemplate, TagTemplate};
use crate::tags::range::Range;

pub use conflicts::applied_targets;

/// How the tags of attachments begin.
const ATTACHMENT: &str = "sha256-";

/// Reads a file and checks everything in it; nothing of a file with a problem may be applied.
///
/// # Errors
/// All problems, in the order of their lines.
pub fn load(text: &str) -> Result<Vec<Document>, Vec<Problem>> {
    let documents = parse_documents(text)?;
    let problems = resources(&documents);
    if problems.is_empty() {
        Ok(documents)
    } else {
        Err(problems)
    }
}

/// Checks what parsing a single resource does not: conditions, ranges, schedules, templates, and each against the others.
#[must_use]
pub fn resources(documents: &[Document]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen: HashMap<(Kind, &ResourceName), usize> = HashMap::new();
    for document in documents {
        let resource = &document.resource;
        if let Some(line) = seen.insert((resource.kind(), resource.name()), document.line) {
            let (kind, name) = (resource.kind(), resource.name());
            problems.push(Problem {
                line: document.line_of("name"),
                message: format!(
                    "the {kind} `{name}` is already written at line {line}; remove one of them"
                ),
            });
        }
        let found = match resource {
            Resource::Mirror(mirror) => mirror_faults(mirror),
            Resource::PromotionPolicy(policy) => promotion_faults(policy),
            Resource::PruningPolicy(policy) => pruning_faults(policy),
            _ => Vec::new(),
        };
        problems.extend(found.into_iter().map(|(key, message)| Problem {
            line: line_of(document, key),
            message: format!("`{key}`: {message}"),
        }));
    }
    problems.extend(conflicts::within(documents));
    problems.sort_by_key(|problem| problem.line);
    problems
}

/// Checks that what promotes into a remote registry has a credential for it: in the same file, or applied already.
#[must_use]
pub fn remote_targets(documents: &[Document], applied: &[Registry]) -> Vec<Problem> {
    let written = |document: &'_ Document| match &document.resource {
        Resource::Registry(registry) => Some(registry.clone()),
        _ => None,
    };
    let written: Vec<Registry> = documents.iter().filter_map(written).collect();
    // What is written again replaces what is applied.
    let kept = applied
        .iter()
        .filter(|applied| written.iter().all(|written| written.name != applied.name));
    let known: Vec<&Registry> = written.iter().chain(kept).collect();
    let mut problems = Vec::new();
    for document in documents {
        let Resource::PromotionPolicy(policy) = &document.resource else {
            continue;
        };
        let Some(host) = policy.to.registry() else {
            continue;
        };
        let has = |registry: &&Registry| registry.host == *host && registry.has_credential();
        if !known.iter().any(has) {
            problems.push(Problem {
                line: document.line_of("to"),
                message: format!(
                    "`to`: `{}` is in the remote registry `{host}`, for which there is no credential; apply a Registry with \
                     `host: {host}`, `username` and `password` before, or in the same file",
                    policy.to
                ),
            });
        }
    }
    problems
}

/// Returns the line of a key; `semver` is mostly on the line of `tags`.
fn line_of(document: &Document, key: &str) -> usize {
    match (key, document.line_of(key)) {
        ("semver", line) if line == document.line => document.line_of("tags"),
        (_, line) => line,
    }
}

fn mirror_faults(mirror: &Mirror) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    if let Some(Err(error)) = mirror.tags.semver.as_deref().map(str::parse::<Range>) {
        faults.push(("semver", error.to_string()));
    }
    let attachment = mirror.tags.include.iter().find(|name| {
        let tag = name.as_str().parse::<Tag>();
        tag.is_ok_and(|tag| tag.attached_to().is_some())
    });
    if let Some(name) = attachment {
        faults.push((
            "tags",
            format!("`{name}` is the tag of an attachment, which follows its image and is never selected; remove it"),
        ));
    }
    faults
}

fn promotion_faults(policy: &PromotionPolicy) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    if policy.when.is_none() && policy.rules.is_empty() {
        faults.push((
            "when",
            "the policy has no condition; write one as in `when: scan.critical == 0`, or `when: 'true'` to promote whatever was scanned"
                .to_owned(),
        ));
    }
    if let Err(problems) = promotion::compile(policy) {
        let key = if policy.when.is_some() {
            "when"
        } else {
            "rules"
        };
        faults.extend(problems.into_iter().map(|problem| (key, problem)));
    }
    match policy.tag.parse::<TagTemplate>() {
        Ok(_) => {}
        Err(error @ InvalidTemplate::Text { .. }) => {
            faults.push((
                "tag",
                format!("{error}; write it as in `%n` or `%n-%Y%m%d`"),
            ));
        }
        Err(error) => faults.push(("tag", error.to_string())),
    }
    // Promoted images under such tags would be taken for attachments, which are not evaluated.
    if policy.tag.starts_with(ATTACHMENT) {
        faults.push((
            "tag",
            format!("tags that begin with `{ATTACHMENT}` are those of signatures and SBOMs; write another, as in `%n`"),
        ));
    }
    if let Some(target) = target_that_is_a_source(policy) {
        faults.push((
            "to",
            format!(
                "`{target}` would be promoted again, because `from: {}` matches it; choose another organisation",
                policy.from
            ),
        ));
    }
    faults
}

/// Returns a target of the policy that is a source of it too, tried with samples of its sources.
fn target_that_is_a_source(policy: &PromotionPolicy) -> Option<Repository> {
    let samples = conflicts::samples(policy.from.as_str());
    samples.iter().find_map(|sample| {
        let target = policy.to.render(sample).ok()?;
        let local = target.local()?;
        policy.from.matches(local.as_str()).then(|| local.clone())
    })
}

fn pruning_faults(policy: &PruningPolicy) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    if let Err(error) = cron::to_six_fields(&policy.schedule) {
        faults.push(("schedule", error.to_string()));
    }
    if let Err(problems) = CompiledCondition::new(&policy.delete.0, Scope::Pruning) {
        faults.extend(problems.into_iter().map(|problem| ("delete", problem)));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "kind: Mirror
name: alpine
from: docker.io/library/alpine
to: hub/alpine
tags: { semver: '>=3.18', exclude: ['*-rc*'] }
---
kind: PromotionPolicy
name: clean
from: hub/*
to: official/{name}
tag: '%n'
when: scan.critical == 0 && scan.high == 0
---
kind: PromotionPolicy
name: dtr
from: hub/*
to: approved/{name}
rules:
  - { field: vulnerability_critical, operator: eq, values: ['0'] }
---
kind: PruningPolicy
name: nightly
repositories: [hub/*]
schedule: '0 3 * * *'
delete: tag.matches('-rc') || scan.critical > 5
";

    const MIRROR: &str = "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\n";

    fn checked(text: &str) -> Vec<Problem> {
        parse_documents(text).map_or_else(|problems| problems, |documents| resources(&documents))
    }

    #[test]
    fn a_good_file_has_no_problems() {
        assert_eq!(checked(GOOD), vec![]);
        assert_eq!(load(MIRROR).unwrap().len(), 1);
    }

    #[test]
    fn a_range_on_a_line_of_its_own_is_reported_with_that_line() {
        let text = format!("{MIRROR}tags:\n  semver: '>=>1'\n");
        let problems = load(&text).unwrap_err();
        assert_eq!((problems.len(), problems[0].line), (1, 6), "{problems:?}");
    }

    #[test]
    fn each_problem_is_reported_with_its_line_and_what_to_do() {
        for (good, bad, line, expected) in [
            (">=3.18", "newest", 5, "`newest` is not a version range"),
            (
                "scan.high == 0",
                "scan.hgih == 0",
                12,
                "did you mean `high`?",
            ),
            ("tag: '%n'", "tag: '%q'", 11, "`%q` is not a keyword"),
            (
                "tag: '%n'",
                "tag: '%n/x'",
                11,
                "does not make a tag; write it as in",
            ),
            (
                "operator: eq",
                "operator: is",
                18,
                "rule 1: unknown operator `is`",
            ),
            (
                "to: official/{name}",
                "to: hub/{name}-clean",
                10,
                "`hub/x-clean` would be promoted again",
            ),
            (
                "to: hub/alpine",
                "to: approved/alpine",
                17,
                "into which mirror `alpine` (line 1) copies",
            ),
            ("'0 3 * * *'", "'0 3 * *'", 24, "has 4 fields"),
            (
                "scan.critical > 5",
                "scan.critical > '5'",
                25,
                "have no order",
            ),
            (
                "delete: tag",
                "delete: platform",
                25,
                "unknown name `platform`",
            ),
            (
                "name: dtr",
                "name: clean",
                15,
                "the PromotionPolicy `clean` is already written at line 7",
            ),
            ("kind: Mirror", "kind: Miror", 1, "this version knows"),
        ] {
            let problems = checked(&GOOD.replace(good, bad));
            assert_eq!(problems[0].line, line, "{problems:?}");
            assert!(problems[0].message.contains(expected), "{problems:?}");
            assert_eq!(problems.len(), 1, "{problems:?}");
        }
    }

    #[test]
    fn all_problems_are_reported_at_once_in_the_order_of_their_lines() {
        let text = GOOD
            .replace("scan.high", "scan.hi")
            .replace("0 3 * * *", "x")
            .replace("3.18", "y");
        let lines: Vec<usize> = checked(&text).iter().map(|problem| problem.line).collect();
        assert_eq!(lines, [5, 12, 24]);
    }

    #[test]
    fn a_remote_target_needs_a_credential_for_its_registry() {
        let to = |to: &str| {
            let policy = GOOD.replace("official/{name}", to);
            parse_documents(&policy).unwrap()
        };
        let registry =
            |host: &str, more: &str| format!("kind: Registry\nname: partner\nhost: {host}\n{more}");
        let account = "username: sluice\npassword: { secret: partner }\n";
        let read = |text: &str| match parse_documents(text).unwrap().remove(0).resource {
            Resource::Registry(registry) => registry,
            other => panic!("{other:?}"),
        };
        let remote = to("registry.example/team/{name}");
        let applied = read(&registry("registry.example", account));
        assert_eq!(remote_targets(&to("official/{name}"), &[]), vec![]);
        assert_eq!(
            remote_targets(&remote, std::slice::from_ref(&applied)),
            vec![]
        );
        for without in [
            vec![],
            vec![read(&registry("registry.example", ""))],
            vec![read(&registry("registry.example:5000", account))],
        ] {
            let problems = remote_targets(&remote, &without);
            assert_eq!((problems.len(), problems[0].line), (1, 10), "{problems:?}");
            assert!(problems[0].message.contains("`host: registry.example`"));
        }
        // What the file says of the registry is what counts.
        let policy = GOOD.replace("official/{name}", "registry.example/team/{name}");
        for (more, count) in [(account, 0), ("", 1)] {
            let text = format!("{policy}---\n{}", registry("registry.example", more));
            let both = parse_documents(&text).unwrap();
            let problems = remote_targets(&both, std::slice::from_ref(&applied));
            assert_eq!(problems.len(), count, "{problems:?}");
        }
    }

    #[test]
    fn a_policy_that_could_never_be_carried_out_is_refused() {
        for (good, bad, line, expected) in [
            (
                "when: scan.critical == 0 && scan.high == 0\n",
                "",
                7,
                "has no condition",
            ),
            ("tag: '%n'", "tag: sha256-%n", 11, "signatures and SBOMs"),
            (
                "from: hub/*\nto: official",
                "from: '{hub,official}/*'\nto: official",
                10,
                "`official/x` would be promoted again",
            ),
        ] {
            let problems = checked(&GOOD.replace(good, bad));
            assert_eq!(
                (problems.len(), problems[0].line),
                (1, line),
                "{problems:?}"
            );
            assert!(problems[0].message.contains(expected), "{problems:?}");
        }
        let signature = format!("sha256-{}.sig", "a".repeat(64));
        let problems = checked(&format!("{MIRROR}tags: {{ include: [{signature}] }}\n"));
        assert_eq!((problems.len(), problems[0].line), (1, 5), "{problems:?}");
    }

    #[test]
    fn one_name_may_be_used_by_several_kinds() {
        let text = GOOD
            .replace("name: nightly", "name: clean")
            .replace("name: alpine", "name: clean");
        assert_eq!(checked(&text), vec![]);
    }
}
