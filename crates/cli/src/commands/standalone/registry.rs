//! `sluice registry check`: connects to a remote registry as its resource describes it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use sluice_domain::resources::{Kind, Registry, Resource};
use sluice_domain::{RemoteRepository, ResourceName};
use sluice_registry::{Access, AccessReport, Authentication, Client, Endpoint, Permission};
use sluice_service::Secrets;
use sluice_state::{State, key};

use crate::arguments::connection::Connection;
use crate::output::{Format, show};

/// Check remote registries.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// The commands for remote registries.
#[derive(Debug, Subcommand)]
enum Command {
    /// Check that a registry answers, accepts the account, and lets it read and write a repository.
    ///
    /// The check runs on this machine, so the secrets that the resource names have to be in the folder of `--secrets`.
    #[command(
        after_help = "Example:\n  sluice registry check docker-hub --repository library/alpine"
    )]
    Check(Check),
}

/// The arguments of `registry check`.
#[derive(Debug, Args)]
struct Check {
    /// Name of the `Registry` resource.
    name: ResourceName,
    /// Take the resource from a file, applied or not.
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Repository to read, as in `library/alpine`.
    #[arg(long)]
    repository: Option<String>,
    /// Also start an upload into the repository, and cancel it.
    #[arg(long, requires = "repository")]
    write: bool,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

impl Arguments {
    /// Checks a registry of a file, or one that is applied.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let Command::Check(check) = self.command;
        let registry = match &check.file {
            Some(file) => described(&check.name, file)?,
            None => applied(&check.name, connection).await?,
        };
        run(&check, &registry, &connection.secrets()).await
    }
}

/// Returns the registry of a file.
fn described(name: &ResourceName, file: &Path) -> anyhow::Result<Registry> {
    let documents = sluice_embedded::read_resources(file)?.into_iter();
    let mut registries = documents.filter_map(|document| match document.resource {
        Resource::Registry(registry) if registry.name == *name => Some(registry),
        _ => None,
    });
    let found = registries.next();
    found.with_context(|| format!("registry `{name}` not found in `{}`", file.display()))
}

/// Returns the registry that is applied.
async fn applied(name: &ResourceName, connection: &Connection) -> anyhow::Result<Registry> {
    let state = State::open(&connection.open().await?).await?;
    let key = key::resource(Kind::Registry.as_str(), name);
    let stored = state.resources.get(&key).await?.with_context(|| {
        format!("registry `{name}` not found; `sluice get registries` lists those that exist")
    })?;
    match Resource::from_json(Kind::Registry, &stored.value.json) {
        Ok(Resource::Registry(registry)) => Ok(registry),
        _ => anyhow::bail!("the stored registry `{name}` is corrupt"),
    }
}

async fn run(check: &Check, registry: &Registry, secrets: &Secrets) -> anyhow::Result<()> {
    // Short names of Docker Hub are completed as in a mirror.
    let named = |text: &String| format!("{}/{text}", registry.host).parse::<RemoteRepository>();
    let remote = check.repository.as_ref().map(named).transpose()?;
    let repository = remote.map(|remote| remote.repository);
    let client = Client::new(Endpoint::described(registry, secrets)?)?;
    let access = if check.write {
        Access::PullAndPush
    } else {
        Access::Pull
    };
    let wanted = repository.as_ref().map(|repository| (repository, access));
    let report = client.check_access(wanted).await?;
    let scheme = authentication(&report.authentication);
    let (reads, writes) = (permission(report.pull), permission(report.push));
    let object = json!({
        "registry": registry.name, "host": registry.host, "authentication": scheme,
        "repository": repository, "reads": reads, "writes": writes,
    });
    let row = vec![
        registry.name.to_string(),
        registry.host.to_string(),
        scheme,
        reads.unwrap_or("-").to_owned(),
        writes.unwrap_or("-").to_owned(),
    ];
    let header = ["NAME", "HOST", "ASKS FOR", "READ", "WRITE"];
    show(check.output, &header, vec![row], &object)?;
    denied(&report).map_or(Ok(()), |what| {
        anyhow::bail!("the account is not allowed to {what} the repository")
    })
}

fn authentication(scheme: &Authentication) -> String {
    match scheme {
        Authentication::None => "nothing".to_owned(),
        Authentication::Basic => "a password".to_owned(),
        Authentication::Token { issuer } => format!("a token of {issuer}"),
    }
}

fn permission(permission: Option<Permission>) -> Option<&'static str> {
    permission.map(|permission| match permission {
        Permission::Granted => "yes",
        Permission::NoRepository => "no such repository",
        Permission::Denied => "no",
    })
}

fn denied(report: &AccessReport) -> Option<&'static str> {
    let is_no = |right| right == Some(Permission::Denied);
    if is_no(report.pull) {
        return Some("read");
    }
    is_no(report.push).then_some("write")
}
