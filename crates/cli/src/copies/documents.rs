//! Reads the resources of a sync or plan: mirrors, and the registries that they use.

use std::collections::BTreeSet;
use std::path::PathBuf;

use sluice_copier::ConfigurationError;
use sluice_domain::resources::{Mirror, Registry, Resource};

use crate::output::note;

/// The resources of a sync or plan.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// Accounts and certificates of registries.
    pub(crate) registries: Vec<Registry>,
    /// The enabled mirrors.
    pub(crate) mirrors: Vec<Mirror>,
}

impl Documents {
    /// Reads files, and prints which of their resources are ignored.
    pub(crate) fn read(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut resources = Vec::new();
        for file in files {
            let documents = sluice_embedded::read_resources(file).map_err(ConfigurationError)?;
            resources.extend(documents.into_iter().map(|document| document.resource));
        }
        let mut documents = Self::default();
        let mut names = BTreeSet::new();
        for resource in resources {
            match resource {
                Resource::Registry(registry) => documents.registries.push(registry),
                Resource::Mirror(mirror) if !names.insert(mirror.name.clone()) => {
                    let error = anyhow::anyhow!("duplicate mirror `{}`", mirror.name);
                    return Err(ConfigurationError(error).into());
                }
                Resource::Mirror(mirror) if mirror.enabled => documents.mirrors.push(mirror),
                Resource::Mirror(mirror) => {
                    note(&format!("mirror {} is disabled, ignored", mirror.name));
                }
                other => note(&format!(
                    "{} {} needs a running Sluice, ignored",
                    other.kind(),
                    other.name()
                )),
            }
        }
        if documents.mirrors.is_empty() {
            let error = anyhow::anyhow!("no mirror to sync");
            return Err(ConfigurationError(error).into());
        }
        Ok(documents)
    }
}
