//! `sluice plan`: what mirrors would cost: pulls, requests and bytes.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use sluice_bus::Bus;
use sluice_copier::{
    ConfigurationError, Destination, Session, SessionOptions, SyncOptions, SyncTarget, Totals,
};
use sluice_domain::resources::{Kind, Resource};
use sluice_domain::{Digest, Tag};
use sluice_events::subject;
use sluice_state::State;

use crate::arguments::connection::Connection;
use crate::arguments::registry_options::RegistryArguments;
use crate::copies::documents::Documents;
use crate::copies::progress_bars::ProgressBars;
use crate::copies::sync_report::{Report, totals_json};
use crate::copies::{PARALLEL, render};
use crate::exit::HELP;
use crate::output::Format;

/// Estimate what mirrors will cost: pulls, requests and bytes.
#[derive(Debug, Args)]
#[command(after_help = format!("Examples:
  sluice plan -f mirrors.yaml
  sluice plan -f mirrors.yaml --to registry.example -o json
  sluice plan

To estimate a copy, each new manifest is fetched once; a registry that counts pulls counts these too,
and the last lines show their number.

{HELP}"))]
pub(crate) struct Arguments {
    /// YAML file with mirrors, or `-` for standard input [default: the mirrors that are applied].
    #[arg(short, long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Registry that may have part of it already [default: everything counts as new].
    #[arg(long, value_name = "HOST[/PREFIX]", requires = "file")]
    to: Option<Destination>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: RegistryArguments,
}

impl Arguments {
    /// Plans the mirrors of files, or those that are applied.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<ExitCode> {
        let (documents, target) = if self.file.is_empty() {
            applied(&connection.open().await?).await?
        } else {
            let target = self.to.map_or_else(
                || SyncTarget::Recorded(HashMap::new()),
                SyncTarget::Registry,
            );
            (Documents::read(&self.file)?, target)
        };
        let options = SyncOptions {
            target,
            delete: false,
            parallel: usize::from(PARALLEL),
        };
        // The result is a table; lines for single images would be noise.
        let progress = ProgressBars::new(true);
        let session = Session::new(
            self.remote.options(connection),
            documents.registries,
            connection.secrets(),
            SessionOptions {
                dry_run: true,
                attachments: false,
            },
            progress.clone(),
        );
        let report = Report::of_sync(&session, &options, documents.mirrors).await?;
        progress.clear();
        show_plan(self.output, &report)
    }
}

/// Returns the mirrors that are applied, and the digests that they have seen.
async fn applied(bus: &Bus) -> anyhow::Result<(Documents, SyncTarget)> {
    let state = State::open(bus).await?;
    let mut documents = Documents::default();
    for kind in [Kind::Registry, Kind::Mirror] {
        let filter = format!("{}.*", subject::encode(kind.as_str()));
        for entry in state.resources.list(&filter).await? {
            let resource = Resource::from_json(kind, &entry.value.json)
                .context("a stored resource is corrupt")?;
            match resource {
                Resource::Registry(registry) => documents.registries.push(registry),
                Resource::Mirror(mirror) if mirror.enabled => documents.mirrors.push(mirror),
                _ => {}
            }
        }
    }
    if documents.mirrors.is_empty() {
        let error = anyhow::anyhow!("no mirror is applied; name a file with `-f`");
        return Err(ConfigurationError(error).into());
    }
    let mut mirrors = HashMap::new();
    for mirror in &documents.mirrors {
        let filter = format!("{}.*", subject::encode(mirror.name.as_str()));
        let digests = state.upstream.collect(&filter, |entry| {
            let tag = entry.key.rsplit('.').next().and_then(subject::decode)?;
            let tag: Tag = tag.parse().ok()?;
            let digest: Digest = entry.value.digest.parse().ok()?;
            (!entry.value.deleted).then_some((tag, digest))
        });
        let digests: HashMap<Tag, Digest> = digests.await?.into_values().collect();
        mirrors.insert(mirror.name.clone(), Arc::new(digests));
    }
    Ok((documents, SyncTarget::Recorded(mirrors)))
}

fn show_plan(format: Format, report: &Report) -> anyhow::Result<ExitCode> {
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for result in &report.mirrors {
        let totals = Totals::of([result]);
        let selected = totals.unchanged + totals.planned + totals.failed;
        rows.push(vec![
            result.mirror.name.to_string(),
            selected.to_string(),
            totals.unchanged.to_string(),
            totals.planned.to_string(),
            totals.failed.to_string(),
            totals.cost.pulls.to_string(),
            totals.cost.requests.to_string(),
            render::bytes(totals.cost.bytes),
        ]);
        objects.push(json!({
            "name": result.mirror.name, "from": result.mirror.from, "to": result.to, "error": result.failure,
            "tags": selected, "unchanged": totals.unchanged, "new": totals.planned, "failed": totals.failed,
            "cost": render::cost_json(&totals.cost),
        }));
    }
    let totals = Totals::of(&report.mirrors);
    let object = json!({
        "mirrors": objects, "totals": totals_json(&totals), "registries": render::registries(&report.usage),
    });
    let header = [
        "MIRROR",
        "TAGS",
        "UNCHANGED",
        "NEW",
        "FAILED",
        "PULLS",
        "REQUESTS",
        "SIZE",
    ];
    report.print(format, &header, rows, object)
}
