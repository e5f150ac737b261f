//! Selects the tags of a remote repository that a mirror copies, and says why the others are excluded.

use sluice_domain::Tag;
use sluice_domain::resources::TagSelection;
use thiserror::Error;

use crate::tags::range::{InvalidRange, Range};
use crate::tags::tag_age::{TagAge, newest_first};

/// The tags of a repository that are selected, and the excluded ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectedTags {
    /// The selected tags, newest first as [`newest_first`] has it.
    pub tags: Vec<Tag>,
    /// All others: those over `newest`, newest first, then the rest in the order in which they were listed.
    pub excluded: Vec<(Tag, ExclusionReason)>,
}

/// Why a tag is not selected.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExclusionReason {
    /// The tag of a signature, an attestation or an SBOM.
    #[error("is attached to an image; attachments follow their image")]
    Attachment,
    /// Neither `include` nor `regex` matches.
    #[error("matches nothing in `include` or `regex`")]
    NotIncluded,
    /// A pattern of `exclude` or `exclude_regex` matches.
    #[error("excluded by `{0}`")]
    Excluded(String),
    /// The tag is a date, and a range selects versions only.
    #[error("is a date, and `semver` takes versions")]
    Date,
    /// The tag is no version, and a range selects versions only.
    #[error("is no version, and `semver` takes versions")]
    NoVersion,
    /// The range contains it, but names no pre-release.
    #[error("is a pre-release, and `semver` names none")]
    PreRelease,
    /// The range does not contain it.
    #[error("is outside of `semver`")]
    OutOfRange,
    /// As many selected tags as `newest` are newer.
    #[error("{0} selected tags are newer")]
    OverNewest(u32),
}

/// Selects tags, never those of signatures and other attachments.
///
/// # Errors
/// A range that cannot be read.
pub fn select(selection: &TagSelection, listed: &[Tag]) -> Result<SelectedTags, InvalidRange> {
    let range: Option<Range> = selection.semver.as_deref().map(str::parse).transpose()?;
    let (mut chosen, mut excluded) = (Vec::new(), Vec::new());
    for tag in listed {
        let age = TagAge::of(tag);
        match exclusion(selection, range.as_ref(), tag, &age) {
            None => chosen.push((age, tag)),
            Some(reason) => excluded.push((tag.clone(), reason)),
        }
    }
    chosen.sort_by(|(a_age, a), (b_age, b)| newest_first((a_age, a), (b_age, b)));
    chosen.dedup_by(|(_, a), (_, b)| a == b);
    if let Some(newest) = selection.newest {
        let limit = usize::try_from(newest)
            .unwrap_or(usize::MAX)
            .min(chosen.len());
        let older = chosen.split_off(limit);
        let older = older
            .into_iter()
            .map(|(_, tag)| (tag.clone(), ExclusionReason::OverNewest(newest)));
        excluded.splice(..0, older);
    }
    let tags = chosen.into_iter().map(|(_, tag)| tag.clone()).collect();
    Ok(SelectedTags { tags, excluded })
}

/// Returns why a tag is excluded, whatever the others are.
fn exclusion(
    selection: &TagSelection,
    range: Option<&Range>,
    tag: &Tag,
    age: &TagAge,
) -> Option<ExclusionReason> {
    if tag.attached_to().is_some() {
        return Some(ExclusionReason::Attachment);
    }
    if let Some(reason) = exclusion_by_name(selection, tag.as_str()) {
        return Some(reason);
    }
    let range = range?;
    match age {
        TagAge::Version(version) if range.contains(version) => None,
        TagAge::Version(version) if range.would_contain(version) => {
            Some(ExclusionReason::PreRelease)
        }
        TagAge::Version(_) => Some(ExclusionReason::OutOfRange),
        TagAge::Date(_) => Some(ExclusionReason::Date),
        TagAge::Unknown => Some(ExclusionReason::NoVersion),
    }
}

/// Returns why the patterns and expressions exclude a name.
fn exclusion_by_name(selection: &TagSelection, name: &str) -> Option<ExclusionReason> {
    let (include, regex) = (&selection.include, &selection.regex);
    let included = include.is_empty() && regex.is_empty()
        || include.iter().any(|pattern| pattern.matches(name))
        || regex.iter().any(|regex| regex.matches(name));
    if !included {
        return Some(ExclusionReason::NotIncluded);
    }
    let pattern = selection.exclude.iter().find(|p| p.matches(name));
    let regex = selection.exclude_regex.iter().find(|r| r.matches(name));
    let excluding = match (pattern, regex) {
        (Some(pattern), _) => pattern.as_str(),
        (None, regex) => regex?.as_str(),
    };
    Some(ExclusionReason::Excluded(excluding.to_owned()))
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
        let listed = ["20261123", "1.9", "latest", "20261201", "1.10", "20251224"];
        assert_eq!(chosen(&selection, &listed), ["1.10", "1.9", "20261201"]);
    }

    #[test]
    fn of_one_version_the_plain_release_comes_before_its_variants() {
        let selection = TagSelection {
            semver: Some(">=1.25".to_owned()),
            newest: Some(5),
            ..Default::default()
        };
        let listed = "1.27.3-alpine 1.27.3-alpine3.20 1.27.3-bookworm 1.27.3-otel 1.27.3-perl 1.27.3 1.27.2 1.27 1 latest";
        let listed: Vec<&str> = listed.split(' ').collect();
        let taken = chosen(&selection, &listed);
        assert_eq!((taken[0].as_str(), taken.len()), ("1.27.3", 5));
    }

    #[test]
    fn dates_and_pre_releases_are_in_no_range_and_push_no_version_out() {
        let listed = [
            "1.2.3",
            "1.10.0",
            "2023-12-31",
            "2024-01-15",
            "2024-01-15-abc1234",
            "20240115",
            "3a7f9c1",
            "24-ea-28-jdk",
            "1.4.0-M1",
            "latest",
        ];
        let range = TagSelection {
            semver: Some(">=1".to_owned()),
            ..Default::default()
        };
        assert_eq!(chosen(&range, &listed), ["1.10.0", "1.2.3"]);
        let newest = TagSelection {
            newest: Some(2),
            exclude: vec!["*-ea-*".parse().unwrap()],
            ..Default::default()
        };
        assert_eq!(chosen(&newest, &listed), ["1.10.0", "1.4.0-M1"]);
    }

    #[test]
    fn each_excluded_tag_has_its_reason() {
        let selection = TagSelection {
            semver: Some(">=1.0".to_owned()),
            exclude: vec!["*-perl".parse().unwrap()],
            exclude_regex: vec!["1\\..*-x".parse().unwrap()],
            regex: vec!["[^u].*".parse().unwrap()],
            newest: Some(1),
            ..Default::default()
        };
        let signature = format!("sha256-{}.sig", "a".repeat(64));
        let listed = [
            "1.1", "1.0", "0.9", "1.2-rc1", "1.1-perl", "1.1-x", "20240115", "edge", "unstable",
            &signature,
        ];
        let selected = select(&selection, &tags(&listed)).unwrap();
        let mut excluded: Vec<_> = selected.excluded.iter().collect();
        excluded.sort_by_key(|(tag, _)| listed.iter().position(|listed| *listed == tag.as_str()));
        let reasons: Vec<_> = excluded
            .into_iter()
            .map(|(_, reason)| reason.clone())
            .collect();
        assert_eq!(
            reasons,
            [
                ExclusionReason::OverNewest(1),
                ExclusionReason::OutOfRange,
                ExclusionReason::PreRelease,
                ExclusionReason::Excluded("*-perl".to_owned()),
                ExclusionReason::Excluded("1\\..*-x".to_owned()),
                ExclusionReason::Date,
                ExclusionReason::NoVersion,
                ExclusionReason::NotIncluded,
                ExclusionReason::Attachment,
            ]
        );
        assert_eq!(selected.tags.len() + selected.excluded.len(), listed.len());
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
