//! Shows how mirrors went: a row for each tag that was not as it should be, one for the others, and what it took.

use std::process::ExitCode;
use std::sync::PoisonError;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_registry::Cost;

use super::run::{End, MirrorResult, Results, TagResult};
use crate::cost::{self, Pulls, merge};
use crate::exit::{FAILED, INTERRUPTED};
use crate::output::{Format, line, note, show};
use crate::remote::{Asked, Side};
use crate::transfer::{Brought, Session, Spent, Work};

/// How mirrors went, and what it took.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) mirrors: Vec<MirrorResult>,
    pub(crate) asked: Vec<Asked>,
    pub(crate) dry_run: bool,
    elapsed: Duration,
    interrupted: bool,
}

/// How many tags of each kind there are, and what they took together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) unchanged: u64,
    pub(crate) copied: u64,
    pub(crate) planned: u64,
    pub(crate) removed: u64,
    pub(crate) failed: u64,
    pub(crate) attachments: u64,
    spent: Spent,
    pub(crate) cost: Cost,
}

impl Totals {
    pub(crate) fn of<'a>(mirrors: impl IntoIterator<Item = &'a MirrorResult>) -> Self {
        let mut totals = Self::default();
        for mirror in mirrors {
            totals.failed += u64::from(mirror.failure.is_some());
            for tag in &mirror.tags {
                totals.add(&tag.end);
            }
        }
        totals
    }

    fn add(&mut self, end: &End) {
        match end {
            End::Failed(_) => self.failed += 1,
            End::Removed => self.removed += 1,
            End::Brought(brought) => {
                match &brought.work {
                    Work::Unchanged => self.unchanged += 1,
                    Work::Copied(_) => self.copied += 1,
                    Work::Planned(_) => self.planned += 1,
                }
                self.attachments += brought.attached.count();
                self.failed += u64::from(brought.attached.failure.is_some());
                for work in brought.works() {
                    self.spend(work);
                }
            }
        }
    }

    fn spend(&mut self, work: &Work) {
        match work {
            Work::Unchanged => {}
            Work::Copied(spent) => self.spent.add(spent),
            Work::Planned(cost) => self.cost.add(cost),
        }
    }
}

impl Report {
    /// Takes stock, and takes the results, to which nobody adds anything any more.
    pub(crate) fn new(
        session: &Session,
        results: &Results,
        elapsed: Duration,
        interrupted: bool,
    ) -> Self {
        let mut mirrors =
            std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
        for mirror in &mut mirrors {
            mirror.tags.sort_by(|a, b| a.tag.cmp(&b.tag));
        }
        Self {
            mirrors,
            asked: session.clients.asked(),
            dry_run: session.is_dry_run(),
            elapsed,
            interrupted,
        }
    }

    /// Returns the pulls that would be counted, by registry.
    pub(crate) fn pulls(&self) -> Pulls {
        let mut pulls = Pulls::new();
        for mirror in &self.mirrors {
            let cost = Totals::of([mirror]).cost;
            *pulls.entry(mirror.mirror.from.host.clone()).or_default() += cost.pulls;
        }
        pulls.retain(|_, count| *count > 0);
        pulls
    }

    /// Shows it, and returns the exit code.
    pub(crate) fn show(&self, format: Format) -> anyhow::Result<ExitCode> {
        let totals = Totals::of(&self.mirrors);
        // Of thousands of tags they take more memory than all the work did.
        let mut objects = match format {
            Format::Table => json!({}),
            _ => self.objects(&totals),
        };
        let forecast = cost::forecast(&self.asked, &self.pulls(), &mut objects);
        if format == Format::Table {
            let header = ["MIRROR", "TAG", "OUTCOME", "DIGEST", "SIZE", "PULLS"];
            show(format, &header, self.rows(), &Value::Null)?;
            line("")?;
            for text in self.summary(&totals).into_iter().chain(forecast) {
                line(&text)?;
            }
        } else {
            show(format, &[], Vec::new(), &objects)?;
        }
        self.code(&totals)
    }

    /// Says what failed on standard error, and returns the exit code.
    pub(crate) fn code(&self, totals: &Totals) -> anyhow::Result<ExitCode> {
        if self.interrupted {
            note("interrupted; no tag is incomplete");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        self.tell_left_out();
        if totals.failed == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        for mirror in &self.mirrors {
            let name = &mirror.mirror.name;
            if let Some(failure) = &mirror.failure {
                note(&format!("failed: {name}: {failure}"));
            }
            for TagResult { tag, end } in &mirror.tags {
                let reason = match end {
                    End::Failed(reason) => Some(reason),
                    End::Brought(brought) => brought.attached.failure.as_ref(),
                    End::Removed => None,
                };
                if let Some(reason) = reason {
                    let from = &mirror.mirror.from;
                    note(&format!("failed: {name}: {from}:{tag}: {reason}"));
                }
            }
        }
        Ok(ExitCode::from(FAILED))
    }

    /// Says on standard error what was attached to images and was not taken.
    fn tell_left_out(&self) {
        for mirror in &self.mirrors {
            let from = &mirror.mirror.from;
            for TagResult { tag, end } in &mirror.tags {
                let End::Brought(brought) = end else {
                    continue;
                };
                for reason in &brought.attached.left_out {
                    note(&format!("left out: {from}:{tag}: {reason}"));
                }
            }
        }
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for mirror in &self.mirrors {
            let name = mirror.mirror.name.to_string();
            let mut unchanged = 0_u64;
            for TagResult { tag, end } in &mirror.tags {
                let row = match end {
                    End::Brought(brought) if brought.is_unchanged() => {
                        unchanged += 1;
                        continue;
                    }
                    End::Brought(brought) => of_brought(brought),
                    End::Removed => [self.removed().to_owned()].to_vec(),
                    End::Failed(_) => ["failed".to_owned()].to_vec(),
                };
                let mut row = [vec![name.clone(), tag.to_string()], row].concat();
                row.resize(6, String::new());
                rows.push(row);
            }
            let mut fold = |tags: String, outcome: &str| {
                let mut row = vec![name.clone(), tags, outcome.to_owned()];
                row.resize(6, String::new());
                rows.push(row);
            };
            if unchanged > 0 {
                fold(format!("({unchanged} tags)"), "unchanged");
            }
            if mirror.failure.is_some() {
                fold("(all)".to_owned(), "failed");
            } else if !mirror.is_done {
                fold("(the rest)".to_owned(), "interrupted");
            } else if mirror.tags.is_empty() {
                fold("(no tags)".to_owned(), "");
            }
        }
        rows
    }

    fn removed(&self) -> &'static str {
        if self.dry_run {
            "would remove"
        } else {
            "removed"
        }
    }

    pub(crate) fn summary(&self, totals: &Totals) -> Vec<String> {
        let work = if self.dry_run {
            format!("{} to copy", totals.planned)
        } else {
            format!("{} copied", totals.copied)
        };
        let attached = match totals.attachments {
            0 => String::new(),
            count => format!(" with {}", cost::attachments(count)),
        };
        let mut lines = vec![format!(
            "{work}{attached}, {} unchanged, {} {}, {} failed in {:.1} s",
            totals.unchanged,
            totals.removed,
            self.removed(),
            totals.failed,
            self.elapsed.as_secs_f64()
        )];
        lines.push(cost::sentence(&if self.dry_run {
            Work::Planned(totals.cost)
        } else {
            Work::Copied(totals.spent)
        }));
        for asked in &self.asked {
            let (host, requests) = (&asked.host, &asked.requests);
            lines.push(match asked.side {
                Side::Source => format!(
                    "{host} (source): {} requests, {} counted pulls among them",
                    requests.total(),
                    requests.manifest_gets
                ),
                Side::Destination => format!("{host} (destination): {} requests", requests.total()),
            });
        }
        lines
    }

    fn objects(&self, totals: &Totals) -> Value {
        let outcome = match (self.interrupted, totals.failed) {
            (true, _) => "interrupted",
            (false, 0) => "done",
            (false, _) => "failed",
        };
        let mirrors: Vec<_> = self.mirrors.iter().map(|m| self.mirror(m)).collect();
        json!({
            "outcome": outcome,
            "dryRun": self.dry_run,
            "seconds": cost::seconds(self.elapsed),
            "totals": totals_json(totals),
            "registries": cost::registries(&self.asked),
            "mirrors": mirrors,
        })
    }

    fn mirror(&self, result: &MirrorResult) -> Value {
        let tags: Vec<_> = result
            .tags
            .iter()
            .map(|TagResult { tag, end }| {
                let mut told = match end {
                    End::Brought(brought) => cost::brought(brought),
                    End::Removed => json!({ "outcome": self.removed().replace(' ', "_") }),
                    End::Failed(reason) => json!({ "outcome": "failed", "error": reason }),
                };
                merge(&mut told, json!({ "tag": tag }));
                told
            })
            .collect();
        json!({
            "name": result.mirror.name, "from": result.mirror.from, "to": result.to, "error": result.failure, "tags": tags,
        })
    }
}

/// Returns what a row tells of an image: what became of it, its digest, bytes and pulls.
fn of_brought(brought: &Brought) -> Vec<String> {
    let (mut bytes, mut pulls) = (0_u64, None);
    for work in brought.works() {
        match work {
            Work::Unchanged => {}
            Work::Copied(spent) => bytes = bytes.saturating_add(spent.bytes),
            Work::Planned(cost) => {
                bytes = bytes.saturating_add(cost.bytes);
                pulls = Some(pulls.unwrap_or(0) + cost.pulls);
            }
        }
    }
    let mut outcome = match &brought.work {
        Work::Unchanged => "unchanged",
        Work::Copied(_) => "copied",
        Work::Planned(_) => "would copy",
    }
    .to_owned();
    let attached = &brought.attached;
    if attached.count() > 0 {
        outcome = format!("{outcome}, {}", cost::attachments(attached.count()));
    }
    if attached.failure.is_some() {
        outcome = format!("{outcome}, attachments failed");
    }
    vec![
        outcome,
        brought.digest.as_str().chars().take(19).collect(),
        cost::bytes(bytes),
        pulls.map_or_else(String::new, |pulls| pulls.to_string()),
    ]
}

/// Returns totals as an object.
pub(crate) fn totals_json(totals: &Totals) -> Value {
    json!({
        "tagsUnchanged": totals.unchanged, "tagsCopied": totals.copied, "tagsToCopy": totals.planned,
        "tagsRemoved": totals.removed, "failures": totals.failed, "attachments": totals.attachments,
        "bytesCopied": totals.spent.bytes, "blobsCopied": totals.spent.blobs_copied,
        "blobsMounted": totals.spent.blobs_mounted, "blobsSkipped": totals.spent.blobs_skipped,
        "cost": cost::cost_json(&totals.cost),
    })
}
