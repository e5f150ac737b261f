//! Which tags of a remote repository a mirror takes.

use std::cmp::Ordering;

use sluice_domain::Tag;
use sluice_domain::resources::TagSelection;

use crate::range::{InvalidRange, Range};
use crate::version::TagVersion;

/// The tags that were chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selected {
    /// Them, highest version first, then those without a version by name, backwards: dated tags newest first.
    pub tags: Vec<Tag>,
    /// How many others there were.
    pub left_out: usize,
}

/// Chooses tags; signatures and other attachments are never among them.
///
/// # Errors
/// A range that cannot be read.
pub fn select(selection: &TagSelection, listed: &[Tag]) -> Result<Selected, InvalidRange> {
    let range: Option<Range> = selection.semver.as_deref().map(str::parse).transpose()?;
    let mut chosen: Vec<(Option<TagVersion>, &Tag)> = listed
        .iter()
        .filter(|tag| tag.attached_to().is_none())
        .filter(|tag| is_named(selection, tag.as_str()))
        .map(|tag| (TagVersion::parse(tag.as_str()), tag))
        .filter(|(version, _)| {
            range.as_ref().is_none_or(|range| {
                version
                    .as_ref()
                    .is_some_and(|version| range.contains(version))
            })
        })
        .collect();
    chosen.sort_by(|(a_version, a), (b_version, b)| {
        newest_first(a_version.as_ref(), b_version.as_ref()).then_with(|| b.cmp(a))
    });
    chosen.dedup_by(|(_, a), (_, b)| a == b);
    if let Some(newest) = selection.newest {
        chosen.truncate(usize::try_from(newest).unwrap_or(usize::MAX));
    }
    let tags: Vec<Tag> = chosen.into_iter().map(|(_, tag)| tag.clone()).collect();
    Ok(Selected {
        left_out: listed.len().saturating_sub(tags.len()),
        tags,
    })
}

/// Says whether the patterns and expressions leave a name in.
fn is_named(selection: &TagSelection, name: &str) -> bool {
    let (include, regex) = (&selection.include, &selection.regex);
    let included = include.is_empty() && regex.is_empty()
        || include.iter().any(|pattern| pattern.matches(name))
        || regex.iter().any(|regex| regex.matches(name));
    let (exclude, exclude_regex) = (&selection.exclude, &selection.exclude_regex);
    included
        && !exclude.iter().any(|pattern| pattern.matches(name))
        && !exclude_regex.iter().any(|regex| regex.matches(name))
}

fn newest_first(a: Option<&TagVersion>, b: Option<&TagVersion>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => b.compare_exactly(a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => Ordering::Equal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(names: &[&str]) -> Vec<Tag> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn chosen(selection: &TagSelection, names: &[&str]) -> Vec<String> {
        select(selection, &tags(names))
            .unwrap()
            .tags
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn ranges_exclusions_and_the_newest_are_combined() {
        let selection = TagSelection {
            semver: Some(">=3.18".to_owned()),
            exclude: vec!["*-rc*".parse().unwrap(), "edge".parse().unwrap()],
            newest: Some(2),
            ..Default::default()
        };
        let listed = [
            "3.17", "3.18", "3.9", "3.20", "3.19.1", "3.21-rc1", "edge", "latest", "20261123",
        ];
        assert_eq!(chosen(&selection, &listed), ["3.20", "3.19.1"]);
    }

    #[test]
    fn attachments_are_never_chosen() {
        let signature = format!("sha256-{}.sig", "a".repeat(64));
        assert_eq!(
            chosen(&TagSelection::default(), &["latest", &signature, "1.0"]),
            ["1.0", "latest"]
        );
    }

    #[test]
    fn tags_without_a_version_follow_and_the_newest_dates_come_first() {
        let selection = TagSelection {
            newest: Some(3),
            ..Default::default()
        };
        let listed = ["20261123", "1.9", "20261201", "1.10", "20251224"];
        assert_eq!(chosen(&selection, &listed), ["1.10", "1.9", "20261201"]);
    }

    #[test]
    fn include_takes_any_of_its_patterns() {
        let selection = TagSelection {
            include: vec!["*-alpine".parse().unwrap(), "latest".parse().unwrap()],
            ..Default::default()
        };
        let listed = ["1.2", "1.2-alpine", "latest", "edge"];
        assert_eq!(chosen(&selection, &listed), ["1.2-alpine", "latest"]);
    }

    #[test]
    fn expressions_add_to_patterns_and_take_away() {
        let selection = TagSelection {
            include: vec!["latest".parse().unwrap()],
            regex: vec![r"v?\d+\.\d+".parse().unwrap()],
            exclude_regex: vec![r"1\..*".parse().unwrap()],
            ..Default::default()
        };
        let listed = ["v2.0", "1.2", "2.1", "2.1.1", "latest", "edge"];
        assert_eq!(chosen(&selection, &listed), ["2.1", "v2.0", "latest"]);
    }

    #[test]
    fn a_bad_range_is_an_error_and_not_an_empty_choice() {
        let selection = TagSelection {
            semver: Some(">=>1".to_owned()),
            ..Default::default()
        };
        assert!(select(&selection, &tags(&["1.0"])).is_err());
    }
}
