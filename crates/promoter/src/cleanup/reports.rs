//! Reports and bills of materials that nothing cites: neither a verdict, with the two before it, nor a decision.

use std::collections::HashSet;
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use sluice_service::crash;

use super::existing::short;
use super::{Part, tell_count};
use crate::handler::{Error, Promoter};

/// How many one message removes; the next one goes on.
const MOST: usize = 1_000;

impl Promoter {
    /// Forgets the reports that nothing cites.
    pub(super) async fn forget_reports(&self, before: DateTime<Utc>) -> Result<Part, Error> {
        let mut cited = HashSet::new();
        let verdicts = self.state.verdicts.each(">", |_, entry| {
            if let Some(verdict) = entry.map(|entry| entry.value) {
                cited.extend([&verdict.report_key, &verdict.sbom_key].map(|key| short(key)));
                for former in verdict.former_reports {
                    cited.extend([&former.report_key, &former.sbom_key].map(|key| short(key)));
                }
            }
            ControlFlow::Continue(())
        });
        verdicts.await?;
        let decisions = self.state.decisions.each(">", |_, entry| {
            let inputs = entry.map(|entry| entry.value.inputs).unwrap_or_default();
            cited.extend(inputs.iter().map(|input| short(&input.report_key)));
            ControlFlow::Continue(())
        });
        decisions.await?;
        let (mut part, mut uncited, mut kept) = (Part::default(), Vec::new(), 0);
        let listed = self.state.reports.for_each(|object| {
            let is_old = object.stored_at.is_some_and(|at| at < before);
            if !is_old || cited.contains(&short(&object.name)) {
                kept += 1;
            } else if uncited.len() == MOST {
                part.next = Some(0);
                return ControlFlow::Break(());
            } else {
                uncited.push(object);
            }
            ControlFlow::Continue(())
        });
        listed.await.map_err(sluice_state::Error::from)?;
        for object in uncited {
            let forgotten = self.state.reports.forget(&object).await;
            part.removed += u64::from(forgotten.map_err(sluice_state::Error::from)?);
            crash::point("cleanup.report_forgotten");
        }
        if part.next.is_none() {
            tell_count("report", kept);
        }
        Ok(part)
    }
}
