//! The facts of an image that the condition of a pruning policy is evaluated with.

use std::collections::BTreeMap;

use sluice_domain::{ChildVerdict, Digest, Repository, ScanFacts};
use sluice_events::time_from_wire;
use sluice_events::wire::state::{ImageChild, ImageEntry, Verdict};
use sluice_policy::condition::{CompiledCondition, ImageFacts};
use sluice_registry::Client;
use sluice_state::{Error, State, key, read_image};

/// The facts of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ConditionFacts {
    pub(super) scan: Option<ScanFacts>,
    pub(super) image: ImageFacts,
}

/// Reads the facts that a condition names; what cannot be read stays unknown, so that no image is deleted for it.
pub(super) async fn read_condition_facts(
    state: &State,
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
    condition: &CompiledCondition,
) -> Result<ConditionFacts, Error> {
    let (scan, image) = (condition.names("scan"), condition.names("image"));
    if !scan && !image {
        return Ok(ConditionFacts::default());
    }
    // The services that write these entries may delete in staging themselves.
    let entry = match state.images.get(&key::image(digest)).await? {
        Some(entry) => Ok(entry.value),
        None => read_image(registry, repository, digest).await,
    };
    let entry = match entry {
        Ok(entry) => entry,
        Err(Error::Registry(
            error @ (sluice_registry::Error::NotFound { .. }
            | sluice_registry::Error::Untrusted { .. }),
        )) => {
            tracing::warn!(image.repository = %repository, image.digest = %digest, %error, "the image cannot be read");
            return Ok(ConditionFacts::default());
        }
        Err(error) => return Err(error),
    };
    let mut facts = ConditionFacts {
        scan: None,
        image: image_facts(&entry),
    };
    if scan {
        let mut verdicts = Vec::new();
        for child in entry.children.iter().filter(|child| !child.attestation) {
            let Ok(digest) = child.digest.parse() else {
                return Ok(facts);
            };
            match state.verdicts.get(&key::verdict(&digest)).await? {
                Some(verdict) => verdicts.push(verdict.value),
                None => return Ok(facts),
            }
        }
        facts.scan = worst(&verdicts);
    }
    Ok(facts)
}

/// Merges the verdicts of all platforms: each count is that of the platform with the most.
///
/// A sum would count a finding once for each platform. One platform without a usable verdict leaves all facts unknown.
fn worst(verdicts: &[Verdict]) -> Option<ScanFacts> {
    let usable = |verdict: &Verdict| ChildVerdict::from(verdict).usable_scan().cloned();
    let mut verdicts = verdicts.iter().map(usable);
    let mut all = verdicts.next()??;
    for next in verdicts {
        let next = next?;
        let (counts, more) = (&mut all.counts, next.counts);
        counts.critical = counts.critical.max(more.critical);
        counts.high = counts.high.max(more.high);
        counts.medium = counts.medium.max(more.medium);
        counts.low = counts.low.max(more.low);
        counts.unknown = counts.unknown.max(more.unknown);
        all.dtr.critical = all.dtr.critical.max(next.dtr.critical);
        all.dtr.major = all.dtr.major.max(next.dtr.major);
        all.dtr.minor = all.dtr.minor.max(next.dtr.minor);
        all.fixable = all.fixable.zip(next.fixable).map(|(a, b)| a.max(b));
        all.packages = all.packages.max(next.packages);
        all.os = all.os.filter(|os| next.os.as_ref() == Some(os));
        all.end_of_life |= next.end_of_life;
        all.scanned_at = all.scanned_at.zip(next.scanned_at).map(|(a, b)| a.min(b));
    }
    Some(all)
}

/// Of an index, the youngest build counts.
fn image_facts(entry: &ImageEntry) -> ImageFacts {
    let runnable: Vec<&ImageChild> = entry
        .children
        .iter()
        .filter(|child| !child.attestation)
        .collect();
    ImageFacts {
        created: runnable
            .iter()
            .filter_map(|child| time_from_wire(child.created_at.as_ref()))
            .max(),
        size_bytes: Some(entry.size_bytes),
        labels: labels(&runnable),
        platforms: runnable
            .iter()
            .filter_map(|child| child.platform.parse().ok())
            .collect(),
    }
}

/// Returns the labels with the same value in all images; `None` where those of one image are not known.
fn labels(runnable: &[&ImageChild]) -> Option<BTreeMap<String, String>> {
    if runnable.iter().any(|child| child.labels_omitted) {
        return None;
    }
    let Some((first, others)) = runnable.split_first() else {
        return Some(BTreeMap::new());
    };
    let agreed = |name: &str, value: &str| {
        let mut others = others.iter();
        others.all(|child| child.labels.get(name).is_some_and(|other| other == value))
    };
    let labels = first.labels.iter();
    let labels = labels.filter(|(name, value)| agreed(name, value));
    Some(
        labels
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use sluice_events::time_to_wire;
    use sluice_events::wire::events as wire;
    use sluice_events::wire::state::VerdictStatus;

    use super::*;

    fn verdict(critical: u64, high: u64) -> Verdict {
        Verdict {
            status: VerdictStatus::Covered.into(),
            counts: Some(wire::SeverityCounts {
                critical,
                high,
                ..Default::default()
            }),
            packages: 10,
            os: "debian 12".to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn each_count_is_that_of_the_worst_platform() {
        let mut other = verdict(1, 7);
        other.os = "debian 11".to_owned();
        other.end_of_life = true;
        let all = worst(&[verdict(3, 2), other]).unwrap();
        assert_eq!((all.counts.critical, all.counts.high), (3, 7));
        assert_eq!((all.os, all.end_of_life), (None, true));
        assert_eq!(
            worst(&[verdict(3, 2)]).unwrap().os.as_deref(),
            Some("debian 12")
        );
    }

    #[test]
    fn one_platform_without_a_usable_verdict_leaves_all_unknown() {
        let mut failed = verdict(0, 0);
        failed.status = VerdictStatus::Failed.into();
        let mut empty = verdict(0, 0);
        empty.packages = 0;
        let mut countless = verdict(0, 0);
        countless.counts = None;
        for bad in [failed, empty, countless] {
            assert_eq!(worst(&[verdict(9, 9), bad.clone()]), None);
            assert_eq!(worst(&[bad]), None);
        }
        assert_eq!(worst(&[]), None);
    }

    #[test]
    fn an_index_is_as_old_as_its_youngest_image() {
        let child = |seconds, labels: &[(&str, &str)]| ImageChild {
            platform: "linux/amd64".to_owned(),
            created_at: chrono::DateTime::from_timestamp(seconds, 0).map(time_to_wire),
            labels: labels
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ..Default::default()
        };
        let attestation = ImageChild {
            attestation: true,
            ..child(9, &[])
        };
        let entry = ImageEntry {
            children: vec![
                child(1, &[("a", "1"), ("b", "1"), ("c", "1")]),
                child(2, &[("a", "1"), ("b", "2")]),
                attestation,
            ],
            size_bytes: 5,
            ..Default::default()
        };
        let facts = image_facts(&entry);
        assert_eq!(facts.created.unwrap().timestamp(), 2);
        assert_eq!(
            facts.labels.unwrap().into_iter().collect::<Vec<_>>(),
            [("a".to_owned(), "1".to_owned())]
        );
        assert_eq!((facts.platforms.len(), facts.size_bytes), (2, Some(5)));
    }
}
