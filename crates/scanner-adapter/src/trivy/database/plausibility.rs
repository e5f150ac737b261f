//! Whether a vulnerability database is plausible: by its age, and compared with those that were accepted before.
//!
//! A database that lacks advisories finds less, and no report shows that.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::trivy::database::advisory_buckets::AdvisoryBuckets;
use crate::trivy::failure::{FailureKind, TrivyFailure};

/// By how much the clocks of a publisher and of this machine may differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(10);
/// The file in `trivy.cache_dir` that holds the [`Baseline`]; replicas that share the folder share it.
const BASELINE: &str = "last-good-database.json";

/// The rules that a database has to pass.
#[derive(Debug, Clone)]
pub(crate) struct Plausibility {
    /// The greatest age of a database.
    pub(crate) max_age: TimeDelta,
    /// How many percent of a bucket's entries may be missing in a newer database.
    pub(crate) max_loss_percent: u8,
    /// The sha256 of the `trivy.db` that a person accepts although it has lost more, as `sha256:<hex>`.
    pub(crate) accepted: String,
    /// The file of the baseline.
    pub(crate) baseline: PathBuf,
}

/// The database that others are compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Baseline {
    /// When the newest accepted database was made.
    updated_at: DateTime<Utc>,
    /// The most entries that each bucket had since a person last accepted a smaller one, so that a small loss each day
    /// is noticed too.
    #[serde(rename = "counts")]
    buckets: AdvisoryBuckets,
}

impl Plausibility {
    /// Returns the file of the baseline in a cache folder.
    pub(crate) fn baseline_in(cache_dir: &Path) -> PathBuf {
        cache_dir.join(BASELINE)
    }

    /// Checks when a database was made.
    ///
    /// # Errors
    /// [`FailureKind::DatabaseAge`], which says nothing of the content: the clock of this machine may be wrong.
    pub(crate) fn check_age(
        &self,
        updated_at: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), TrivyFailure> {
        let refused = |reason| Err(TrivyFailure::new(FailureKind::DatabaseAge, reason));
        let age = now.signed_duration_since(updated_at);
        if age < -CLOCK_TOLERANCE {
            return refused(format!(
                "it was made at {updated_at}, which is in the future"
            ));
        }
        if age > self.max_age {
            return refused(format!(
                "it was made at {updated_at}, more than {} days ago, the most that `trivy.database_max_age_days` allows",
                self.max_age.num_days()
            ));
        }
        Ok(())
    }

    /// Compares a database with the baseline, and returns the baseline that follows once the database is used.
    ///
    /// # Errors
    /// [`FailureKind::DatabaseShrunk`] for one that is older or has lost more than it may, unless a person accepted it;
    /// [`FailureKind::Unknown`] where the baseline or the file cannot be read.
    pub(crate) fn check_content(
        &self,
        database: &Path,
        updated_at: DateTime<Utc>,
        buckets: &AdvisoryBuckets,
    ) -> Result<Baseline, TrivyFailure> {
        let Some(before) = self.read().map_err(|error| self.io_failure(&error))? else {
            return Ok(Baseline::of(updated_at, buckets));
        };
        let Some(problem) = before.problem(updated_at, buckets, self.max_loss_percent) else {
            return Ok(before.raised(updated_at, buckets));
        };
        let digest = digest(database).map_err(|error| self.io_failure(&error))?;
        if digest != self.accepted {
            let advice = "if that is right, set `trivy.accepted_database` to";
            return Err(TrivyFailure::new(
                FailureKind::DatabaseShrunk,
                format!("{problem}; {advice} `{digest}`"),
            ));
        }
        tracing::warn!(
            problem,
            digest,
            "the vulnerability database is used because `trivy.accepted_database` names it"
        );
        Ok(Baseline::of(updated_at, buckets))
    }

    /// Returns a baseline made of a database that was used before, if the file of the baseline is missing.
    pub(crate) fn missing_baseline(
        &self,
        updated_at: DateTime<Utc>,
        buckets: &AdvisoryBuckets,
    ) -> Result<Option<Baseline>, TrivyFailure> {
        let before = self.read().map_err(|error| self.io_failure(&error))?;
        Ok(before.is_none().then(|| Baseline::of(updated_at, buckets)))
    }

    /// Stores the baseline of a database that is used from now on.
    pub(crate) fn store(&self, baseline: &Baseline) -> Result<(), TrivyFailure> {
        self.write(baseline)
            .map_err(|error| self.io_failure(&error))
    }

    fn io_failure(&self, error: &std::io::Error) -> TrivyFailure {
        let file = self.baseline.display();
        TrivyFailure::new(FailureKind::Unknown, format!("{file}: {error}"))
    }

    /// Reads the baseline; one that exists and cannot be read is an error.
    fn read(&self) -> std::io::Result<Option<Baseline>> {
        match fs::read(&self.baseline) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, baseline: &Baseline) -> std::io::Result<()> {
        let folder = self.baseline.parent().unwrap_or_else(|| Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&serde_json::to_vec_pretty(baseline)?)?;
        file.as_file().sync_all()?;
        file.persist(&self.baseline)?;
        Ok(())
    }
}

impl Baseline {
    fn of(updated_at: DateTime<Utc>, buckets: &AdvisoryBuckets) -> Self {
        Self {
            updated_at,
            buckets: buckets.clone(),
        }
    }

    /// Returns why a database is not plausible, if it is not.
    fn problem(
        &self,
        updated_at: DateTime<Utc>,
        buckets: &AdvisoryBuckets,
        max_loss_percent: u8,
    ) -> Option<String> {
        if updated_at < self.updated_at {
            return Some(format!(
                "it was made at {updated_at}, before the one of {} that was used last",
                self.updated_at
            ));
        }
        let (name, had, has) = self.buckets.iter().find_map(|(name, had)| {
            let has = buckets.count(name);
            let is_lost = had > 0 && has == 0;
            let min_percent = u128::from(100_u8.saturating_sub(max_loss_percent));
            let has_shrunk = u128::from(has) * 100 < u128::from(had) * min_percent;
            (is_lost || has_shrunk).then_some((name, had, has))
        })?;
        Some(format!(
            "its bucket `{}` has {has} entries instead of {had}, and `trivy.database_max_loss_percent` is {max_loss_percent}",
            name.escape_default()
        ))
    }

    /// Returns the baseline after a database that passed.
    fn raised(&self, updated_at: DateTime<Utc>, buckets: &AdvisoryBuckets) -> Self {
        let mut raised = self.clone();
        raised.updated_at = raised.updated_at.max(updated_at);
        raised.buckets.raise_to(buckets);
        raised
    }
}

/// Returns the sha256 of a file.
fn digest(path: &Path) -> std::io::Result<String> {
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path)?, &mut Hasher(&mut hash))?;
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(format!("sha256:{hex}"))
}

struct Hasher<'a>(&'a mut Sha256);

impl std::io::Write for Hasher<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn counts(buckets: &[(&str, u64)]) -> AdvisoryBuckets {
        AdvisoryBuckets::from_counts(buckets.iter().copied())
    }

    /// Rules with a folder of their own.
    fn rules(accepted: &str) -> (Plausibility, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let rules = Plausibility {
            max_age: TimeDelta::days(7),
            max_loss_percent: 20,
            accepted: accepted.to_owned(),
            baseline: Plausibility::baseline_in(folder.path()),
        };
        fs::write(folder.path().join("trivy.db"), "database").unwrap();
        (rules, folder)
    }

    fn checked(
        rules: &Plausibility,
        at: &str,
        buckets: &[(&str, u64)],
    ) -> Result<(), TrivyFailure> {
        let database = rules.baseline.with_file_name("trivy.db");
        let baseline = rules.check_content(&database, time(at), &counts(buckets))?;
        rules.store(&baseline)
    }

    #[test]
    fn a_database_from_the_future_or_of_long_ago_is_refused() {
        let (rules, _folder) = rules("");
        let now = time("2026-11-20T00:00:00Z");
        for (made, passes) in [
            ("2026-11-20T00:00:00Z", true),
            ("2026-11-20T00:10:00Z", true),
            ("2026-11-20T00:10:01Z", false),
            ("2100-01-01T00:00:00Z", false),
            ("2026-11-13T00:00:00Z", true),
            ("2026-11-12T23:59:59Z", false),
            ("1970-01-01T00:00:00Z", false),
        ] {
            let checked = rules.check_age(time(made), now);
            assert_eq!(checked.is_ok(), passes, "{made}");
            let kind = checked.err().map(|failed| failed.kind);
            assert!(
                kind.is_none_or(|kind| kind == FailureKind::DatabaseAge && !kind.is_bad_content())
            );
        }
    }

    #[test]
    fn a_database_that_lost_a_bucket_or_many_advisories_is_refused() {
        let had = [("debian 12", 1_000), ("npm::GHSA", 10), ("empty", 0)];
        let later = "2026-11-02T00:00:00Z";
        for (has, passes) in [
            (vec![("debian 12", 1_000), ("npm::GHSA", 10)], true),
            (vec![("debian 12", 800), ("npm::GHSA", 8)], true),
            (vec![("debian 12", 799), ("npm::GHSA", 10)], false),
            (vec![("debian 12", 1_000), ("npm::GHSA", 7)], false),
            (vec![("debian 12", 1_000)], false),
            (vec![("debian 12", 1_000), ("npm::GHSA", 0)], false),
            // More entries in other buckets do not make up for a loss.
            (vec![("debian 12", 9_000), ("npm::Other", 99)], false),
            (vec![], false),
        ] {
            let (rules, _folder) = rules("");
            checked(&rules, "2026-11-01T00:00:00Z", &had).unwrap();
            let refused = checked(&rules, later, &has).err();
            assert_eq!(refused.is_none(), passes, "{has:?}");
            if let Some(refused) = refused {
                assert!(
                    refused.kind == FailureKind::DatabaseShrunk && refused.kind.is_bad_content()
                );
                assert!(
                    refused.message.contains("trivy.accepted_database"),
                    "{refused}"
                );
            }
            // One that was refused is nothing to compare with.
            checked(&rules, later, &had).unwrap();
        }
    }

    #[test]
    fn a_database_that_loses_a_little_each_day_is_noticed() {
        let (rules, _folder) = rules("");
        let checked = |day: u64, count| {
            let at = format!("2026-11-{day:02}T00:00:00Z");
            checked(&rules, &at, &[("debian 12", count)])
        };
        checked(1, 1_000).unwrap();
        checked(2, 900).unwrap();
        checked(3, 810).unwrap();
        assert!(checked(4, 729).is_err());
    }

    #[test]
    fn an_older_database_than_the_last_one_is_refused() {
        let (rules, _folder) = rules("");
        let had = [("debian 12", 1_000)];
        checked(&rules, "2026-11-02T00:00:00Z", &had).unwrap();
        assert!(checked(&rules, "2026-11-01T00:00:00Z", &[("debian 12", 2_000)]).is_err());
    }

    #[test]
    fn a_person_accepts_one_smaller_database_and_no_other() {
        // Of `database`, which is what `rules` writes.
        let accepted = "sha256:3549b0028b75d981cdda2e573e9cb49dedc200185876df299f912b79f69dabd8";
        let (rules, folder) = rules(accepted);
        checked(&rules, "2026-11-01T00:00:00Z", &[("debian 12", 1_000)]).unwrap();
        checked(&rules, "2026-11-02T00:00:00Z", &[("debian 12", 100)]).unwrap();
        // From now on that is what others are compared with.
        fs::write(folder.path().join("trivy.db"), "another").unwrap();
        checked(&rules, "2026-11-03T00:00:00Z", &[("debian 12", 90)]).unwrap();
        assert!(checked(&rules, "2026-11-04T00:00:00Z", &[("debian 12", 10)]).is_err());
    }

    #[test]
    fn a_baseline_that_cannot_be_read_is_an_error() {
        let (rules, _folder) = rules("");
        fs::write(&rules.baseline, "{").unwrap();
        let failed = checked(&rules, "2026-11-01T00:00:00Z", &[("debian 12", 1)]).unwrap_err();
        assert!(!failed.kind.is_bad_content(), "{failed}");
        assert!(failed.message.contains(BASELINE), "{failed}");
    }

    proptest! {
        #[test]
        fn whatever_passes_has_kept_enough_of_the_most_that_each_bucket_ever_had(
            days in proptest::collection::vec(
                proptest::collection::btree_map("[ab]", 0_u64..100, 0..3), 1..6),
        ) {
            let (rules, folder) = rules("");
            let mut most = BTreeMap::<String, u64>::new();
            for (day, counts) in days.into_iter().enumerate() {
                let at = time("2026-11-01T00:00:00Z") + TimeDelta::days(day.try_into().unwrap());
                let buckets = AdvisoryBuckets::from_counts(counts.clone());
                let checked = rules.check_content(&folder.path().join("trivy.db"), at, &buckets);
                let passes = checked.is_ok();
                let is_enough = most.iter().all(|(name, had)| {
                    let has = counts.get(name).copied().unwrap_or(0);
                    (*had == 0 || has > 0) && has * 100 >= had * 80
                });
                prop_assert_eq!(passes, is_enough);
                if let Ok(baseline) = checked {
                    rules.store(&baseline).unwrap();
                    for (name, count) in counts {
                        let had = most.entry(name).or_default();
                        *had = (*had).max(count);
                    }
                }
            }
        }
    }
}
