//! Reconciles decisions and targets from the stored state: at the start, when resources change, and every hour.
//!
//! One message does a page: first of the tags, then of the decisions, then an audit of the targets. Each missing evaluation is
//! queued once.

use std::time::Duration;

use sluice_bus::{Bus, Cause, topology};
use sluice_domain::now;
use sluice_events::commands::Reconcile;
use sluice_events::time_from_wire;
use sluice_events::wire::state::Restored;
use sluice_state::reconcile::{Next, PAGE, ReconcilePage, reason, request};
use sluice_state::{Catalog, is_reconciled};
use sluice_telemetry::metrics;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, RETRY_UNREACHABLE_AFTER};
use crate::evaluate::decision::{evaluation_command, targets_of};
use crate::evaluate::missing_evaluations::{flagged_targets, of_decision, of_tag};
use crate::evaluate::policies;
use crate::evaluate::scanned_image::has_outdated_verdicts;
use crate::settings::STAGE;
use crate::targets::attachments::missing::{RepositoriesWithAttachments, has_missing_attachment};
use crate::targets::audit::audit_targets;
use crate::targets::audit::missing_tags::MissingTagCheck;
use crate::targets::audit::restore_guard::RestoreGuard;
use crate::targets::endpoint::Targets;

/// How long to wait for further changes: those of one file arrive together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// How long to wait after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// How often a reconciliation audits the targets if some cannot be compared; the next reconciliation audits them again.
const MAX_AUDITS: u64 = 100;
/// How many decisions a page has, each of which may cost a request to the registry.
const DECISIONS_PER_PAGE: usize = 200;

/// Asks for a reconciliation whenever resources change; replicas that see the same change ask once.
pub(crate) async fn reconcile_on_change(
    bus: Bus,
    mut catalog: Catalog,
    stopping: CancellationToken,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            alive = catalog.changed() => {
                anyhow::ensure!(alive || stopping.is_cancelled(), "the catalogue ended");
                tokio::time::sleep(DEBOUNCE).await;
            }
            () = stopping.cancelled() => {}
        }
        while !stopping.is_cancelled() {
            let revision = catalog.current().revision.to_string();
            match request(&bus, &topology::PROMOTER, reason::CHANGED, &revision).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, "a reconciliation could not be queued; trying again");
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
        if stopping.is_cancelled() {
            return Ok(());
        }
    }
}

/// Does the pages of a reconciliation.
pub(crate) struct Reconciler<'a> {
    pub(crate) bus: &'a Bus,
    pub(crate) targets: &'a Targets,
    pub(crate) cause: &'a Cause,
}

impl Reconciler<'_> {
    /// Does one page, or one part of an audit.
    pub(crate) async fn run_page(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        match command.scan {
            0 => self.check_tags(command).await,
            1 => self.check_decisions(command).await,
            // Targets that could not be compared are compared again, until every one was.
            scan if scan % 2 == 0 => self.audit(command).await,
            _ => self.end_audit(command).await,
        }
    }

    /// Finds missing evaluations of a page of tags.
    async fn check_tags(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let state = &self.targets.state;
        let policies = policies::read(state).await?;
        let tags = state.tags.page("*.*", command.after, PAGE).await?;
        let mut page = ReconcilePage {
            checked: tags.entries.len(),
            next: Next::after(tags.next, Next::Scan),
            ..ReconcilePage::default()
        };
        for entry in tags.entries {
            for policy in policies.iter() {
                if let Some(missing) = of_tag(state, policy, &entry.value).await? {
                    missing.add_to(&mut page);
                    // One evaluation is by all policies.
                    break;
                }
            }
        }
        Ok(page)
    }

    /// Finds promoted images of a page of decisions that were not evaluated by the policies as they are now, or that are
    /// missing in their target; and counts the flagged ones.
    async fn check_decisions(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let state = &self.targets.state;
        let policies = policies::read(state).await?;
        let decisions = state
            .decisions
            .page("*.*.*.*", command.after, DECISIONS_PER_PAGE)
            .await?;
        let mut page = ReconcilePage {
            checked: decisions.entries.len(),
            counted: command.counted,
            next: Next::after(decisions.next, Next::Scan),
            ..ReconcilePage::default()
        };
        let mut tags = MissingTagCheck::new(self.bus, self.targets, self.cause);
        let mut attachments = RepositoriesWithAttachments::default();
        let recorded = state.promotion_targets().await?;
        for entry in decisions.entries {
            let decision = &entry.value;
            page.counted += flagged_targets(decision);
            for target in targets_of(decision).filter_map(|target| target.parse().ok()) {
                if !recorded.contains(&target) {
                    state.record_target(&target).await?;
                }
            }
            if let Some(missing) = of_decision(&policies, &entry, command, now()) {
                missing.add_to(&mut page);
            } else if let Some(command) = tags.repair(&entry).await? {
                page.commands.push(command.into());
            } else if (has_outdated_verdicts(state, decision).await?
                || attachments.contains(state, &decision.repository).await?
                    && has_missing_attachment(state, decision).await?)
                && let Some(command) = evaluation_command(decision)
            {
                page.commands.push(command.into());
            }
        }
        if page.next == Next::Scan {
            let flagged = u32::try_from(page.counted).unwrap_or(u32::MAX);
            metrics::BREACHES.set(f64::from(flagged), &["flagged"]);
            page.counted = 0;
        }
        Ok(page)
    }

    /// Does a part of the audit of the targets.
    async fn audit(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let is_first_part = command.after_name.is_empty();
        let until = self.cause.time + RETRY_UNREACHABLE_AFTER;
        if command.scan > 2 && is_first_part && now() < until {
            return Err(Error::IncompleteAudit { until });
        }
        let part = audit_targets(self.bus, self.targets, command, self.cause).await?;
        let restored = restore_id(part.restored.as_ref());
        let incomplete = if is_first_part { 0 } else { command.counted } + part.incomplete;
        let is_done = part.next == Next::Scan && restored.is_empty() && incomplete == 0;
        Ok(ReconcilePage {
            checked: part.tags,
            counted: incomplete,
            restored: if is_first_part {
                restored
            } else {
                command.restored.clone()
            },
            next: if is_done { Next::End } else { part.next },
            ..ReconcilePage::default()
        })
    }

    /// Requires scans of the images that are missing since a restore, and ends its pause once all targets were compared.
    async fn end_audit(&self, command: &Reconcile) -> Result<ReconcilePage, Error> {
        let state = &self.targets.state;
        let (_, restored) = state.pause_and_restore().await?;
        let restored = restored.filter(|restored| !is_reconciled(restored, STAGE));
        let mut page = ReconcilePage {
            counted: command.counted,
            restored: command.restored.clone(),
            next: Next::Scan,
            ..ReconcilePage::default()
        };
        if let Some(since) = time_from_wire(restored.as_ref().and_then(|one| one.at.as_ref())) {
            let decisions = &state.decisions;
            let decisions = decisions
                .page("*.*.*.*", command.after, DECISIONS_PER_PAGE)
                .await?;
            page.checked = decisions.entries.len();
            let guard = RestoreGuard {
                bus: self.bus,
                targets: self.targets,
                cause: self.cause,
                since,
            };
            page.counted += guard.check(&decisions.entries).await?;
            page.next = Next::after(decisions.next, Next::Scan);
        }
        // The state may have been restored during the audit, even to a moment at which this audit was under way.
        let is_complete = page.counted == 0 && restore_id(restored.as_ref()) == command.restored;
        if page.next == Next::Scan && is_complete {
            if let Some(restored) = &restored {
                state.record_reconciled(STAGE, restored).await?;
                tracing::info!("every target was compared with the decisions since the restore");
            }
            page.next = Next::End;
        }
        if page.next == Next::Scan && restored.is_none() && command.scan > 2 * MAX_AUDITS {
            tracing::warn!(
                "not every target could be compared with the decisions; the next reconciliation tries again"
            );
            page.next = Next::End;
        }
        Ok(page)
    }
}

/// Returns the time of a restore, which identifies it; empty without one.
fn restore_id(restored: Option<&Restored>) -> String {
    let at = time_from_wire(restored.and_then(|restored| restored.at.as_ref()));
    at.map_or_else(String::new, |at| at.to_rfc3339())
}
