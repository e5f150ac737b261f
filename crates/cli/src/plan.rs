//! `sluice plan`: what a set of mirrors would cost, before it runs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use sluice_bus::Bus;
use sluice_domain::resources::{Kind, Resource};
use sluice_domain::{Digest, Tag};
use sluice_events::subject::{text, token};
use sluice_service::Secrets;
use sluice_state::State;
use tokio::time::Instant;

use crate::cost;
use crate::exit::{HELP, Misconfigured};
use crate::output::{Format, line, show};
use crate::remote::RemoteOptions;
use crate::sync::documents::Documents;
use crate::sync::report::{Report, Totals, totals_json};
use crate::sync::run::{self, Order, SyncTarget};
use crate::sync::{Destination, PARALLEL};
use crate::transfer::{Session, Wishes};

/// Says what mirrors would cost: pulls, requests and bytes.
#[derive(Debug, Args)]
#[command(after_help = format!("Examples:
  sluice plan -f mirrors.yaml
  sluice plan -f mirrors.yaml --to registry.example -o json
  sluice plan

To know what a copy costs, each new manifest is fetched once; a registry that counts pulls counts these too,
and the last lines say how many there were.

{HELP}"))]
pub(crate) struct PlanArguments {
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
    pub(crate) remote: RemoteOptions,
}

impl PlanArguments {
    /// Says whether the mirrors that are applied are meant.
    pub(crate) fn needs_bus(&self) -> bool {
        self.file.is_empty()
    }
}

/// Plans mirrors of files.
pub(crate) async fn of_files(
    arguments: &PlanArguments,
    secrets: Secrets,
) -> anyhow::Result<ExitCode> {
    let documents = Documents::read(&arguments.file)?;
    let place = match arguments.to.clone() {
        Some(destination) => destination.into(),
        None => SyncTarget::Known(HashMap::new()),
    };
    plan(arguments, documents, place, secrets).await
}

/// Plans the mirrors that are applied, against what they have seen.
pub(crate) async fn of_applied(
    arguments: &PlanArguments,
    bus: &Bus,
    secrets: Secrets,
) -> anyhow::Result<ExitCode> {
    let state = State::open(bus).await?;
    let mut documents = Documents::default();
    for kind in [Kind::Registry, Kind::Mirror] {
        let filter = format!("{}.*", token(kind.as_str()));
        for entry in state.resources.list(&filter).await? {
            let resource = Resource::from_json(kind, &entry.value.json)
                .context("a stored resource is damaged")?;
            match resource {
                Resource::Registry(registry) => documents.registries.push(registry),
                Resource::Mirror(mirror) if mirror.enabled => documents.mirrors.push(mirror),
                _ => {}
            }
        }
    }
    if documents.mirrors.is_empty() {
        let told = anyhow::anyhow!("no Mirror is applied; name a file with `-f`");
        return Err(Misconfigured(told).into());
    }
    let mut known = HashMap::new();
    for mirror in &documents.mirrors {
        let filter = format!("{}.*", token(mirror.name.as_str()));
        let seen = state.upstream.collect(&filter, |entry| {
            let tag: Tag = entry.key.rsplit('.').next().and_then(text)?.parse().ok()?;
            let digest: Digest = entry.value.digest.parse().ok()?;
            (!entry.value.gone).then_some((tag, digest))
        });
        let seen: HashMap<Tag, Digest> = seen.await?.into_values().collect();
        known.insert(mirror.name.clone(), Arc::new(seen));
    }
    plan(arguments, documents, SyncTarget::Known(known), secrets).await
}

async fn plan(
    arguments: &PlanArguments,
    documents: Documents,
    place: SyncTarget,
    secrets: Secrets,
) -> anyhow::Result<ExitCode> {
    let order = Order {
        place,
        delete: false,
        parallel: usize::from(PARALLEL),
    };
    // A plan is what it shows at its end; lines for each tag would only stand in its way.
    let wishes = Wishes {
        dry_run: true,
        quiet: true,
        referrers: false,
    };
    let session = Session::new(&arguments.remote, documents.registries, secrets, wishes);
    let results = run::results(documents.mirrors, &order.place);
    let begun = Instant::now();
    let interrupted = tokio::select! {
        // First, so that it is listened for before anything begins.
        biased;
        interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| true)?,
        () = run::run(&session, &order, &results) => false,
    };
    session.board.clear();
    let report = Report::new(&session, &results, begun.elapsed(), interrupted);
    tell(arguments.output, &report)
}

fn tell(format: Format, report: &Report) -> anyhow::Result<ExitCode> {
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
            cost::bytes(totals.cost.bytes),
        ]);
        objects.push(json!({
            "name": result.mirror.name, "from": result.mirror.from, "to": result.to, "error": result.failure,
            "tags": selected, "unchanged": totals.unchanged, "new": totals.planned, "failed": totals.failed,
            "cost": cost::cost_json(&totals.cost),
        }));
    }
    let totals = Totals::of(&report.mirrors);
    let mut object = json!({
        "mirrors": objects, "totals": totals_json(&totals), "registries": cost::registries(&report.asked),
    });
    let forecast = cost::forecast(&report.asked, &report.pulls(), &mut object);
    if format == Format::Table {
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
        show(format, &header, rows, &Value::Null)?;
        line("")?;
        for text in report.summary(&totals).into_iter().chain(forecast) {
            line(&text)?;
        }
    } else {
        show(format, &[], Vec::new(), &object)?;
    }
    report.code(&totals)
}
