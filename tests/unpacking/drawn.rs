//! Indexes and attachments drawn at random: what clients unpack from a target is what was scanned, whichever child they
//! take; and what nobody scans is what it claims, so that nothing can be unpacked from it.
//!
//! The product's own reading decides, in this process and on a registry in memory; readers that work as clients do then
//! pull from the target, by tag for several hosts and every manifest by its digest.

mod memory;
mod readers;

use std::collections::BTreeMap;

use sluice_domain::{Digest, Repository};
use sluice_layer::{Limits, check_layers, read_layer};
use sluice_registry::{AdmittedAttachment, Client, CopyJob, CopyOptions};
use sluice_scanner_adapter::layers_of;
use sluice_state::read_image;
use sluice_tests::hostile::Bundle;
use sluice_tests::hostile::drawn::attachments::{self, Attachment};
use sluice_tests::hostile::drawn::image;
use sluice_tests::seeded_random::SeededRandom;
use sluice_tests::tree::{self, Tree};

use memory::Wire;
use readers::{HOSTS, Reader};

/// How many of each kind are drawn.
const DRAWN: u64 = 10_000;
const SOURCE: &str = "hub/drawn";
const TARGET: &str = "official/drawn";

/// Which child of an index needs no scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exempt {
    /// As the product decides it.
    Proven,
    /// One that the index calls an attestation: what the product must not do.
    Called,
}

/// What became of a document that was drawn.
struct Gate {
    wire: Wire,
    registry: Client,
    source: Repository,
    target: Repository,
}

impl Gate {
    fn of(seed: u64, image: &Bundle) -> Self {
        let wire = Wire::default();
        wire.hold(SOURCE, image);
        Self {
            registry: wire.client(seed),
            wire,
            source: SOURCE.parse().unwrap(),
            target: TARGET.parse().unwrap(),
        }
    }

    /// Reads an image as scanner and promoter do; returns the tree of each manifest that was scanned, or nothing where
    /// it is not promoted.
    async fn scan(&self, top: &Digest, exempt: Exempt) -> Option<BTreeMap<String, Tree>> {
        let read = read_image(&self.registry, &self.source, top).await.ok()?;
        let called = self.called_attestations(top).await;
        let mut scanned = BTreeMap::new();
        for child in &read.children {
            let is_exempt = match exempt {
                Exempt::Proven => child.attestation,
                Exempt::Called => called.contains(&child.digest),
            };
            if !is_exempt {
                let tree = self.verified(&child.digest).await?;
                scanned.insert(child.digest.clone(), tree);
            }
        }
        (!scanned.is_empty()).then_some(scanned)
    }

    async fn called_attestations(&self, top: &Digest) -> Vec<String> {
        let index = self
            .registry
            .fetch_manifest(&self.source, &top.into())
            .await;
        let children = index.iter().flat_map(|index| index.children());
        let called = children.filter(|child| child.is_marked_attestation());
        called.map(|child| child.digest.to_string()).collect()
    }

    /// Returns the tree of the tars that the scanner gets of a manifest.
    async fn verified(&self, digest: &str) -> Option<Tree> {
        let digest = digest.parse().unwrap();
        let layers = layers_of(&self.registry, &self.source, &digest).await;
        let (mut tars, mut summaries) = (Vec::new(), Vec::new());
        for layer in layers.ok()? {
            let blob = self.wire.blob(SOURCE, layer.digest.as_str())?;
            let mut tar = Vec::new();
            summaries.push(read_layer(&*blob, &layer, &Limits::default(), &mut tar).ok()?);
            tars.push(tar);
        }
        check_layers(&summaries).ok()?;
        Some(tree::unpack(&tars).unwrap())
    }

    /// Copies something into the target, as the promoter does.
    async fn copy(&self, digest: &Digest, options: CopyOptions) -> bool {
        let job = CopyJob {
            source: &self.registry,
            source_repository: &self.source,
            digest,
            target: &self.registry,
            target_repository: &self.target,
            siblings: std::slice::from_ref(&self.source),
        };
        job.run_with(&options).await.is_ok()
    }

    /// Lets every client pull everything from the target; returns what one unpacked that was not scanned.
    fn violation(&self, top: &Digest, scanned: &BTreeMap<String, Tree>) -> Option<String> {
        let mut references = self.wire.manifests(TARGET);
        references.push(top.to_string());
        for reader in Reader::ALL {
            for reference in &references {
                for host in HOSTS {
                    let pulled = reader.pull(&self.wire, TARGET, reference, host);
                    let Ok((manifest, tree)) = pulled else {
                        continue;
                    };
                    // Of something without layers nothing is unpacked.
                    if tree.0.is_empty() || scanned.get(&manifest) == Some(&tree) {
                        continue;
                    }
                    return Some(format!(
                        "{reader:?} on {host:?} unpacks {manifest} of {reference}"
                    ));
                }
            }
        }
        None
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

/// What became of all that was drawn.
#[derive(Debug, Default)]
struct Tally {
    promoted: u64,
    refused: u64,
    with_attestations: u64,
    with_many_children: u64,
}

/// Draws images and lets each through; returns the first violation.
fn indexes(seeds: std::ops::Range<u64>, exempt: Exempt) -> Result<Tally, String> {
    let mut tally = Tally::default();
    let runtime = runtime();
    for seed in seeds {
        let image = image(&mut SeededRandom::new(seed));
        let gate = Gate::of(seed, &image);
        let top: Digest = image.digest().parse().unwrap();
        let scanned = runtime.block_on(async {
            let scanned = gate.scan(&top, exempt).await?;
            let is_copied = gate.copy(&top, CopyOptions::default()).await;
            is_copied.then_some(scanned)
        });
        let Some(scanned) = scanned else {
            tally.refused += 1;
            continue;
        };
        tally.promoted += 1;
        let manifests = gate.wire.manifests(TARGET).len();
        tally.with_many_children += u64::from(scanned.len() > 1);
        tally.with_attestations += u64::from(manifests > scanned.len() + 1);
        if let Some(violation) = gate.violation(&top, &scanned) {
            return Err(format!("seed {seed}: {violation}"));
        }
    }
    Ok(tally)
}

#[test]
fn whichever_child_of_an_index_a_client_takes_was_scanned() {
    let tally = indexes(0..DRAWN, Exempt::Proven).unwrap_or_else(|told| panic!("{told}"));
    println!("{tally:?}");
    for count in [
        tally.promoted,
        tally.refused,
        tally.with_attestations,
        tally.with_many_children,
    ] {
        assert!(count > DRAWN / 50, "{tally:?}");
    }
}

#[test]
fn a_gate_that_believes_what_an_index_says_of_its_children_is_found_out() {
    let told = indexes(0..DRAWN, Exempt::Called).unwrap_err();
    assert!(told.contains("unpacks"), "{told}");
}

/// Lets something attached through; returns what of it is in the target.
async fn admitted(gate: &Gate, drawn: &Attachment) -> Vec<String> {
    let digest: Digest = drawn.bundle.digest().parse().unwrap();
    let tag = drawn.tag.parse().unwrap();
    let admissible = gate.registry.admit_attachment(&gate.source, &tag, &digest);
    let top = match admissible.await {
        Ok(AdmittedAttachment::Whole(top) | AdmittedAttachment::Filtered { index: top, .. }) => top,
        // A blob of another size than its descriptor says.
        Ok(AdmittedAttachment::Refused { .. }) | Err(_) => return Vec::new(),
    };
    let mut referrers: Vec<String> = top
        .children()
        .iter()
        .map(|child| child.digest.to_string())
        .collect();
    if !tag.is_list() {
        referrers.push(top.digest.to_string());
    }
    let options = CopyOptions {
        root: Some(top),
        ..CopyOptions::default()
    };
    assert!(gate.copy(&digest, options).await);
    referrers
}

#[test]
fn what_is_attached_enters_only_as_what_it_claims_and_nobody_unpacks_it() {
    let runtime = runtime();
    let (mut entered, mut kept_out) = (0_u64, 0_u64);
    for seed in 0..DRAWN {
        let drawn = attachments::attachment(&mut SeededRandom::new(seed));
        let gate = Gate::of(seed, &drawn.bundle);
        let admitted = runtime.block_on(admitted(&gate, &drawn));
        let is_list = !drawn.tag.contains('.');
        let top = drawn.bundle.documents.len() - 1;
        let named = if is_list && drawn.bundle.top().media_type.contains("index") {
            &drawn.bundle.documents[..top]
        } else if is_list {
            // A manifest where a list belongs.
            &[]
        } else {
            &drawn.bundle.documents[top..]
        };
        let mut honest: Vec<String> = named
            .iter()
            .map(|document| sluice_tests::hostile::image::digest(&document.bytes))
            .filter(|digest| drawn.honest.contains(digest))
            .collect();
        let mut admitted = admitted;
        for list in [&mut honest, &mut admitted] {
            list.sort();
            list.dedup();
        }
        // What is honest is not refused either.
        assert_eq!(admitted, honest, "seed {seed}: {}", drawn.tag);
        entered += u64::from(!admitted.is_empty());
        kept_out += u64::from(admitted.len() < named.len() || named.is_empty());
        let top = drawn.bundle.digest().parse().unwrap();
        let violation = gate.violation(&top, &BTreeMap::new());
        assert_eq!(violation, None, "seed {seed}: {}", drawn.tag);
    }
    println!("{entered} entered, {kept_out} stayed out, whole or in part");
    assert!(entered > DRAWN / 10 && kept_out > DRAWN / 10);
}
