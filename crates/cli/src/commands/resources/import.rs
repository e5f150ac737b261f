//! `sluice import`: converts a regsync or skopeo configuration to resources on standard output.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use sluice_copier::ConfigurationError;
use sluice_domain::RegistryHost;
use sluice_importer::{Conversion, convert_regsync, convert_skopeo};

use crate::arguments::connection::Connection;
use crate::exit::FAILED;
use crate::output::{note, text};

/// Convert a regsync or skopeo configuration to resources.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

impl Arguments {
    /// Writes the resources to standard output, and warnings and notes to standard error.
    pub(crate) fn run(self, _: &Connection) -> anyhow::Result<ExitCode> {
        let source = match &self.tool {
            Tool::Regsync { source, .. } | Tool::Skopeo { source, .. } => source,
        };
        let name = source.file.display().to_string();
        let input = if source.file == Path::new("-") {
            std::io::read_to_string(std::io::stdin())
        } else {
            std::fs::read_to_string(&source.file)
        };
        let input = input
            .with_context(|| format!("failed to read `{name}`"))
            .map_err(ConfigurationError)?;
        let conversion = match &self.tool {
            Tool::Regsync { target, .. } => convert_regsync(&name, &input, target.as_ref()),
            Tool::Skopeo { scoped, .. } => convert_skopeo(&name, &input, *scoped),
        };
        let conversion =
            conversion.map_err(|error| ConfigurationError(anyhow::anyhow!("{name}, {error}")))?;
        show(&name, &conversion)?;
        Ok(if source.strict && !conversion.warnings.is_empty() {
            ExitCode::from(FAILED)
        } else {
            ExitCode::SUCCESS
        })
    }
}

/// The tools whose configuration can be converted.
#[derive(Debug, Subcommand)]
enum Tool {
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
        /// Keep the registry (with `-` for `.` and `:`) and the whole path in the destination, as `skopeo sync --scoped` does.
        #[arg(long)]
        scoped: bool,
    },
}

/// A configuration file of another tool.
#[derive(Debug, Args)]
struct Source {
    /// File to read, or `-` for standard input.
    file: PathBuf,
    /// Fail if anything has no equivalent; everything else is still written.
    #[arg(long)]
    strict: bool,
}

fn show(name: &str, conversion: &Conversion) -> anyhow::Result<()> {
    for warning in &conversion.warnings {
        note(&format!(
            "warning: {name}, line {}: {}",
            warning.line, warning.text
        ));
    }
    for instruction in &conversion.notes {
        note(&format!("note: {instruction}"));
    }
    text(&conversion.text)
}
