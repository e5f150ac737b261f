//! A Trivy server whose database passed all checks, and what that database covers.

use crate::scanner::Summary;
use crate::trivy::database::coverage::DatabaseCoverage;
use crate::trivy::failure::TrivyFailure;
use crate::trivy::program::TrivyProgram;
use crate::trivy::server::TrivyServer;
use crate::trivy::server::probe::CoverageProbe;

/// A server that scans use.
#[derive(Debug)]
pub(crate) struct CheckedServer {
    pub(crate) server: TrivyServer,
    coverage: Coverage,
}

/// How the coverage of a database is known.
#[derive(Debug)]
enum Coverage {
    /// By its buckets.
    Buckets(DatabaseCoverage),
    /// By probes of a remote server.
    Probe(CoverageProbe),
}

impl CheckedServer {
    /// Makes a server of this adapter one that is used, with the coverage of its buckets.
    pub(crate) fn local(server: TrivyServer, coverage: DatabaseCoverage) -> Self {
        Self {
            server,
            coverage: Coverage::Buckets(coverage),
        }
    }

    /// Makes a remote server one that is used, whose coverage is probed.
    pub(crate) fn remote(server: TrivyServer) -> Self {
        Self {
            server,
            coverage: Coverage::Probe(CoverageProbe::default()),
        }
    }

    /// Names what in an image the database has no advisories for.
    pub(crate) async fn unknown(
        &self,
        program: &TrivyProgram,
        summary: &Summary,
    ) -> Result<Option<String>, TrivyFailure> {
        match &self.coverage {
            Coverage::Buckets(coverage) => Ok(coverage.unknown(summary)),
            Coverage::Probe(probe) => probe.unknown(&self.server, program, summary).await,
        }
    }
}
