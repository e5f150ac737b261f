//! Sums of results, and whether the quota of a source is enough for the planned pulls.

use std::collections::BTreeMap;

use sluice_domain::RegistryHost;
use sluice_registry::{Cost, RateLimit};

use crate::clients::{RegistryUsage, Side};
use crate::outcome::{TransferStats, Work};
use crate::sync::{MirrorResult, TagOutcome};

/// Counted pulls by source registry.
pub type Pulls = BTreeMap<RegistryHost, u64>;

/// Numbers of tags by outcome, and the work for all of them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Tags that were up to date.
    pub unchanged: u64,
    /// Tags that were copied.
    pub copied: u64,
    /// Tags that would be copied.
    pub planned: u64,
    /// Tags that were deleted, or would be.
    pub deleted: u64,
    /// Mirrors, tags and attachments that failed.
    pub failed: u64,
    /// Attachments that were copied, or would be.
    pub attachments: u64,
    /// The transfers of all copies.
    pub transferred: TransferStats,
    /// The cost of all planned copies.
    pub cost: Cost,
}

/// The planned pulls from a registry, compared with its quota.
#[derive(Debug, Clone)]
pub struct QuotaForecast {
    /// The registry.
    pub host: RegistryHost,
    /// The planned pulls.
    pub pulls: u64,
    /// The quota, if the registry has one.
    pub quota: Option<RateLimit>,
    /// The further windows that the pulls need; `None` without a quota, or if it allows no pulls at all.
    pub windows: Option<u64>,
}

impl Totals {
    /// Sums up the results of mirrors.
    pub fn of<'a>(mirrors: impl IntoIterator<Item = &'a MirrorResult>) -> Self {
        let mut totals = Self::default();
        for mirror in mirrors {
            totals.failed += u64::from(mirror.failure.is_some());
            for tag in &mirror.tags {
                totals.add(&tag.outcome);
            }
        }
        totals
    }

    fn add(&mut self, outcome: &TagOutcome) {
        match outcome {
            TagOutcome::Failed(_) => self.failed += 1,
            TagOutcome::Deleted => self.deleted += 1,
            TagOutcome::Copied(outcome) => {
                match &outcome.work {
                    Work::Unchanged => self.unchanged += 1,
                    Work::Copied(_) => self.copied += 1,
                    Work::Planned(_) => self.planned += 1,
                }
                self.attachments += outcome.attachments.count();
                self.failed += u64::from(outcome.attachments.failure.is_some());
                for work in outcome.works() {
                    self.add_work(work);
                }
            }
        }
    }

    fn add_work(&mut self, work: &Work) {
        match work {
            Work::Unchanged => {}
            Work::Copied(stats) => self.transferred.add(stats),
            Work::Planned(cost) => self.cost.add(cost),
        }
    }
}

/// Compares planned pulls with the quotas that the registries have reported.
pub fn forecast(usage: &[RegistryUsage], pulls: &Pulls) -> Vec<QuotaForecast> {
    let forecasts = pulls.iter().map(|(host, pulls)| {
        let source = |usage: &&RegistryUsage| usage.side == Side::Source && usage.host == *host;
        let quota = usage.iter().find(source).and_then(|usage| usage.quota);
        QuotaForecast {
            host: host.clone(),
            pulls: *pulls,
            quota,
            windows: quota.and_then(|quota| windows(*pulls, quota.remaining, quota.limit)),
        }
    });
    forecasts.collect()
}

/// Returns how many windows pulls need after the rest of the current one.
fn windows(pulls: u64, remaining: u64, limit: u64) -> Option<u64> {
    match pulls.saturating_sub(remaining) {
        0 => Some(0),
        _ if limit == 0 => None,
        missing => Some(missing.div_ceil(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_counted_after_the_rest_of_the_current_one() {
        for (pulls, remaining, limit, more) in [
            (0, 0, 100, Some(0)),
            (20, 20, 100, Some(0)),
            (21, 20, 100, Some(1)),
            (220, 20, 100, Some(2)),
            (221, 20, 100, Some(3)),
            (1, 0, 0, None),
        ] {
            assert_eq!(windows(pulls, remaining, limit), more);
        }
    }
}
