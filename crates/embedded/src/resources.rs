//! Reads files of resources and applies them.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sluice_bus::Bus;
use sluice_domain::ResourceName;
use sluice_domain::resources::{Document, Kind, Problem};
use sluice_state::State;

/// The author of the resources, as far as the connection identifies one.
const ACTOR: &str = "cli";

/// A file whose resources cannot be applied.
#[derive(Debug, thiserror::Error)]
pub struct InvalidResources {
    file: PathBuf,
    problems: Vec<Problem>,
}

impl fmt::Display for InvalidResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        write!(f, "`{file}` is invalid:")?;
        for problem in &self.problems {
            write!(f, "\n  {file}, {problem}")?;
        }
        Ok(())
    }
}

/// A resource that was applied.
#[derive(Debug)]
pub struct AppliedResource {
    /// The kind of the resource.
    pub kind: Kind,
    /// The name of the resource.
    pub name: ResourceName,
    /// Whether the resource is new or changed.
    pub is_changed: bool,
}

/// Reads and checks a file, or standard input for `-`.
///
/// # Errors
/// The file cannot be read, or is invalid ([`InvalidResources`]).
pub fn read(file: &Path) -> anyhow::Result<Vec<Document>> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.with_context(|| format!("failed to read `{}`", file.display()))?;
    sluice_policy::check::load(&text).map_err(|problems| invalid(file, problems))
}

/// Applies the resources of a file, all of them or none if they conflict with those that are applied.
///
/// # Errors
/// The resources conflict ([`InvalidResources`]), or the state cannot be read or written.
pub async fn apply(
    bus: &Bus,
    file: &Path,
    documents: &[Document],
) -> anyhow::Result<Vec<AppliedResource>> {
    let state = State::open(bus).await?;
    let problems = sluice_gateway::find_conflicts(&state, documents).await?;
    if !problems.is_empty() {
        return Err(invalid(file, problems));
    }
    let mut applied = Vec::new();
    for Document { resource, line, .. } in documents {
        let is_changed = state.apply(bus, resource, ACTOR).await;
        let is_changed = is_changed
            .with_context(|| format!("{}, line {line}: failed to apply", file.display()))?;
        applied.push(AppliedResource {
            kind: resource.kind(),
            name: resource.name().clone(),
            is_changed,
        });
    }
    Ok(applied)
}

fn invalid(file: &Path, problems: Vec<Problem>) -> anyhow::Error {
    let file = file.to_owned();
    InvalidResources { file, problems }.into()
}
