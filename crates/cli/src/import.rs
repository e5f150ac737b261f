//! `sluice import`: reads what regsync and skopeo are told to copy, and writes the documents that say the same here.
//!
//! What has no equivalent is told with its line; it is never left out in silence. Secrets are never written.

mod document;
mod filter;
mod regsync;
mod skopeo;
#[cfg(test)]
mod tests;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use sluice_domain::RegistryHost;

use self::document::Made;
use crate::exit::{FAILED, Misconfigured};
use crate::output::{note, text};

/// What the configuration of another tool says, as documents for here.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportArguments {
    /// Convert a regsync configuration.
    #[command(after_help = "Example:\n  sluice import regsync regsync.yml > mirrors.yaml")]
    Regsync {
        #[command(flatten)]
        source: Source,
        /// Only the entries that go to this registry.
        #[arg(long, value_name = "HOST")]
        target: Option<RegistryHost>,
    },
    /// Convert a YAML file of `skopeo sync --src yaml`.
    #[command(after_help = "Example:\n  sluice import skopeo --scoped sync.yml > mirrors.yaml")]
    Skopeo {
        #[command(flatten)]
        source: Source,
        /// Keeps the registry (with `-` for `.` and `:`) and the whole path in the destination, as `skopeo sync --scoped` does.
        #[arg(long)]
        scoped: bool,
    },
}

/// A file of another tool.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// File to read, or `-` for standard input.
    file: PathBuf,
    /// Fail if something has no equivalent; what has one is written all the same.
    #[arg(long)]
    strict: bool,
}

/// Writes the documents to standard output, and what is to be known of them to standard error.
pub(crate) fn import(arguments: &ImportArguments) -> anyhow::Result<ExitCode> {
    let source = match arguments {
        ImportArguments::Regsync { source, .. } | ImportArguments::Skopeo { source, .. } => source,
    };
    let file = &source.file;
    let read = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let read = read.with_context(|| format!("failed to read `{}`", file.display()));
    let read = read.map_err(Misconfigured)?;
    let name = file.display().to_string();
    let made = match arguments {
        ImportArguments::Regsync { target, .. } => regsync::convert(&name, &read, target.as_ref()),
        ImportArguments::Skopeo { scoped, .. } => skopeo::convert(&name, &read, *scoped),
    };
    let made = made.map_err(|problem| Misconfigured(anyhow::anyhow!("{name}, {problem}")))?;
    tell(&name, &made)?;
    let strict = source.strict && !made.warnings.is_empty();
    Ok(if strict {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

fn tell(name: &str, made: &Made) -> anyhow::Result<()> {
    for warning in &made.warnings {
        let (line, told) = (warning.line, &warning.text);
        note(&format!("warning: {name}, line {line}: {told}"));
    }
    for told in &made.notes {
        note(&format!("note: {told}"));
    }
    text(&made.text)
}
