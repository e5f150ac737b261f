//! What the adapter needs of a scanner. A driver implements [`Scanner`], and nothing else knows the program behind it.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sluice_domain::{Digest, ManifestFindings, SeverityCounts};
use sluice_layer::ImageContents;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::image::documents::ImageDocuments;

/// A driver of one scanner.
///
/// Its capabilities are the methods: it provides engines with a checked database, analyses each layer of an image by
/// itself so that the analysis can be cached, matches the analyses, names what its report does not cover, and makes the
/// bill of materials of a report.
pub(crate) trait Scanner: fmt::Debug + Send + Sync + 'static {
    /// The scanner with one database that passed the driver's checks. A scan uses one engine from start to end.
    type Engine: fmt::Debug + Send + Sync + 'static;
    /// The folder in which the scanner finds one image. It is removed when this is dropped.
    type Workspace: Send + Sync;

    /// Waits for an engine, for a while.
    ///
    /// # Errors
    /// The reason why there is none.
    fn engine(&self) -> impl Future<Output = Result<Arc<Self::Engine>, String>> + Send;

    /// Waits until there is an engine for the first time.
    fn ready(&self) -> impl Future<Output = ()> + Send;

    /// Requests a check of the engine, which just failed.
    fn recheck(&self);

    /// Returns the versions that an engine works with.
    fn version(engine: &Self::Engine) -> &ScannerVersion;

    /// Checks that an engine still has the database that was checked.
    fn confirm(&self, engine: &Self::Engine) -> impl Future<Output = Result<(), Error>> + Send;

    /// Returns everything that an analysis of a layer depends on: the scanner's version and options.
    fn analysis_version(&self) -> &str;

    /// Makes the folder of an image, whose layers are not there yet. The report calls the image `<name>@<digest>`.
    fn prepare(
        &self,
        name: String,
        digest: &Digest,
        documents: &ImageDocuments,
    ) -> Result<Self::Workspace, Error>;

    /// Returns where the scanner reads the unpacked layer with this digest.
    fn layer_path(workspace: &Self::Workspace, diff_id: &Digest) -> PathBuf;

    /// Runs the scanner on an image, of whose layers some were analysed before, and returns the analysis of each.
    ///
    /// It reads no layer, and can store and match nothing, before `are_verified` is cancelled.
    ///
    /// # Errors
    /// [`Error::Stale`] where the scanner has no use for the earlier analyses.
    fn analyse(
        &self,
        engine: &Self::Engine,
        workspace: &Self::Workspace,
        earlier: Vec<Option<LayerAnalysis>>,
        are_verified: &CancellationToken,
    ) -> impl Future<Output = Result<Vec<Option<LayerAnalysis>>, Error>> + Send;

    /// Reads the report on an image that was analysed, and compares it with what its layers hold.
    fn report(
        &self,
        engine: &Self::Engine,
        workspace: &Self::Workspace,
        documents: &ImageDocuments,
        contents: &ImageContents,
    ) -> impl Future<Output = Result<ScanReport, Error>> + Send;

    /// Makes the bill of materials of a report; the same report makes the same one.
    fn bill_of_materials(report: &[u8], version: &ScannerVersion) -> Result<Vec<u8>, Error>;
}

/// The versions of a scanner and of its vulnerability database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScannerVersion {
    /// The version of the program.
    pub(crate) scanner: String,
    /// The version of the database, which is the time when it was made.
    pub(crate) database: DateTime<Utc>,
}

impl ScannerVersion {
    /// Returns the version of the database as it is recorded: text that sorts by time.
    pub(crate) fn database_text(&self) -> String {
        self.database
            .to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
    }
}

/// What a scanner found in one layer, before it was matched with a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerAnalysis {
    /// The name by which the scanner asks for it.
    pub(crate) key: String,
    /// The analysis in the scanner's own form; only the scanner reads it.
    pub(crate) message: Bytes,
}

/// The report on one image, and what it does not cover.
#[derive(Debug)]
pub(crate) struct ScanReport {
    /// The report as the scanner wrote it.
    pub(crate) bytes: Vec<u8>,
    pub(crate) findings: ManifestFindings,
    pub(crate) summary: Summary,
    pub(crate) gaps: CoverageGaps,
}

/// The parts of an image that a report does not cover.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CoverageGaps {
    /// What in the image the database has no advisories for.
    pub(crate) unknown: Option<String>,
    /// What the layers hold and the report lacks.
    pub(crate) incomplete: Option<String>,
    /// The kinds of packages that are never matched.
    pub(crate) unmatched: Vec<String>,
}

/// The figures of a report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Findings by severity.
    pub(crate) counts: SeverityCounts,
    /// Findings by DTR's three names.
    pub(crate) dtr: DtrCounts,
    /// Findings that have a fix.
    pub(crate) fixable: u64,
    /// Packages that were recognised.
    pub(crate) packages: u64,
    /// Those of them that belong to the operating system.
    pub(crate) os_packages: u64,
    /// The operating system, empty where none was recognised.
    pub(crate) os: String,
    /// The family of the operating system as the scanner names it, empty where none was recognised.
    pub(crate) family: String,
    /// The version of the operating system.
    pub(crate) version: String,
    /// Whether the operating system gets no more updates.
    pub(crate) end_of_life: bool,
    /// The kinds of packages of languages that were recognised, as the scanner names them: `python-pkg`, `jar`.
    pub(crate) languages: BTreeSet<String>,
}

impl Summary {
    /// Says whether the scanner understood the image: a system or language was recognised, and packages were listed.
    pub(crate) fn covers(&self) -> bool {
        (!self.os.is_empty() || !self.languages.is_empty()) && self.packages > 0
    }

    /// Returns why the scanner did not understand the image.
    pub(crate) fn uncovered_reason(&self) -> String {
        if self.os.is_empty() {
            "the scanner recognised neither an operating system nor packages of a language"
                .to_owned()
        } else {
            format!("the scanner recognised `{}` but saw no packages", self.os)
        }
    }
}

/// Findings by the names that Docker Trusted Registry gave them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DtrCounts {
    pub(crate) critical: u64,
    pub(crate) major: u64,
    pub(crate) minor: u64,
}
