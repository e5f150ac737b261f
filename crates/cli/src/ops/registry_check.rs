//! `sluice registry check`: connects to a remote registry as its resource describes it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::json;
use sluice_bus::Bus;
use sluice_domain::resources::{Kind, Registry, Resource};
use sluice_domain::{RemoteRepository, ResourceName};
use sluice_registry::{Access, AccessReport, Authentication, Client, Endpoint, Permission};
use sluice_service::Secrets;
use sluice_state::{State, key};

use crate::output::{Format, show};

/// The commands for remote registries.
#[derive(Debug, Subcommand)]
pub(crate) enum RegistryCommand {
    /// Check that a registry answers, accepts the account, and lets it read and write a repository.
    ///
    /// The check runs on this machine, so the secrets that the resource names have to be in the folder of `--secrets`.
    #[command(
        after_help = "Example:\n  sluice registry check docker-hub --repository library/alpine"
    )]
    Check(Check),
}

/// The arguments of `registry check`.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// Name of the `Registry` resource.
    name: ResourceName,
    /// Take the resource from a file, applied or not.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
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

/// Checks a registry of a file.
pub(crate) async fn check_file(
    check: &Check,
    file: &Path,
    secrets: &Secrets,
) -> anyhow::Result<()> {
    let documents = sluice_embedded::read_resources(file)?;
    let registry = documents
        .into_iter()
        .find_map(|document| match document.resource {
            Resource::Registry(registry) if registry.name == check.name => Some(registry),
            _ => None,
        });
    let registry = registry.with_context(|| {
        format!(
            "registry `{1}` not found in `{0}`",
            file.display(),
            check.name
        )
    })?;
    run(check, &registry, secrets).await
}

/// Checks a registry that is applied.
pub(crate) async fn check(bus: &Bus, check: &Check, secrets: &Secrets) -> anyhow::Result<()> {
    let key = key::resource(Kind::Registry.as_str(), &check.name);
    let stored = State::open(bus).await?.resources.get(&key).await?;
    let stored = stored.with_context(|| {
        format!(
            "registry `{}` not found; `sluice get registries` lists those that exist",
            check.name
        )
    })?;
    match Resource::from_json(Kind::Registry, &stored.value.json) {
        Ok(Resource::Registry(registry)) => run(check, &registry, secrets).await,
        _ => anyhow::bail!("the stored registry `{}` is corrupt", check.name),
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
        "registry": registry.name,
        "host": registry.host,
        "authentication": scheme,
        "repository": repository,
        "reads": reads,
        "writes": writes,
    });
    let row = vec![
        registry.name.to_string(),
        registry.host.to_string(),
        scheme,
        reads.unwrap_or("-").to_owned(),
        writes.unwrap_or("-").to_owned(),
    ];
    show(
        check.output,
        &["NAME", "HOST", "ASKS FOR", "READ", "WRITE"],
        vec![row],
        &object,
    )?;
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
