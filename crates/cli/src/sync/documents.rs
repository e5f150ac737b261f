//! Reads the documents that mirrors are carried out from once.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sluice_domain::resources::{Mirror, Registry, Resource};

use crate::exit::Misconfigured;
use crate::output::note;

/// What of some files can be carried out once.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// How registries are reached.
    pub(crate) registries: Vec<Registry>,
    /// What is to be copied; those that are turned off are left out.
    pub(crate) mirrors: Vec<Mirror>,
}

impl Documents {
    /// Reads files and says what of them is not carried out.
    pub(crate) fn read(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut read = Vec::new();
        for file in files {
            let documents = sluice_embedded::read_resources(file).map_err(Misconfigured)?;
            read.extend(documents.into_iter().map(|document| document.resource));
        }
        let mut found = Self::default();
        let mut names = BTreeSet::new();
        for resource in read {
            match resource {
                Resource::Registry(registry) => found.registries.push(registry),
                Resource::Mirror(mirror) if !names.insert(mirror.name.clone()) => {
                    let told = anyhow::anyhow!("the Mirror `{}` is written twice", mirror.name);
                    return Err(Misconfigured(told).into());
                }
                Resource::Mirror(mirror) if mirror.enabled => found.mirrors.push(mirror),
                Resource::Mirror(mirror) => {
                    note(&format!(
                        "Mirror {} is turned off and left out",
                        mirror.name
                    ));
                }
                other => note(&format!(
                    "{} {} is for a running Sluice; nothing is done with it here",
                    other.kind(),
                    other.name()
                )),
            }
        }
        if found.mirrors.is_empty() {
            let told = anyhow::anyhow!("there is no Mirror to carry out");
            return Err(Misconfigured(told).into());
        }
        Ok(found)
    }
}
