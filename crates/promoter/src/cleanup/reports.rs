//! Removes reports, bills of materials and findings that neither a verdict, with the two before it, nor a decision refers to.

use std::collections::HashSet;
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use sluice_service::crash;

use super::existing_digests::hash;
use super::inventory::Inventory;
use super::metrics::report_count;
use super::part::Part;
use crate::error::Error;

/// How many reports one message removes; the next one continues.
const MAX_PER_MESSAGE: usize = 1_000;

/// Removes the old reports that nothing refers to.
pub(super) async fn remove_reports(
    inventory: &Inventory,
    before: DateTime<Utc>,
) -> Result<Part, Error> {
    let state = &inventory.state;
    let mut referenced = HashSet::new();
    let verdicts = state.verdicts.each(">", |_, entry| {
        if let Some(verdict) = entry.map(|entry| entry.value) {
            let keys = [
                &verdict.report_key,
                &verdict.sbom_key,
                &verdict.findings_key,
            ];
            referenced.extend(keys.map(|key| hash(key)));
            for former in &verdict.former_reports {
                let keys = [&former.report_key, &former.sbom_key, &former.findings_key];
                referenced.extend(keys.map(|key| hash(key)));
            }
        }
        ControlFlow::Continue(())
    });
    verdicts.await?;
    let decisions = state.decisions.each(">", |_, entry| {
        let inputs = entry.map(|entry| entry.value.inputs).unwrap_or_default();
        referenced.extend(inputs.iter().map(|input| hash(&input.report_key)));
        ControlFlow::Continue(())
    });
    decisions.await?;
    let (mut part, mut unreferenced, mut kept) = (Part::default(), Vec::new(), 0);
    let listed = state.reports.for_each(|object| {
        let is_old = object.stored_at.is_some_and(|at| at < before);
        if !is_old || referenced.contains(&hash(&object.name)) {
            kept += 1;
        } else if unreferenced.len() == MAX_PER_MESSAGE {
            part.next = Some(0);
            return ControlFlow::Break(());
        } else {
            unreferenced.push(object);
        }
        ControlFlow::Continue(())
    });
    listed.await.map_err(sluice_state::Error::from)?;
    for object in unreferenced {
        let forgotten = state.reports.purge_if_unchanged(&object).await;
        part.removed += u64::from(forgotten.map_err(sluice_state::Error::from)?);
        crash::point("cleanup.report_removed");
    }
    if part.next.is_none() {
        report_count("report", kept);
    }
    Ok(part)
}
