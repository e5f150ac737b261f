//! The `sluice` command: what a person does with an installation.

mod backup;
mod commands;
mod copy;
mod cost;
mod endpoints;
mod exit;
mod explain;
mod import;
mod nats_config;
mod output;
mod pause;
mod plan;
mod reconcile;
mod registry;
mod remote;
mod resources;
mod restore;
mod status;
mod sync;
mod transfer;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use sluice_bus::topology::Stage;
use sluice_bus::{Bus, ProvisionOptions};
use sluice_domain::resources::Kind;
use sluice_domain::{Repository, ResourceName};
use sluice_registry::ImageReference;

use crate::endpoints::{Endpoints, NatsEndpoint};
use crate::output::Format;

/// The exit code for arguments that clap cannot judge, as clap has it for the others.
const MISUSED: u8 = 2;
/// The data folder of `up`, unless another is named.
const DATA: &str = "sluice-data";
/// Where NATS is, unless something says otherwise.
const NATS: &str = "nats://127.0.0.1:4222";

#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about = "The gate between public container registries and your developers"
)]
#[command(after_help = "Example:\n  sluice up -f mirrors.yaml\n  sluice events --follow")]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Connection {
    /// The data folder of `sluice up`, by which a running one is found [default: sluice-data].
    #[arg(long, global = true, env = "SLUICE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The NATS server, instead of the one of `sluice up`.
    #[arg(
        long,
        visible_alias = "nats-url",
        global = true,
        env = "SLUICE_NATS_URL",
        value_name = "URL"
    )]
    nats: Option<String>,
    /// The user there.
    #[arg(long, global = true, env = "SLUICE_NATS_USER", default_value = "")]
    nats_user: String,
    /// The file that holds its password.
    #[arg(
        long,
        global = true,
        env = "SLUICE_NATS_PASSWORD_FILE",
        value_name = "FILE"
    )]
    nats_password_file: Option<PathBuf>,
    /// A PEM file with the authorities to trust there; then nothing is sent in plain text.
    #[arg(long, global = true, env = "SLUICE_NATS_CA_FILE", value_name = "FILE")]
    nats_ca_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs everything on this machine: nats-server, a registry and all services.
    Up(Box<up::Arguments>),
    /// Creates the streams, consumers and buckets, or brings them up to date.
    Provision {
        /// On how many servers each stream is kept.
        #[arg(long, default_value_t = 1)]
        replicas: usize,
        /// For how many seconds the same event is dropped.
        #[arg(long, default_value_t = 7_200)]
        duplicate_window_seconds: u64,
        /// After how many seconds without a sign of life work is given to another worker [default: 30].
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
        ack_wait_seconds: Option<u64>,
    },
    /// Makes the keys, passwords and secrets of an installation; what is in the folder already is left as it is.
    Keys {
        /// The folder, which is made for its owner only.
        folder: PathBuf,
    },
    /// Writes the configuration of a nats-server that lets each service do what it must and no more.
    NatsConfig(nats_config::Arguments),
    /// Applies resources from a file; nothing of a file with a problem is applied.
    Apply {
        /// The YAML file.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Only checks the file.
        #[arg(long)]
        dry_run: bool,
    },
    /// Removes a resource.
    Delete {
        /// Its kind, as in `mirror`.
        kind: Kind,
        /// Its name.
        name: ResourceName,
    },
    /// Shows resources.
    Get {
        /// Their kind, as in `mirrors`.
        kind: Kind,
        /// The name of one.
        name: Option<ResourceName>,
        /// How they are shown.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Shows how far behind each stage is, the mirrors, and what failed.
    Status {
        /// How it is shown.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Shows events, decoded, one JSON object a line.
    Events {
        /// Waits for new events instead of showing those of the log.
        #[arg(short, long)]
        follow: bool,
        /// With `--follow`, shows the events of the log first.
        #[arg(long, requires = "follow")]
        from_start: bool,
        /// Only subjects that match, as in `sluice.v1.tag.mirrored.>`.
        #[arg(long, default_value = sluice_events::subject::FACTS)]
        subject: String,
    },
    /// Shows the history of an image: discovered, mirrored, scanned, promoted, or why not.
    Explain {
        /// The image, as in `hub/alpine:3.20`, or in a remote target as in `registry.example/team/alpine:3.20`.
        image: explain::Asked,
        /// How it is shown.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Polls a mirror now.
    Poll {
        /// The mirror.
        mirror: ResourceName,
    },
    /// Runs retention now: the tag limit, or a pruning policy.
    Prune {
        /// Only this repository.
        repository: Option<Repository>,
        /// The pruning policy to run instead of the tag limit.
        #[arg(long)]
        policy: Option<ResourceName>,
    },
    /// Scans an image now.
    Scan {
        /// The image, as in `hub/alpine:3.20`.
        image: ImageReference,
    },
    /// Saves all state and the log to a new folder; the stack goes on, and stages rest for a moment.
    Backup {
        /// The folder, which must not exist yet.
        folder: PathBuf,
        /// How it is told.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Makes the streams of a backup; the services must be stopped.
    Restore {
        /// The folder of the backup.
        folder: PathBuf,
        /// Removes the streams that the server has, with all that they hold.
        #[arg(long)]
        replace: bool,
        /// How it is told.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Pauses promotion and deletion; mirroring, scanning and judging go on.
    Pause {
        /// Why, for whoever looks at the status.
        reason: String,
    },
    /// Ends a pause.
    Resume {
        /// Also ends the pause after a restore, although the promoter has not compared the targets yet.
        #[arg(long)]
        unreconciled: bool,
    },
    /// Lets stages search for missing work from what is stored alone, and says what they found and asked for.
    Reconcile {
        /// The stages, as in `promoter`; all of them where none is named.
        #[arg(value_parser = reconcile::stage)]
        stages: Vec<&'static Stage>,
        /// Lets the mirror worker look at what the registry holds too, and bring again what is missing there.
        #[arg(long, conflicts_with = "stages")]
        audit: bool,
        /// For how many seconds it is waited until they have searched.
        #[arg(long, default_value_t = 60)]
        timeout_seconds: u64,
        /// How it is shown.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Tries remote registries.
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    /// Lists what could not be done, or tries it again.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Copies an image from one registry to another; needs nothing that runs.
    Copy(Box<copy::CopyArguments>),
    /// Carries out mirrors once, from registry to registry; needs nothing that runs.
    Sync(Box<sync::SyncArguments>),
    /// Says what mirrors would cost before they run: pulls, requests and bytes.
    Plan(Box<plan::PlanArguments>),
    /// Writes the documents that say what the configuration of regsync or skopeo says.
    #[command(subcommand)]
    Import(import::ImportArguments),
}

#[derive(Debug, Subcommand)]
enum DeadLetters {
    /// Lists them with their reasons.
    List {
        /// How they are shown.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Gives one, or all, to the stage that failed again.
    Retry {
        /// The number of one.
        #[arg(required_unless_present = "all")]
        number: Option<u64>,
        /// All of them.
        #[arg(long, conflicts_with = "number")]
        all: bool,
    },
}

/// Runs the command; 0 on success, 1 on failure, 2 for arguments that are not understood.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    sluice_service::install_crypto();
    let done = match &arguments.command {
        Command::Up(up) => {
            let nats = arguments.connection.elsewhere();
            up::up(up, arguments.connection.folder(), nats)
        }
        _ => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime")
            .and_then(|runtime| runtime.block_on(alone_or_connected(arguments))),
    };
    match done {
        Ok(code) => code,
        Err(error) if output::is_enough(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            exit::code_of(&error)
        }
    }
}

/// Says what is wrong with arguments that belong together.
fn misused(reason: &str) -> ExitCode {
    output::complain(&anyhow::anyhow!("{reason}"));
    ExitCode::from(MISUSED)
}

/// Runs what needs no installation, or else what does.
async fn alone_or_connected(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let done = match &arguments.command {
        Command::Copy(copy) => return copy::copy(copy).await,
        Command::Sync(sync) => return sync::sync(sync).await,
        Command::Plan(plan) if plan.needs_bus() => {
            let bus = arguments.connection.open().await?;
            return plan::of_applied(plan, &bus).await;
        }
        Command::Plan(plan) => return plan::of_files(plan).await,
        Command::Import(import) => return import::import(import),
        Command::Keys { folder } => commands::keys(folder.clone()),
        Command::NatsConfig(config) => nats_config::show(config),
        Command::Registry(registry::RegistryCommand::Check(
            check @ registry::Check {
                file: Some(file), ..
            },
        )) => registry::check_file(check, file).await,
        _ => run(arguments).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

impl Connection {
    fn folder(&self) -> &Path {
        self.data.as_deref().unwrap_or(Path::new(DATA))
    }

    /// Returns the server that was named, if one was.
    fn elsewhere(&self) -> Option<NatsEndpoint> {
        self.nats.clone().map(|url| self.at(url))
    }

    fn at(&self, url: String) -> NatsEndpoint {
        NatsEndpoint {
            url,
            user: self.nats_user.clone(),
            password_file: self.nats_password_file.clone(),
            ca_file: self.nats_ca_file.clone(),
            passwords: None,
        }
    }

    /// Returns the server that was named, or the one that a running `sluice up` has written down.
    fn endpoint(&self) -> anyhow::Result<NatsEndpoint> {
        if let Some(nats) = self.elsewhere() {
            return Ok(nats);
        }
        match Endpoints::read(self.folder())? {
            Some(endpoints) => Ok(endpoints.nats),
            None if self.data.is_some() => anyhow::bail!(
                "`{0}` does not say where NATS is; `sluice up --data {0}` has to be running",
                self.folder().display()
            ),
            None => Ok(self.at(NATS.to_owned())),
        }
    }

    async fn open(&self) -> anyhow::Result<Bus> {
        let endpoint = self.endpoint()?;
        Bus::connect(&endpoint.settings(), "cli").await
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    // A file is checked before anything is connected to.
    if let Command::Apply { file, dry_run } = &arguments.command {
        let documents = resources::read(file)?;
        if *dry_run {
            return resources::checked(file, documents.len());
        }
        let bus = arguments.connection.open().await?;
        return resources::apply(&bus, file, &documents).await;
    }
    let bus = arguments.connection.open().await?;
    match arguments.command {
        // These were carried out before there was a connection.
        Command::Up(_)
        | Command::Apply { .. }
        | Command::Keys { .. }
        | Command::NatsConfig(_)
        | Command::Copy(_)
        | Command::Sync(_)
        | Command::Plan(_)
        | Command::Import(_) => Ok(()),
        Command::Provision {
            replicas,
            duplicate_window_seconds,
            ack_wait_seconds,
        } => {
            let options = ProvisionOptions {
                replicas,
                duplicate_window: Duration::from_secs(duplicate_window_seconds),
                ack_wait: ack_wait_seconds.map(Duration::from_secs),
            };
            commands::provision(&bus, options).await
        }
        Command::Delete { kind, name } => resources::delete(&bus, kind, &name).await,
        Command::Get { kind, name, output } => {
            resources::get(&bus, kind, name.as_ref(), output).await
        }
        Command::Status { output } => status::status(&bus, output).await,
        Command::Events {
            follow: true,
            from_start,
            subject,
        } => commands::follow(&bus, &subject, from_start).await,
        Command::Events { subject, .. } => commands::events(&bus, &subject).await,
        Command::Explain { image, output } => explain::explain(&bus, &image, output).await,
        Command::Poll { mirror } => commands::poll(&bus, mirror).await,
        Command::Prune { repository, policy } => commands::prune(&bus, repository, policy).await,
        Command::Registry(registry::RegistryCommand::Check(check)) => {
            registry::check(&bus, &check).await
        }
        Command::Scan { image } => commands::scan(&bus, image).await,
        Command::Backup { folder, output } => backup::backup(&bus, &folder, output).await,
        Command::Restore {
            folder,
            replace,
            output,
        } => restore::restore(&bus, &folder, replace, output).await,
        Command::Pause { reason } => pause::pause(&bus, &reason).await,
        Command::Resume { unreconciled } => pause::resume(&bus, unreconciled).await,
        Command::Reconcile {
            stages,
            audit,
            timeout_seconds,
            output,
        } => {
            let limit = Duration::from_secs(timeout_seconds);
            reconcile::reconcile(&bus, stages, audit, limit, output).await
        }
        Command::DeadLetters(DeadLetters::List { output }) => {
            commands::dead_letters(&bus, output).await
        }
        Command::DeadLetters(DeadLetters::Retry { number, .. }) => {
            commands::retry(&bus, number).await
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        super::Arguments::command().debug_assert();
    }
}
