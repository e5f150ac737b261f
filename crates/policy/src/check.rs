//! Checks of resources that need more than the values: ranges, overlaps, and what this version carries out.

use std::collections::BTreeSet;

use sluice_domain::resources::{Document, Kind, Problem, Resource, documents};

use crate::range::Range;

/// Reads a file of resources and checks everything that can be checked without the installation.
///
/// # Errors
/// All problems, each with its line; nothing of such a file may be applied.
pub fn load(text: &str) -> Result<Vec<Document>, Vec<Problem>> {
    let documents = documents(text)?;
    let mut problems = Vec::new();
    let mut names = BTreeSet::new();
    for document in &documents {
        let resource = &document.resource;
        let mut report = |key: &str, message: String| {
            problems.push(Problem {
                line: document.line_of(key),
                message,
            });
        };
        if !names.insert((resource.kind(), resource.name())) {
            report(
                "name",
                format!(
                    "{} `{}` stands twice in this file",
                    resource.kind(),
                    resource.name()
                ),
            );
        }
        match resource {
            Resource::Registry(_) | Resource::Repository(_) => {}
            Resource::Mirror(mirror) => {
                if let Some(range) = &mirror.tags.semver
                    && let Err(error) = range.parse::<Range>()
                {
                    report("semver", format!("`semver`: {error}"));
                }
            }
            Resource::PromotionPolicy(_)
            | Resource::PruningPolicy(_)
            | Resource::Webhook(_)
            | Resource::Account(_) => {
                report("kind", not_yet(resource.kind()));
            }
        }
    }
    if problems.is_empty() {
        Ok(documents)
    } else {
        Err(problems)
    }
}

/// A resource that nobody carries out must not look as if somebody did.
fn not_yet(kind: Kind) -> String {
    format!("this version does not carry out `{kind}` yet; remove the document")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIRROR: &str = "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\n";

    #[test]
    fn a_bad_range_is_told_with_its_line() {
        let text = format!(
            "{MIRROR}---\n{}tags:\n  semver: '>=>1'\n",
            MIRROR.replace("name: a", "name: b")
        );
        let problems = load(&text).unwrap_err();
        assert_eq!((problems.len(), problems[0].line), (1, 11), "{problems:?}");
        assert!(problems[0].message.contains(">=3.18"), "{problems:?}");
    }

    #[test]
    fn a_name_that_stands_twice_is_refused() {
        assert!(
            load(&format!("{MIRROR}---\n{MIRROR}")).unwrap_err()[0]
                .message
                .contains("twice")
        );
    }

    #[test]
    fn what_nobody_carries_out_is_refused() {
        let text = "kind: Webhook\nname: a\nurl: https://a.b/c\nevents: ['*']\n";
        assert!(
            load(text).unwrap_err()[0]
                .message
                .contains("does not carry out `Webhook` yet")
        );
    }
}
