//! The findings of scans: those of one manifest, and the images that have a vulnerability, a package or a licence.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use sluice_domain::{Digest, Finding, ManifestFindings, Package};
use sluice_events::wire::state::{ImageChild, TagEntry, Verdict, VerdictStatus};

use crate::error::Error;
use crate::images::attachments::is_attachment;
use crate::{State, key};

/// How many documents of findings are read at once.
const PARALLEL: usize = 8;
/// How many matches of one manifest are returned.
const MAX_MATCHES: usize = 20;

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
    /// How many tags name an image of which no scan covers every manifest, so that it may have the term all the same.
    pub unknown_tags: usize,
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
    /// What was found, at most 20: of a search for packages or licences only the packages, else only the findings.
    pub matches: ManifestFindings,
}

/// A manifest whose verdict names the term.
struct MatchingManifest {
    platform: String,
    findings_key: String,
}

/// The manifests that a scan covers, and those of them whose verdict names the term, by digest.
#[derive(Default)]
struct ScannedManifests {
    covered: HashSet<String>,
    matching: HashMap<String, MatchingManifest>,
}

/// The images of which every manifest was scanned, and those with the term, each with its manifests that have it.
#[derive(Default)]
struct ScannedImages {
    covered: HashSet<String>,
    matching: HashMap<String, Vec<String>>,
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
        let scanned = self.find_manifests(term).await?;
        let images = self.find_images(&scanned).await?;
        let (mut tags, mut unknown) = (BTreeMap::new(), BTreeSet::new());
        let listed = self.tags.each(">", |key, entry| {
            tags.remove(&key);
            unknown.remove(&key);
            let tag = entry.map(|entry| entry.value);
            let is_image = |tag: &TagEntry| !tag.digest.is_empty() && !is_attachment(tag);
            if let Some(tag) = tag.filter(|tag| is_image(tag) && wanted(tag)) {
                if !images.covered.contains(&tag.digest) {
                    unknown.insert(key.clone());
                }
                if images.matching.contains_key(&tag.digest) {
                    tags.insert(key, tag);
                }
            }
            ControlFlow::Continue(())
        });
        listed.await?;
        let mut result = SearchResult {
            images: Vec::new(),
            total: tags.len(),
            unknown_tags: unknown.len(),
        };
        let tags: Vec<TagEntry> = tags.into_values().take(limit).collect();
        let digests = tags
            .iter()
            .filter_map(|tag| images.matching.get(&tag.digest));
        let shown: BTreeSet<&String> = digests.flatten().collect();
        let matches = self.read_matches(term, &scanned.matching, shown).await?;
        result.images = tags
            .into_iter()
            .map(|tag| {
                let digests = images.matching.get(&tag.digest).into_iter().flatten();
                let manifests = digests.filter_map(|digest| matches.get(digest).cloned());
                FoundImage {
                    manifests: manifests.collect(),
                    tag,
                }
            })
            .collect();
        Ok(result)
    }

    /// Finds the manifests whose verdict names the term, and those that a scan covers.
    async fn find_manifests(&self, term: &SearchTerm) -> Result<ScannedManifests, Error> {
        let mut scanned = ScannedManifests::default();
        let mut unlisted = Vec::new();
        let verdicts = self.verdicts.each(">", |_, entry| {
            let Some(verdict) = entry.map(|entry| entry.value) else {
                return ControlFlow::Continue(());
            };
            if verdict.status() != VerdictStatus::Covered || verdict.findings_key.is_empty() {
                return ControlFlow::Continue(());
            }
            scanned.covered.insert(verdict.digest.clone());
            let is_listed = term.is_in(&verdict);
            if is_listed || verdict.lists_omitted {
                let manifest = MatchingManifest {
                    platform: verdict.platform,
                    findings_key: verdict.findings_key,
                };
                if !is_listed {
                    unlisted.push(verdict.digest.clone());
                }
                scanned.matching.insert(verdict.digest, manifest);
            }
            ControlFlow::Continue(())
        });
        verdicts.await?;
        // Where a list is left out of the verdict, the document says whether the term is in it.
        for digest in unlisted {
            let Some(manifest) = scanned.matching.get(&digest) else {
                continue;
            };
            let found = self.findings(&manifest.findings_key).await;
            let found = found.map(|found| (found.truncated, term.matches(found)));
            match found {
                Ok((_, found)) if !found.findings.is_empty() || !found.packages.is_empty() => {}
                Ok((false, _)) => drop(scanned.matching.remove(&digest)),
                // What was left out may have the term.
                Ok((true, _)) | Err(Error::Report { .. }) => {
                    scanned.matching.remove(&digest);
                    scanned.covered.remove(&digest);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(scanned)
    }

    /// Finds the images of manifests: those with the term, and those of which every manifest was scanned.
    async fn find_images(&self, scanned: &ScannedManifests) -> Result<ScannedImages, Error> {
        let mut images = ScannedImages::default();
        let entries = self.images.each(">", |_, entry| {
            let Some(image) = entry.map(|entry| entry.value) else {
                return ControlFlow::Continue(());
            };
            let mut children = image.children;
            children.retain(|child| !child.attestation);
            let is_covered = |child: &ImageChild| scanned.covered.contains(&child.digest);
            if !children.is_empty() && children.iter().all(is_covered) {
                images.covered.insert(image.digest.clone());
            }
            let digests = children.into_iter().map(|child| child.digest);
            let matching = digests.filter(|digest| scanned.matching.contains_key(digest));
            let matching: Vec<String> = matching.collect();
            if !matching.is_empty() {
                images.matching.insert(image.digest, matching);
            }
            ControlFlow::Continue(())
        });
        entries.await?;
        Ok(images)
    }

    /// Reads what the shown manifests have of the term.
    async fn read_matches(
        &self,
        term: &SearchTerm,
        manifests: &HashMap<String, MatchingManifest>,
        shown: BTreeSet<&String>,
    ) -> Result<HashMap<String, FoundManifest>, Error> {
        let mut reads = Vec::new();
        for digest in shown {
            let Some(MatchingManifest {
                platform,
                findings_key,
            }) = manifests.get(digest)
            else {
                continue;
            };
            let (digest, platform) = (digest.clone(), platform.clone());
            reads.push(async move {
                let matches = match self.findings(findings_key).await {
                    Ok(found) => term.matches(found),
                    // The verdict names the term; where the document is gone, no more is known.
                    Err(Error::Report { .. }) => ManifestFindings::default(),
                    Err(error) => return Err(error),
                };
                let found = FoundManifest {
                    digest: digest.clone(),
                    platform,
                    matches,
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
        found.findings.truncate(MAX_MATCHES);
        found.packages.truncate(MAX_MATCHES);
        found
    }

    fn equals(&self, text: &str, term: &str) -> bool {
        match self {
            Self::Package(_) => text == term,
            Self::Vulnerability(_) | Self::License(_) => text.eq_ignore_ascii_case(term),
        }
    }
}
