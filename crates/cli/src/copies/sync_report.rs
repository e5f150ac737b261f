//! The report of a sync: a row for each tag that changed or failed, one for the unchanged tags, and the totals.

use std::process::ExitCode;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use sluice_copier::{
    CopyOutcome, MirrorResult, Pulls, RegistryUsage, Session, Side, SyncOptions, TagOutcome,
    TagResult, Totals, Work, pending_results,
};
use sluice_domain::resources::Mirror;
use tokio::time::Instant;

use super::render::{self, merge};
use crate::exit::{FAILED, INTERRUPTED};
use crate::output::{Format, count, line, note, show};

/// The results of a sync or plan.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) mirrors: Vec<MirrorResult>,
    pub(crate) usage: Vec<RegistryUsage>,
    dry_run: bool,
    elapsed: Duration,
    interrupted: bool,
}

impl Report {
    /// Runs a sync until it is done or interrupted.
    pub(crate) async fn of_sync(
        session: &Arc<Session>,
        options: &SyncOptions,
        mirrors: Vec<Mirror>,
    ) -> anyhow::Result<Self> {
        let results = pending_results(mirrors, &options.target);
        let started = Instant::now();
        let interrupted = tokio::select! {
            // The signal handler is registered before the sync starts.
            biased;
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| true)?,
            () = sluice_copier::sync(session, options, &results) => false,
        };
        let mut mirrors =
            std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
        for mirror in &mut mirrors {
            mirror.tags.sort_by(|a, b| a.tag.cmp(&b.tag));
        }
        Ok(Self {
            mirrors,
            usage: session.usage(),
            dry_run: session.is_dry_run(),
            elapsed: started.elapsed(),
            interrupted,
        })
    }

    /// Returns the planned pulls by registry.
    fn pulls(&self) -> Pulls {
        let mut pulls = Pulls::new();
        for mirror in &self.mirrors {
            let cost = Totals::of([mirror]).cost;
            *pulls.entry(mirror.mirror.from.host.clone()).or_default() += cost.pulls;
        }
        pulls.retain(|_, count| *count > 0);
        pulls
    }

    /// Shows the tags of a sync and returns the exit code.
    pub(crate) fn show(&self, format: Format) -> anyhow::Result<ExitCode> {
        // The objects of thousands of tags take more memory than the sync itself.
        let (rows, object) = match format {
            Format::Table => (self.rows(), json!({})),
            _ => (Vec::new(), self.object()),
        };
        let header = ["MIRROR", "TAG", "OUTCOME", "DIGEST", "SIZE", "PULLS"];
        self.print(format, &header, rows, object)
    }

    /// Prints a table with the totals and forecasts below it, or an object, and returns the exit code.
    pub(crate) fn print(
        &self,
        format: Format,
        header: &[&str],
        rows: Vec<Vec<String>>,
        mut object: Value,
    ) -> anyhow::Result<ExitCode> {
        let totals = Totals::of(&self.mirrors);
        let forecast = render::forecast(&self.usage, &self.pulls(), &mut object);
        show(format, header, rows, &object)?;
        if format == Format::Table {
            line("")?;
            for text in self.summary(&totals).into_iter().chain(forecast) {
                line(&text)?;
            }
        }
        self.exit_code(&totals)
    }

    /// Prints the failures to standard error and returns the exit code.
    fn exit_code(&self, totals: &Totals) -> anyhow::Result<ExitCode> {
        if self.interrupted {
            note("interrupted; no tag is incomplete");
            return Ok(ExitCode::from(INTERRUPTED));
        }
        self.print_skipped();
        if totals.failed == 0 {
            return Ok(ExitCode::SUCCESS);
        }
        for mirror in &self.mirrors {
            let name = &mirror.mirror.name;
            if let Some(failure) = &mirror.failure {
                note(&format!("failed: {name}: {failure}"));
            }
            for TagResult { tag, outcome } in &mirror.tags {
                let reason = match outcome {
                    TagOutcome::Failed(reason) => Some(reason),
                    TagOutcome::Copied(outcome) => outcome.attachments.failure.as_ref(),
                    TagOutcome::Deleted => None,
                };
                if let Some(reason) = reason {
                    let from = &mirror.mirror.from;
                    note(&format!("failed: {name}: {from}:{tag}: {reason}"));
                }
            }
        }
        Ok(ExitCode::from(FAILED))
    }

    /// Prints the skipped attachments to standard error.
    fn print_skipped(&self) {
        for mirror in &self.mirrors {
            let from = &mirror.mirror.from;
            for TagResult { tag, outcome } in &mirror.tags {
                if let TagOutcome::Copied(outcome) = outcome {
                    for reason in &outcome.attachments.skipped {
                        note(&format!("left out: {from}:{tag}: {reason}"));
                    }
                }
            }
        }
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for mirror in &self.mirrors {
            let name = mirror.mirror.name.to_string();
            let mut unchanged = 0_u64;
            for TagResult { tag, outcome } in &mirror.tags {
                let row = match outcome {
                    TagOutcome::Copied(outcome) if outcome.is_unchanged() => {
                        unchanged += 1;
                        continue;
                    }
                    TagOutcome::Copied(outcome) => outcome_columns(outcome),
                    TagOutcome::Deleted => [self.deleted().to_owned()].to_vec(),
                    TagOutcome::Failed(_) => ["failed".to_owned()].to_vec(),
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
                fold(format!("({})", count(unchanged, "tag")), "unchanged");
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

    fn deleted(&self) -> &'static str {
        if self.dry_run {
            "would remove"
        } else {
            "removed"
        }
    }

    fn summary(&self, totals: &Totals) -> Vec<String> {
        let work = if self.dry_run {
            format!("{} to copy", totals.planned)
        } else {
            format!("{} copied", totals.copied)
        };
        let attached = match totals.attachments {
            0 => String::new(),
            number => format!(" with {}", count(number, "attachment")),
        };
        let mut lines = vec![format!(
            "{work}{attached}, {} unchanged, {} {}, {} failed in {:.1} s",
            totals.unchanged,
            totals.deleted,
            self.deleted(),
            totals.failed,
            self.elapsed.as_secs_f64()
        )];
        lines.push(render::sentence(&if self.dry_run {
            Work::Planned(totals.cost)
        } else {
            Work::Copied(totals.transferred)
        }));
        for usage in &self.usage {
            let (host, requests) = (&usage.host, count(usage.requests.total(), "request"));
            lines.push(match usage.side {
                Side::Source => format!(
                    "{host} (source): {requests}, including {}",
                    count(usage.requests.manifest_gets, "counted pull")
                ),
                Side::Destination => format!("{host} (destination): {requests}"),
            });
        }
        lines
    }

    fn object(&self) -> Value {
        let totals = &Totals::of(&self.mirrors);
        let outcome = match (self.interrupted, totals.failed) {
            (true, _) => "interrupted",
            (false, 0) => "done",
            (false, _) => "failed",
        };
        let mirrors: Vec<_> = self.mirrors.iter().map(|m| self.mirror(m)).collect();
        json!({
            "outcome": outcome,
            "dryRun": self.dry_run,
            "seconds": render::seconds(self.elapsed),
            "totals": totals_json(totals),
            "registries": render::registries(&self.usage),
            "mirrors": mirrors,
        })
    }

    fn mirror(&self, result: &MirrorResult) -> Value {
        let tags: Vec<_> = result
            .tags
            .iter()
            .map(|TagResult { tag, outcome }| {
                let mut object = match outcome {
                    TagOutcome::Copied(outcome) => render::outcome_json(outcome),
                    TagOutcome::Deleted => json!({ "outcome": self.deleted().replace(' ', "_") }),
                    TagOutcome::Failed(reason) => json!({ "outcome": "failed", "error": reason }),
                };
                merge(&mut object, json!({ "tag": tag }));
                object
            })
            .collect();
        json!({
            "name": result.mirror.name, "from": result.mirror.from, "to": result.to, "error": result.failure, "tags": tags,
        })
    }
}

/// Returns the columns of an image: outcome, digest, bytes and pulls.
fn outcome_columns(outcome: &CopyOutcome) -> Vec<String> {
    let (mut bytes, mut pulls) = (0_u64, None);
    for work in outcome.works() {
        match work {
            Work::Unchanged => {}
            Work::Copied(stats) => bytes = bytes.saturating_add(stats.bytes),
            Work::Planned(cost) => {
                bytes = bytes.saturating_add(cost.bytes);
                pulls = Some(pulls.unwrap_or(0) + cost.pulls);
            }
        }
    }
    let mut text = match &outcome.work {
        Work::Unchanged => "unchanged",
        Work::Copied(_) => "copied",
        Work::Planned(_) => "would copy",
    }
    .to_owned();
    let attached = &outcome.attachments;
    if attached.count() > 0 {
        text = format!("{text}, {}", count(attached.count(), "attachment"));
    }
    if attached.failure.is_some() {
        text = format!("{text}, attachments failed");
    }
    vec![
        text,
        outcome.digest.as_str().chars().take(19).collect(),
        render::bytes(bytes),
        pulls.map_or_else(String::new, |pulls| pulls.to_string()),
    ]
}

/// Returns totals as an object.
pub(crate) fn totals_json(totals: &Totals) -> Value {
    json!({
        "tagsUnchanged": totals.unchanged, "tagsCopied": totals.copied, "tagsToCopy": totals.planned,
        "tagsRemoved": totals.deleted, "failures": totals.failed, "attachments": totals.attachments,
        "bytesCopied": totals.transferred.bytes, "blobsCopied": totals.transferred.blobs_copied,
        "blobsMounted": totals.transferred.blobs_mounted, "blobsSkipped": totals.transferred.blobs_skipped,
        "cost": render::cost_json(&totals.cost),
    })
}
