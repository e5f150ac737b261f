//! The findings of scans: those of one manifest, and the images that have a vulnerability, a package or a licence.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::{Digest, Finding, ManifestFindings, Package};
use sluice_events::wire::state::{ImageChild, TagEntry, Verdict, VerdictStatus};

use crate::error::Error;
use crate::{State, key};

/// How many documents of findings are read at once.
const PARALLEL: usize = 16;

/// What images are searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchTerm {
    /// The identifier of a vulnerability, in any case.
    Vulnerability(String),
    /// The name of a package.
    Package(String),
    /// The licence of a package, as packages write it, in any case.
    License(String),
}

/// The images that a search found.
#[derive(Debug, Default)]
pub struct SearchResult {
    /// The first of them, by repository and tag.
    pub images: Vec<FoundImage>,
    /// How many tags there are.
    pub total: usize,
    /// How many manifests have no usable scan with findings, so that nothing is known of them.
    pub unknown_manifests: usize,
}

/// A tag whose image has what was searched for.
#[derive(Debug, Clone)]
pub struct FoundImage {
    /// The tag.
    pub tag: TagEntry,
    /// The manifests that have it.
    pub manifests: Vec<FoundManifest>,
}

/// A manifest that has what was searched for.
#[derive(Debug, Clone)]
pub struct FoundManifest {
    /// The digest.
    pub digest: String,
    /// The platform, empty where it has none.
    pub platform: String,
    /// What was found: of a search for packages or licences only the packages, else only the findings.
    pub matches: ManifestFindings,
}

/// A manifest whose verdict names the term.
struct Candidate {
    platform: String,
    findings_key: String,
}

impl State {
    /// Returns the manifests of an image that can be run, each with its verdict; none for an image that is not known. Of a
    /// manifest that is known by its verdict only, that one.
    pub async fn verdicts_on(
        &self,
        image: &Digest,
    ) -> Result<Vec<(ImageChild, Option<Verdict>)>, Error> {
        let mut verdicts = Vec::new();
        let Some(known) = self.images.get(&key::image(image)).await? else {
            let verdict = self.verdicts.get(&key::verdict(image)).await?;
            let child = |verdict: Verdict| {
                let child = ImageChild {
                    digest: image.to_string(),
                    platform: verdict.platform.clone(),
                    ..ImageChild::default()
                };
                (child, Some(verdict))
            };
            return Ok(verdict.into_iter().map(|one| child(one.value)).collect());
        };
        let children = known.value.children.into_iter();
        for child in children.filter(|child| !child.attestation) {
            let verdict = match child.digest.parse() {
                Ok(digest) => self.verdicts.get(&key::verdict(&digest)).await?,
                Err(_) => None,
            };
            verdicts.push((child, verdict.map(|entry| entry.value)));
        }
        Ok(verdicts)
    }

    /// Stores the findings of a manifest, and returns their key.
    pub async fn store_findings(&self, findings: &ManifestFindings) -> Result<String, Error> {
        let document = serde_json::to_vec(findings).map_err(std::io::Error::from);
        let document = document.map_err(|source| Error::Report {
            key: "findings".to_owned(),
            source,
        })?;
        self.store_report(&document).await
    }

    /// Reads the findings of a manifest by the key in its verdict.
    pub async fn findings(&self, key: &str) -> Result<ManifestFindings, Error> {
        let document = self.report(key).await?;
        serde_json::from_slice(&document).map_err(|source| Error::Report {
            key: key.to_owned(),
            source: source.into(),
        })
    }

    /// Finds the tags whose images have a vulnerability, a package or a licence.
    ///
    /// Of at most `limit` tags the matching findings or packages are read. `wanted` says which tags are searched.
    pub async fn search_findings(
        &self,
        term: &SearchTerm,
        wanted: impl Fn(&TagEntry) -> bool,
        limit: usize,
    ) -> Result<SearchResult, Error> {
        let mut result = SearchResult::default();
        let candidates = self.candidates(term, &mut result.unknown_manifests).await?;
        if candidates.is_empty() {
            return Ok(result);
        }
        let mut by_image: HashMap<String, Vec<String>> = HashMap::new();
        let images = self.images.each(">", |_, entry| {
            let children = entry.iter().flat_map(|entry| &entry.value.children);
            let matching = children.filter(|child| candidates.contains_key(&child.digest));
            let matching: Vec<String> = matching.map(|child| child.digest.clone()).collect();
            if let (false, Some(entry)) = (matching.is_empty(), entry) {
                by_image.insert(entry.value.digest, matching);
            }
            ControlFlow::Continue(())
        });
        images.await?;
        let mut tags = BTreeMap::new();
        let listed = self.tags.each(">", |key, entry| {
            let entry = entry.map(|entry| entry.value);
            match entry.filter(|tag| by_image.contains_key(&tag.digest) && wanted(tag)) {
                Some(tag) => drop(tags.insert(key, tag)),
                None => drop(tags.remove(&key)),
            }
            ControlFlow::Continue(())
        });
        listed.await?;
        result.total = tags.len();
        let tags: Vec<TagEntry> = tags.into_values().take(limit).collect();
        let shown: HashSet<&String> = tags
            .iter()
            .filter_map(|tag| by_image.get(&tag.digest))
            .flatten()
            .collect();
        let matches = self.matches(term, &candidates, shown).await?;
        result.images = tags
            .iter()
            .map(|tag| FoundImage {
                tag: tag.clone(),
                manifests: by_image
                    .get(&tag.digest)
                    .into_iter()
                    .flatten()
                    .filter_map(|digest| matches.get(digest).cloned())
                    .collect(),
            })
            .collect();
        Ok(result)
    }

    /// Finds the manifests whose verdict names the term, and counts those of which nothing is known.
    async fn candidates(
        &self,
        term: &SearchTerm,
        unknown: &mut usize,
    ) -> Result<HashMap<String, Candidate>, Error> {
        let (mut candidates, mut unlisted) = (HashMap::new(), Vec::new());
        let verdicts = self.verdicts.each(">", |_, entry| {
            let Some(verdict) = entry.map(|entry| entry.value) else {
                return ControlFlow::Continue(());
            };
            if verdict.findings_key.is_empty() || verdict.status() != VerdictStatus::Covered {
                *unknown += 1;
            }
            if verdict.lists_omitted || term.is_in(&verdict) {
                let candidate = Candidate {
                    platform: verdict.platform,
                    findings_key: verdict.findings_key,
                };
                if verdict.lists_omitted {
                    unlisted.push(verdict.digest.clone());
                }
                candidates.insert(verdict.digest, candidate);
            }
            ControlFlow::Continue(())
        });
        verdicts.await?;
        // Where a list was too long for the verdict, the document says whether the term is in it.
        for digest in unlisted {
            let Some(candidate) = candidates.get(&digest) else {
                continue;
            };
            let findings = self.findings(&candidate.findings_key).await?;
            let matches = term.matches(findings);
            if matches.findings.is_empty() && matches.packages.is_empty() {
                candidates.remove(&digest);
            }
        }
        Ok(candidates)
    }

    /// Reads what the shown manifests have of the term.
    async fn matches(
        &self,
        term: &SearchTerm,
        candidates: &HashMap<String, Candidate>,
        shown: HashSet<&String>,
    ) -> Result<HashMap<String, FoundManifest>, Error> {
        let mut reads = Vec::new();
        for digest in shown {
            let Some(Candidate {
                platform,
                findings_key,
            }) = candidates.get(digest)
            else {
                continue;
            };
            let (digest, platform) = (digest.clone(), platform.clone());
            reads.push(async move {
                let found = FoundManifest {
                    digest: digest.clone(),
                    platform,
                    matches: term.matches(self.findings(findings_key).await?),
                };
                Ok((digest, found))
            });
        }
        stream::iter(reads)
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }
}

impl SearchTerm {
    /// Says whether the lists of a verdict have the term.
    fn is_in(&self, verdict: &Verdict) -> bool {
        let (list, term) = match self {
            Self::Vulnerability(id) => (&verdict.vulnerability_ids, id),
            Self::Package(name) => (&verdict.package_names, name),
            Self::License(name) => (&verdict.licenses, name),
        };
        list.lines().any(|line| self.equals(line, term))
    }

    /// Returns the findings or packages that the term is about.
    fn matches(&self, mut found: ManifestFindings) -> ManifestFindings {
        let is_finding = |finding: &Finding| match self {
            Self::Vulnerability(id) => self.equals(&finding.id, id),
            Self::Package(_) | Self::License(_) => false,
        };
        let is_package = |package: &Package| match self {
            Self::Vulnerability(_) => false,
            Self::Package(name) => self.equals(&package.name, name),
            Self::License(name) => package.licenses.iter().any(|one| self.equals(one, name)),
        };
        found.findings.retain(is_finding);
        found.packages.retain(is_package);
        found
    }

    fn equals(&self, text: &str, term: &str) -> bool {
        match self {
            Self::Package(_) => text == term,
            Self::Vulnerability(_) | Self::License(_) => text.eq_ignore_ascii_case(term),
        }
    }
}
