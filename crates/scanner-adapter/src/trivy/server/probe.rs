//! What the database of a remote server covers. Its buckets cannot be read, so the server matches packages of which every
//! database of a distribution or ecosystem has advisories, in their oldest versions.
//!
//! A server that finds nothing in them covers nothing of it.

use std::collections::BTreeMap;

use tokio::sync::Mutex;

use crate::scanner::Summary;
use crate::trivy::database::coverage::{unknown_distribution, unknown_kind};
use crate::trivy::database::supported_ecosystems::ecosystem;
use crate::trivy::failure::{FailureKind, TrivyFailure};
use crate::trivy::program::TrivyProgram;
use crate::trivy::report::Report;
use crate::trivy::server::TrivyServer;
use crate::trivy::server::probe::subject::Subject;

mod subject;

/// The coverage of one server with one database, as far as it was probed.
#[derive(Debug, Default)]
pub(crate) struct CoverageProbe(Mutex<BTreeMap<Subject, bool>>);

impl CoverageProbe {
    /// Names what in an image the database of the server has no advisories for.
    pub(crate) async fn unknown(
        &self,
        server: &TrivyServer,
        program: &TrivyProgram,
        summary: &Summary,
    ) -> Result<Option<String>, TrivyFailure> {
        if !summary.family.is_empty() {
            let subject = Subject::Distribution {
                family: summary.family.clone(),
                version: summary.version.clone(),
            };
            if !self.covers(server, program, subject).await? {
                return Ok(Some(unknown_distribution(summary)));
            }
        }
        for kind in &summary.languages {
            // A kind that is matched with no database is not what this one lacks.
            let Some(ecosystem) = ecosystem(kind) else {
                continue;
            };
            let subject = Subject::Ecosystem(ecosystem);
            if !self.covers(server, program, subject).await? {
                return Ok(Some(unknown_kind(kind)));
            }
        }
        Ok(None)
    }

    async fn covers(
        &self,
        server: &TrivyServer,
        program: &TrivyProgram,
        subject: Subject,
    ) -> Result<bool, TrivyFailure> {
        // Held until the answer is there, so that two scans do not probe the same.
        let mut answers = self.0.lock().await;
        if let Some(covers) = answers.get(&subject) {
            return Ok(*covers);
        }
        let covers = probe(server, program, &subject).await?;
        // The answer must be that of the database that was checked.
        server.confirm().await?;
        tracing::info!(?subject, covers, "probed what the server's database covers");
        answers.insert(subject, covers);
        Ok(covers)
    }
}

async fn probe(
    server: &TrivyServer,
    program: &TrivyProgram,
    subject: &Subject,
) -> Result<bool, TrivyFailure> {
    let Some(sbom) = subject.sbom() else {
        return Ok(false);
    };
    let bytes = server.match_sbom(program, &sbom.to_string()).await?;
    let report = Report::read(&bytes)
        .map_err(|error| TrivyFailure::new(FailureKind::ServerFailed, error.to_string()))?;
    Ok(report
        .vulnerabilities()
        .any(|(kind, _)| subject.matches(kind)))
}
