//! One run of Trivy on one image: the folder that it reads, its arguments, and the report that it writes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_domain::Digest;
use sluice_layer::ImageContents;
use tempfile::TempDir;

use crate::error::Error;
use crate::image::documents::ImageDocuments;
use crate::scanner::{CoverageGaps, LayerAnalysis, ScanReport};
use crate::trivy::failure::TrivyFailure;
use crate::trivy::image_layout::ImageLayout;
use crate::trivy::program::{TrivyProgram, path_argument};
use crate::trivy::report::{Report, cross_check};
use crate::trivy::server::checked_server::CheckedServer;
use crate::trivy::server::relay::Session;

/// The largest report that is read.
const MAX_REPORT_BYTES: u64 = 256 << 20;
/// The file of the report, in the folder of the run.
const REPORT: &str = "report.json";
/// The options of the analysis. The analysis of a layer depends on them, so the cache is named after them.
///
/// With the default priority a list of files of Debian hides packages of languages; and bills of materials in an image
/// would be trusted, so they are skipped.
pub(crate) const ANALYSIS_OPTIONS: [&str; 12] = [
    "--scanners",
    "vuln",
    "--detection-priority",
    "comprehensive",
    "--skip-files",
    "**/*.cdx",
    "--skip-files",
    "**/*.cdx.json",
    "--skip-files",
    "**/*.spdx",
    "--skip-files",
    "**/*.spdx.json",
];

/// The folders of one image.
#[derive(Debug)]
pub(crate) struct ImageScan {
    /// The folder in which Trivy runs.
    run: TempDir,
    /// The folder of the layout, in which Trivy can only read.
    _layers: TempDir,
    layout: ImageLayout,
    /// The digest of the manifest.
    digest: Digest,
    /// The digest by which the report names the image.
    image_id: Digest,
}

/// Why a run brought no analyses.
#[derive(Debug)]
pub(crate) enum RunFailure {
    /// Trivy has no use for the earlier analyses.
    Stale,
    Trivy(TrivyFailure),
}

impl From<RunFailure> for Error {
    fn from(failure: RunFailure) -> Self {
        match failure {
            RunFailure::Stale => Self::Stale,
            RunFailure::Trivy(failure) => failure.into(),
        }
    }
}

impl ImageScan {
    /// Makes the folders of an image, with its documents and without its layers.
    pub(crate) fn create(
        program: &TrivyProgram,
        name: String,
        digest: &Digest,
        documents: &ImageDocuments,
    ) -> Result<Self, Error> {
        let run = program.temporary_folder().map_err(Error::files("make"))?;
        let layers = program.temporary_folder().map_err(Error::files("make"))?;
        program
            .allow_read(layers.path())
            .map_err(Error::files("hand over"))?;
        let layout = ImageLayout::create(layers.path(), run.path(), name);
        let layout = layout.map_err(Error::files("make"))?;
        let image_id = layout.write_documents(documents, digest);
        Ok(Self {
            run,
            _layers: layers,
            digest: digest.clone(),
            image_id: image_id.map_err(Error::files("write"))?,
            layout,
        })
    }

    /// Returns the folder in which Trivy runs.
    pub(crate) fn folder(&self) -> &Path {
        self.run.path()
    }

    /// Returns where Trivy reads the unpacked layer with this digest.
    pub(crate) fn layer_path(&self, diff_id: &Digest) -> PathBuf {
        self.layout.blob(diff_id)
    }

    /// Runs Trivy, and returns the analyses of the layers.
    pub(crate) async fn run(
        &self,
        program: &TrivyProgram,
        session: Session,
        cache: &Path,
        limit: Duration,
    ) -> Result<Vec<Option<LayerAnalysis>>, RunFailure> {
        let mut arguments = vec!["image".to_owned()];
        arguments.extend(ANALYSIS_OPTIONS.map(str::to_owned));
        let options = [
            "--list-all-pkgs",
            "--format",
            "json",
            "--offline-scan",
            "--skip-java-db-update",
            "--no-progress",
        ];
        arguments.extend(options.map(str::to_owned));
        arguments.extend(session.arguments());
        arguments.extend(["--timeout".to_owned(), format!("{}s", limit.as_secs())]);
        arguments.extend(["--cache-dir".to_owned(), path_argument(cache)]);
        let report = self.folder().join(REPORT);
        arguments.extend(["--output".to_owned(), path_argument(&report)]);
        arguments.extend(["--input".to_owned(), self.layout.input(&self.digest)]);
        let variables = session.variables();
        let run = program.run(self.folder(), &arguments, &variables, limit);
        match run.await {
            Ok(()) => Ok(session.analyses()),
            Err(_) if session.is_stale() => Err(RunFailure::Stale),
            Err(failure) => Err(RunFailure::Trivy(failure)),
        }
    }

    /// Reads the report, and finds out what it does not cover.
    pub(crate) async fn report(
        &self,
        program: &TrivyProgram,
        server: &CheckedServer,
        documents: &ImageDocuments,
        contents: &ImageContents,
    ) -> Result<ScanReport, Error> {
        let bytes = read_report(&self.folder().join(REPORT)).await?;
        let diff_ids = documents.layers.iter();
        let diff_ids: Vec<&str> = diff_ids.map(|layer| layer.diff_id.as_str()).collect();
        let report = Report::read(&bytes)?;
        let summary = report.summary_of(self.image_id.as_str(), &diff_ids)?;
        let gaps = CoverageGaps {
            unknown: server.unknown(program, &summary).await?,
            incomplete: cross_check::incomplete(contents, &summary),
            unmatched: cross_check::unmatched(contents, &summary),
        };
        Ok(ScanReport {
            findings: report.manifest_findings(),
            bytes,
            summary,
            gaps,
        })
    }
}

/// Reads a report, unless it is too large. An image may control what Trivy writes, and this process may read files that
/// Trivy may not, so no link is followed.
async fn read_report(path: &Path) -> Result<Vec<u8>, Error> {
    let metadata = tokio::fs::symlink_metadata(path)
        .await
        .map_err(Error::files("find"))?;
    if !metadata.is_file() {
        return Err(Error::files("read")(
            std::io::ErrorKind::InvalidInput.into(),
        ));
    }
    let size_bytes = metadata.len();
    if size_bytes > MAX_REPORT_BYTES {
        return Err(Error::TooLarge {
            what: "report",
            size_bytes,
            limit_bytes: MAX_REPORT_BYTES,
        });
    }
    tokio::fs::read(path).await.map_err(Error::files("read"))
}
