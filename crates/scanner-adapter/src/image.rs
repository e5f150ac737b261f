//! Scans the manifests of an image: reads and verifies a manifest, lets the scanner analyse it, stores report, bill of
//! materials and findings, and writes the verdict.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use sluice_domain::{Digest, ManifestFindings, Repository};
use sluice_events::wire::state::{ImageEntry, Verdict, VerdictStatus};
use sluice_layer::{ImageContents, LayerSummary, check_layers};
use sluice_registry::Client;
use sluice_service::crash;
use sluice_state::{ImageReader, State, key, update_image};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::image::disk_quota::DiskQuota;
use crate::image::documents::{ImageDocuments, ambiguity_reason, check_size, config_and_layers};
use crate::image::layer_cache::{CachedLayer, LayerCache};
use crate::image::limits::ImageBudget;
use crate::image::unpacker::{Unpacker, blocking, estimate_bytes, jobs};
use crate::image::verdict::{ManifestRef, ScanResult};
use crate::scanner::{LayerAnalysis, ScanReport, Scanner, ScannerVersion};

pub(crate) mod disk_quota;
pub(crate) mod documents;
pub(crate) mod layer_cache;
pub(crate) mod limits;
pub(crate) mod unpacker;
pub(crate) mod verdict;
pub(crate) mod work_folder;

/// How many times a verdict is written again after another writer changed it.
const MAX_WRITES: usize = 5;
/// How long a scan waits for disk space before its message is postponed.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Scans manifests, and keeps what it finds.
#[derive(Debug)]
pub(crate) struct ImageScanner<S> {
    pub(crate) scanner: Arc<S>,
    pub(crate) state: State,
    pub(crate) registry: Client,
    /// Reads which manifests an image has from its bytes: these are scanned.
    pub(crate) reader: ImageReader,
    pub(crate) unpacker: Unpacker,
    pub(crate) quota: Arc<DiskQuota>,
    pub(crate) cache: Arc<LayerCache>,
    /// Limits the manifests that are scanned at once.
    pub(crate) permits: Semaphore,
}

/// A manifest that is being scanned.
struct ManifestScan<'a, S: Scanner> {
    engine: &'a S::Engine,
    manifest: ManifestRef<'a>,
    documents: &'a ImageDocuments,
    /// What the cache has of each layer.
    cached: &'a [Option<CachedLayer>],
    workspace: S::Workspace,
}

/// The layers of an image, all of which were verified.
struct VerifiedLayers {
    summaries: Vec<LayerSummary>,
    contents: ImageContents,
}

impl<S: Scanner> ImageScanner<S> {
    /// Returns which manifests an image has, and overwrites the entry of the image with that.
    pub(crate) async fn describe_image(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<ImageEntry, sluice_state::Error> {
        let image = self.reader.read(&self.registry, repository, digest).await?;
        update_image(&self.state, digest, &image).await?;
        Ok(image)
    }

    /// Returns the verdict on a manifest, if there is one that is current.
    pub(crate) async fn current_verdict(
        &self,
        version: &ScannerVersion,
        digest: &Digest,
    ) -> Result<Option<Verdict>, Error> {
        let entry = self.state.verdicts.get(&key::verdict(digest)).await?;
        let verdict = entry.map(|entry| entry.value);
        Ok(verdict.filter(|verdict| verdict::is_current(verdict, version)))
    }

    /// Returns the verdict on a manifest; scans it unless there is one that is current.
    pub(crate) async fn verdict(
        &self,
        engine: &S::Engine,
        manifest: ManifestRef<'_>,
    ) -> Result<Verdict, Error> {
        let version = S::version(engine);
        if let Some(verdict) = self.current_verdict(version, manifest.digest).await? {
            return Ok(verdict);
        }
        let empty = verdict::empty(manifest, version);
        let verdict = match self.scan(engine, manifest).await {
            Ok(result) => self.store(version, empty, result).await?,
            Err(Error::Unsupported(reason)) => verdict::unsupported(empty, reason),
            Err(error) => return Err(error),
        };
        self.write(verdict).await
    }

    /// Records that a manifest could not be scanned, so that no older verdict passes for today's.
    pub(crate) async fn record_failure(
        &self,
        version: &ScannerVersion,
        manifest: ManifestRef<'_>,
        reason: String,
    ) -> Result<(), Error> {
        let verdict = Verdict {
            status: VerdictStatus::Failed.into(),
            reason,
            ..verdict::empty(manifest, version)
        };
        self.write(verdict).await.map(drop)
    }

    /// Writes a verdict, unless there is one that is as good: a replica may have been faster.
    async fn write(&self, mut verdict: Verdict) -> Result<Verdict, Error> {
        let key = key::verdict(&parse_digest(&verdict.digest)?);
        let mut last = None;
        for _ in 0..MAX_WRITES {
            let present = self.state.verdicts.get(&key).await?;
            if let Some(entry) = &present {
                let (theirs, ours) = (&entry.value, &verdict);
                match verdict::compare_databases(&theirs.database_version, &ours.database_version) {
                    Ordering::Greater if verdict::is_usable(theirs) => return Ok(theirs.clone()),
                    Ordering::Greater => {
                        return Err(Error::Outdated {
                            ours: verdict.database_version,
                            theirs: theirs.database_version.clone(),
                        });
                    }
                    Ordering::Equal
                        if verdict::is_usable(theirs)
                            && (!verdict::is_usable(ours)
                                || theirs.scanner_version == ours.scanner_version) =>
                    {
                        return Ok(theirs.clone());
                    }
                    Ordering::Equal | Ordering::Less => {}
                }
            }
            let revision = present.as_ref().map(|entry| entry.revision);
            if let Some(before) = present.as_ref().map(|entry| &entry.value) {
                verdict.changed_with_database = verdict::last_change(before, &verdict);
            }
            verdict.former_reports = present.map_or_else(Vec::new, |entry| {
                verdict::former_reports(entry.value, &verdict)
            });
            match self.state.verdicts.write(&key, &verdict, revision).await {
                Ok(_) => {
                    crash::point("scanner-adapter.verdict_written");
                    return Ok(verdict);
                }
                Err(error) if error.is_conflict() => last = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.map_or_else(
            || Error::not_ready("the verdict keeps changing"),
            Error::from,
        ))
    }

    /// Reads a manifest by its digest, verifies its layers, and lets the scanner match them with a database that stays
    /// the same meanwhile.
    async fn scan(
        &self,
        engine: &S::Engine,
        manifest: ManifestRef<'_>,
    ) -> Result<ScanResult, Error> {
        let _permit = self.permits.acquire().await;
        let (registry, repository) = (&self.registry, manifest.repository);
        let documents = read_documents(&self.reader, registry, repository, manifest.digest).await?;
        let cached = self.find_cached(&documents).await?;
        match self.attempt(engine, manifest, &documents, &cached).await {
            Err(Error::Stale) => {
                tracing::info!(
                    image.digest = %manifest.digest,
                    "the scanner has no use for the cached analyses; all layers are analysed again"
                );
                let none = vec![None; cached.len()];
                self.attempt(engine, manifest, &documents, &none).await
            }
            result => result,
        }
    }

    /// Returns what the cache has of each layer.
    async fn find_cached(
        &self,
        documents: &ImageDocuments,
    ) -> Result<Vec<Option<CachedLayer>>, Error> {
        let (cache, layers) = (self.cache.clone(), documents.layers.clone());
        blocking(move || layers.iter().map(|layer| cache.find(layer)).collect()).await
    }

    /// Scans a manifest, and reads the layers that are not cached.
    async fn attempt(
        &self,
        engine: &S::Engine,
        manifest: ManifestRef<'_>,
        documents: &ImageDocuments,
        cached: &[Option<CachedLayer>],
    ) -> Result<ScanResult, Error> {
        let missing = documents.layers.iter().zip(cached);
        let missing = missing.filter(|(_, cached)| cached.is_none());
        let mut bytes = estimate_bytes(missing.map(|(layer, _)| layer));
        loop {
            let disk = tokio::time::timeout(MAX_WAIT, self.quota.reserve(bytes)).await;
            let disk = disk
                .map_err(|_| Error::not_ready("other scans use the whole quota of disk space"))?;
            let disk = disk.ok_or_else(|| Error::not_ready("the service stops"))?;
            let budget = ImageBudget::new(disk, self.unpacker.limits.unpacked_bytes);
            let name = format!("{}/{}", self.registry.host(), manifest.repository);
            let scan = ManifestScan::<S> {
                engine,
                manifest,
                documents,
                cached,
                workspace: self.scanner.prepare(name, manifest.digest, documents)?,
            };
            match self.verify_and_analyse(&scan, &budget).await {
                Ok((verified, analyses)) => return self.finish(&scan, &verified, analyses).await,
                // The reservation is released before the whole quota is reserved.
                Err(Error::NeedsWholeQuota) if bytes < self.quota.bytes() => bytes = u64::MAX,
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the layers that are not cached while the scanner starts, which takes as long as unpacking 50 MiB. It
    /// learns which layers it is to read when all are verified.
    async fn verify_and_analyse(
        &self,
        scan: &ManifestScan<'_, S>,
        budget: &Arc<ImageBudget>,
    ) -> Result<(VerifiedLayers, Vec<Option<LayerAnalysis>>), Error> {
        self.scanner.confirm(scan.engine).await?;
        let are_verified = CancellationToken::new();
        let verify = async {
            let verified = self.verify_layers(scan, budget).await?;
            are_verified.cancel();
            Ok(verified)
        };
        let cached = scan.cached.iter();
        let cached = cached.map(|cached| cached.as_ref().map(|cached| cached.analysis.clone()));
        let earlier = cached.collect();
        let analyse = self
            .scanner
            .analyse(scan.engine, &scan.workspace, earlier, &are_verified);
        // Where a layer is refused, the run of the scanner is cancelled.
        tokio::try_join!(verify, analyse)
    }

    /// Reads the layers that are not cached, and checks all layers together.
    async fn verify_layers(
        &self,
        scan: &ManifestScan<'_, S>,
        budget: &Arc<ImageBudget>,
    ) -> Result<VerifiedLayers, Error> {
        let layers = || scan.documents.layers.iter().zip(scan.cached);
        let missing = layers()
            .enumerate()
            .filter(|(_, (_, cached))| cached.is_none());
        let missing = missing.map(|(number, (layer, _))| (number, layer));
        let jobs = jobs(missing, |diff_id| S::layer_path(&scan.workspace, diff_id));
        let repository = scan.manifest.repository;
        let read = self.unpacker.read(repository, jobs, budget).await?;
        let mut summaries = Vec::new();
        for (layer, cached) in layers() {
            let summary = cached.as_ref().map(|cached| &cached.summary);
            let summary = summary.or_else(|| {
                let is_same = |summary: &&LayerSummary| {
                    summary.digest == layer.digest
                        && summary.layer_type == layer.layer_type
                        && summary.diff_id == layer.diff_id
                };
                read.iter().map(|(_, summary)| summary).find(is_same)
            });
            summaries.push(summary.cloned().ok_or(Error::Stale)?);
        }
        let contents = check_layers(&summaries)
            .map_err(|refused| Error::Unsupported(format!("the layers together: {refused}")))?;
        self.unpacker.limits.check(&contents)?;
        Ok(VerifiedLayers {
            summaries,
            contents,
        })
    }

    /// Reads the report on what was verified, and stores the analyses if it is complete.
    async fn finish(
        &self,
        scan: &ManifestScan<'_, S>,
        verified: &VerifiedLayers,
        analyses: Vec<Option<LayerAnalysis>>,
    ) -> Result<ScanResult, Error> {
        self.scanner.confirm(scan.engine).await?;
        let contents = &verified.contents;
        let report = self
            .scanner
            .report(scan.engine, &scan.workspace, scan.documents, contents)
            .await?;
        if report.gaps.incomplete.is_none() {
            self.cache_analyses(scan, verified, analyses).await;
        }
        let layers = verified.summaries.iter();
        Ok(ScanResult {
            report,
            layers: layers.map(verdict::verified_layer).collect(),
        })
    }

    /// Stores report, bill of materials and findings, and returns the verdict that names them. Where the result is the one
    /// of the verdict before, its documents are kept: a newer database would otherwise store all of them again.
    async fn store(
        &self,
        version: &ScannerVersion,
        empty: Verdict,
        result: ScanResult,
    ) -> Result<Verdict, Error> {
        let mut verdict = verdict::from_scan(empty, &result);
        let ScanReport {
            bytes, findings, ..
        } = result.report;
        let findings = findings.bounded();
        if let Some(before) = self.same_result(&verdict, &findings).await? {
            verdict.report_key = before.report_key;
            verdict.sbom_key = before.sbom_key;
            verdict.findings_key = before.findings_key;
            return Ok(verdict);
        }
        verdict.report_key = self.state.store_report(&bytes).await?;
        crash::point("scanner-adapter.report_stored");
        if result.report.summary.covers() {
            verdict.sbom_key = self.store_sbom(bytes, version).await?;
        }
        verdict.findings_key = self.state.store_findings(&findings).await?;
        crash::point("scanner-adapter.findings_stored");
        Ok(verdict)
    }

    /// Returns the stored verdict on the same manifest, if the same scanner found the same.
    async fn same_result(
        &self,
        verdict: &Verdict,
        findings: &ManifestFindings,
    ) -> Result<Option<Verdict>, Error> {
        let digest = parse_digest(&verdict.digest)?;
        let before = self.state.verdicts.get(&key::verdict(&digest)).await?;
        let is_alike = |before: &Verdict| {
            !before.findings_key.is_empty()
                && verdict::has_same_figures(before, verdict)
                && before.layers == verdict.layers
                && before.scanner_version == verdict.scanner_version
        };
        let Some(before) = before.map(|entry| entry.value).filter(is_alike) else {
            return Ok(None);
        };
        // Documents that cannot be read are stored anew.
        let is_same = self
            .state
            .findings(&before.findings_key)
            .await
            .is_ok_and(|earlier| {
                earlier.has_same_findings(findings) && earlier.packages == findings.packages
            });
        Ok(is_same.then_some(before))
    }

    /// Stores the analyses of layers that are not cached; where that fails, the layers are only read again.
    async fn cache_analyses(
        &self,
        scan: &ManifestScan<'_, S>,
        verified: &VerifiedLayers,
        analyses: Vec<Option<LayerAnalysis>>,
    ) {
        let layers = scan.documents.layers.iter().zip(&verified.summaries);
        let mut new = Vec::new();
        for (((layer, summary), cached), analysis) in layers.zip(scan.cached).zip(analyses) {
            if let (None, Some(analysis)) = (cached, analysis) {
                let summary = summary.clone();
                new.push((layer.clone(), CachedLayer { summary, analysis }));
            }
        }
        let cache = self.cache.clone();
        let stored = blocking(move || {
            new.iter()
                .try_for_each(|(layer, results)| cache.store(layer, results))
        });
        match stored.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to cache the analyses of layers"),
            Err(error) => tracing::warn!(%error, "failed to cache the analyses of layers"),
        }
    }

    /// Makes the bill of materials of a report, and stores it.
    async fn store_sbom(&self, report: Vec<u8>, version: &ScannerVersion) -> Result<String, Error> {
        let version = version.clone();
        let bill = blocking(move || S::bill_of_materials(&report, &version)).await??;
        let key = self.state.store_report(&bill).await?;
        crash::point("scanner-adapter.sbom_stored");
        Ok(key)
    }
}

fn parse_digest(text: &str) -> Result<Digest, Error> {
    text.parse().map_err(|_| Error::Entry(text.to_owned()))
}

/// Reads a manifest by its digest, and its configuration.
///
/// # Errors
/// [`Error::Unsupported`] for documents that have not exactly one reading, or are of no image that clients run.
pub(crate) async fn read_documents(
    reader: &ImageReader,
    registry: &Client,
    repository: &Repository,
    digest: &Digest,
) -> Result<ImageDocuments, Error> {
    let document = reader.document(registry, repository, digest).await?;
    let manifest = document
        .parse()
        .map_err(|error| Error::Unsupported(ambiguity_reason("the manifest", error)))?;
    let (config, layers) = config_and_layers(&manifest).map_err(Error::Unsupported)?;
    let raw = reader.config_bytes(registry, repository, config).await?;
    check_size(config, &raw).map_err(Error::Unsupported)?;
    ImageDocuments::read(&raw, layers).map_err(Error::Unsupported)
}
