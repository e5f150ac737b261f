//! One manifest: scanned by digest, its report and bill of materials stored, its verdict written.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use sluice_domain::Digest;
use sluice_events::wire::state::{Verdict, VerdictStatus};
use sluice_registry::{Client, Content, Descriptor, Manifest};
use sluice_service::crash;
use sluice_state::State;
use sluice_state::key;
use tokio::sync::Semaphore;

use crate::database::{JavaIndex, Origin};
use crate::error::Error;
use crate::failure::{Failed, Kind};
use crate::folder::Folder;
use crate::report::Report;
use crate::server::{Server, Version};
use crate::trivy::{Trivy, Variables, text};
use crate::verdict::{Age, Image, Scanned, blank, compare, holds, told, unsupported, usable};

/// The largest report or bill of materials that is read.
const MOST_BYTES: u64 = 256 << 20;
/// How often a verdict is written anew after somebody else wrote it.
const ROUNDS: usize = 5;
/// What the configuration of an image is; that of anything else is no image, and Trivy would find it clean.
const CONFIGS: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// An account of the internal registry, as Trivy takes it.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) name: SecretString,
    pub(crate) password: SecretString,
}

/// What every scan needs.
#[derive(Debug)]
pub(crate) struct ImageScanner {
    pub(crate) state: State,
    pub(crate) registry: Client,
    pub(crate) trivy: Trivy,
    pub(crate) folder: Arc<Folder>,
    pub(crate) origin: Origin,
    pub(crate) java: JavaIndex,
    pub(crate) account: Option<Account>,
    pub(crate) ca_file: Option<SecretString>,
    /// Whether the registry is spoken to without TLS.
    pub(crate) plain_http: bool,
    pub(crate) turns: Semaphore,
    pub(crate) limit: Duration,
}

impl ImageScanner {
    /// Returns the verdict on a manifest, from its entry where that is up to date.
    pub(crate) async fn verdict(
        &self,
        server: &Server,
        image: Image<'_>,
    ) -> Result<Verdict, Error> {
        let key = key::verdict(image.digest);
        if let Some(entry) = self.state.verdicts.get(&key).await?
            && holds(&entry.value, &server.version)
        {
            return Ok(entry.value);
        }
        let manifest = self
            .registry
            .manifest(image.repository, &image.digest.into())
            .await?;
        let blank = blank(image, &server.version);
        let verdict = match config_of(&manifest) {
            Err(reason) => unsupported(blank, reason),
            Ok(config) => {
                let scanned = self.scan(server, image, config).await?;
                told(blank, scanned)
            }
        };
        self.write(verdict).await
    }

    /// Records that a manifest could not be scanned, so that no older verdict passes for today's.
    pub(crate) async fn record_failure(
        &self,
        version: &Version,
        image: Image<'_>,
        reason: String,
    ) -> Result<(), Error> {
        let verdict = Verdict {
            status: VerdictStatus::Failed.into(),
            reason,
            ..blank(image, version)
        };
        self.write(verdict).await.map(drop)
    }

    /// Writes a verdict, unless there is one that is as good: a replica may have been faster.
    async fn write(&self, verdict: Verdict) -> Result<Verdict, Error> {
        let digest = verdict.digest.clone();
        let parsed: Digest = digest.parse().map_err(|_| Error::Entry(digest))?;
        let key = key::verdict(&parsed);
        let mut last = None;
        for _ in 0..ROUNDS {
            let there = self.state.verdicts.get(&key).await?;
            if let Some(entry) = &there {
                match compare(&entry.value.database_version, &verdict.database_version) {
                    Age::Newer if usable(&entry.value) => return Ok(entry.value.clone()),
                    Age::Newer => {
                        return Err(Error::Outdated {
                            ours: verdict.database_version,
                            theirs: entry.value.database_version.clone(),
                        });
                    }
                    Age::Same if usable(&entry.value) && !usable(&verdict) => {
                        return Ok(entry.value.clone());
                    }
                    Age::Same | Age::Older => {}
                }
            }
            let revision = there.map(|entry| entry.revision);
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

    /// Lets Trivy scan a manifest, by a database that stays the same meanwhile.
    async fn scan(
        &self,
        server: &Server,
        image: Image<'_>,
        config: &str,
    ) -> Result<Scanned, Error> {
        let _turn = self.turns.acquire().await;
        let folder = tempfile::tempdir_in(self.folder.work()).map_err(Error::files("make"))?;
        let report_path = folder.path().join("report.json");
        server.confirm().await?;
        let java = self.java.folder(folder.path()).await;
        let mut ran = self
            .run(server, image, folder.path(), &java, &report_path)
            .await;
        if matches!(&ran, Err(failed) if failed.kind == Kind::JavaDatabase) {
            let java = self
                .java
                .fetch(&self.origin, &self.trivy, &self.folder)
                .await?;
            ran = self
                .run(server, image, folder.path(), &java, &report_path)
                .await;
        }
        ran?;
        server.confirm().await?;
        let bytes = read("report", &report_path).await?;
        let summary = Report::read(&bytes)?.of_image(config)?;
        let unknown = server.unknown(&summary);
        let report_key = self.state.store_report(&bytes).await?;
        crash::point("scanner-adapter.report_stored");
        drop(bytes);
        let sbom_key = if summary.covers() {
            self.sbom(folder.path(), &report_path).await?
        } else {
            String::new()
        };
        Ok(Scanned {
            summary,
            unknown,
            report_key,
            sbom_key,
        })
    }

    async fn run(
        &self,
        server: &Server,
        image: Image<'_>,
        folder: &Path,
        cache: &Path,
        report: &Path,
    ) -> Result<(), Failed> {
        let host = self.registry.host();
        let mut arguments: Vec<String> = [
            "image",
            "--image-src",
            "remote",
            "--scanners",
            "vuln",
            "--list-all-pkgs",
            "--format",
            "json",
            "--offline-scan",
            "--skip-java-db-update",
            "--no-progress",
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(server.arguments());
        // Trivy keeps what it saw of a layer by the `diff_id` that the image states, and does not check it: an image
        // that states the layers of another one would be found as clean as that. A file to skip that is named after
        // the image makes the key of each layer one of this image.
        arguments.extend([
            "--skip-files".to_owned(),
            format!("sluice/{}", image.digest),
        ]);
        arguments.extend(["--timeout".to_owned(), format!("{}s", self.limit.as_secs())]);
        arguments.extend([
            "--cache-dir".to_owned(),
            text(cache),
            "--output".to_owned(),
            text(report),
        ]);
        if self.plain_http {
            arguments.push("--insecure".to_owned());
        }
        arguments.push(format!("{host}/{}@{}", image.repository, image.digest));
        let variables = self.variables(server);
        self.trivy
            .run(folder, &arguments, &variables, self.limit)
            .await
    }

    fn variables(&self, server: &Server) -> Variables {
        let mut variables = server.variables();
        if let Some(account) = &self.account {
            variables = variables
                .with("TRIVY_USERNAME", &account.name)
                .with("TRIVY_PASSWORD", &account.password);
        }
        if let Some(ca_file) = &self.ca_file {
            variables = variables.with("SSL_CERT_FILE", ca_file);
        }
        variables
    }

    /// Makes the bill of materials of the report, and stores it.
    async fn sbom(&self, folder: &Path, report: &Path) -> Result<String, Error> {
        let path = folder.join("sbom.cdx.json");
        let arguments = [
            "convert",
            "--format",
            "cyclonedx",
            "--output",
            &text(&path),
            &text(report),
        ]
        .map(str::to_owned);
        self.trivy
            .run(folder, &arguments, &Variables::default(), self.limit)
            .await?;
        let bytes = read("bill of materials", &path).await?;
        let sbom: Sbom = serde_json::from_slice(&bytes).map_err(crate::report::Unusable::from)?;
        if sbom.bom_format != "CycloneDX" {
            return Err(crate::report::Unusable::Anonymous.into());
        }
        let key = self.state.store_report(&bytes).await?;
        crash::point("scanner-adapter.sbom_stored");
        Ok(key)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sbom {
    bom_format: String,
}

/// Reads a file, unless it is too large.
async fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    let size_bytes = tokio::fs::metadata(path)
        .await
        .map_err(Error::files("find"))?
        .len();
    if size_bytes > MOST_BYTES {
        return Err(Error::TooLarge {
            what,
            size_bytes,
            limit_bytes: MOST_BYTES,
        });
    }
    tokio::fs::read(path).await.map_err(Error::files("read"))
}

/// Returns the digest of an image's configuration, or why this is no image.
fn config_of(manifest: &Manifest) -> Result<&str, String> {
    match &manifest.content {
        Content::Index { .. } => Err("an index inside an index is not scanned".to_owned()),
        // The scanner would fetch it from wherever the manifest says, which may be within our own network.
        Content::Image { layers, .. } if layers.iter().any(Descriptor::is_foreign) => {
            Err("it has a layer that lies elsewhere and is not copied".to_owned())
        }
        Content::Image { config, .. } if CONFIGS.contains(&config.media_type.as_str()) => {
            Ok(config.digest.as_str())
        }
        Content::Image { config, .. } => Err(format!(
            "its configuration is `{}`, so it is no image",
            config.media_type.escape_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_whose_layers_lie_elsewhere_is_not_scanned() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let read = |urls: &str| {
            let body = format!(
                r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{digest}","size":2}},"layers":[{{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{digest}","size":2,"urls":{urls}}}]}}"#,
                CONFIGS[0]
            );
            let media_type = "application/vnd.oci.image.manifest.v1+json";
            Manifest::read("x", media_type, body.into()).unwrap()
        };
        let elsewhere = read(r#"["http://169.254.169.254/latest/meta-data/"]"#);
        assert!(config_of(&elsewhere).unwrap_err().contains("elsewhere"));
        // One that lies nowhere else was copied as any other.
        assert!(config_of(&read("[]")).is_ok());
    }

    #[test]
    fn what_is_no_image_is_not_scanned() {
        let read = |config: &str| {
            let descriptor = |media_type: &str| {
                format!(
                    r#"{{"mediaType":"{media_type}","digest":"sha256:{}","size":2}}"#,
                    "0".repeat(64)
                )
            };
            let body = format!(
                r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#,
                descriptor(config)
            );
            Manifest::read(
                "x",
                "application/vnd.oci.image.manifest.v1+json",
                body.into(),
            )
            .unwrap()
        };
        for config in CONFIGS {
            assert!(config_of(&read(config)).is_ok());
        }
        let chart = read("application/vnd.cncf.helm.config.v1+json");
        assert!(config_of(&chart).unwrap_err().contains("helm"));
        let index = Manifest::read(
            "x",
            "application/vnd.oci.image.index.v1+json",
            r#"{"schemaVersion":2,"manifests":[]}"#.into(),
        );
        assert!(config_of(&index.unwrap()).is_err());
    }
}
