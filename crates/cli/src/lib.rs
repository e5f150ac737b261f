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
mod tags;
mod transfer;
mod up;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use sluice_bus::topology::Stage;
use sluice_bus::{Bus, ProvisionOptions, StreamLimits};
use sluice_domain::resources::Kind;
use sluice_domain::{Repository, ResourceName};
use sluice_registry::ImageReference;
use sluice_service::Secrets;

use crate::endpoints::{Endpoints, NatsEndpoint};
use crate::output::Format;

/// The exit code for arguments that clap cannot judge, as clap has it for the others.
const MISUSED: u8 = 2;
/// The data folder of `up`, unless another is named.
const DATA: &str = "sluice-data";
/// The folder of secrets in the data folder.
const SECRETS: &str = "secrets";
/// Where NATS is, unless something says otherwise.
/// How long a server may take to start into which a backup is restored.
const START: Duration = Duration::from_secs(5);
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
    /// The folder of the secrets that resources name [default: `secrets` in the data folder].
    #[arg(long, global = true, env = "SLUICE_SECRETS", value_name = "DIR")]
    secrets: Option<PathBuf>,
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
    /// Lets passwords, tokens and events go in plain text beyond this machine: to NATS, and to what `up` listens on.
    #[arg(long, global = true, env = "SLUICE_ALLOW_PLAIN_TEXT")]
    allow_plain_text: bool,
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
        #[command(flatten)]
        limits: Limits,
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
    /// Shows which tags of a repository a selection takes, and why it leaves out the others.
    Tags(Box<tags::TagsArguments>),
    /// Writes the documents that say what the configuration of regsync or skopeo says.
    #[command(subcommand)]
    Import(import::ImportArguments),
}

/// How large streams may become.
#[derive(Debug, Args)]
struct Limits {
    /// The most that a stream, bucket or object store may hold, as in `EVENTS=8GiB` or `KV_tags=2GiB`; can be given
    /// several times. What is not named stays as it is.
    #[arg(
        long = "max-bytes",
        env = "SLUICE_MAX_BYTES",
        value_name = "STREAM=SIZE",
        value_delimiter = ','
    )]
    max_bytes: Vec<String>,
}

impl Limits {
    fn read(&self) -> anyhow::Result<StreamLimits> {
        let mut limits = StreamLimits::default();
        for limit in &self.max_bytes {
            limits.set(limit).context("--max-bytes")?;
        }
        Ok(limits)
    }
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
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error),
    };
    sluice_service::install_crypto();
    let done = match &arguments.command {
        Command::Up(up) => {
            let connection = &arguments.connection;
            let nats = connection.elsewhere();
            let secrets = connection.secrets.as_deref();
            let plain_text = connection.allow_plain_text;
            up::up(up, connection.folder(), secrets, nats, plain_text)
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
            output::print_error(&error);
            exit::code_of(&error)
        }
    }
}

/// Says what is wrong with arguments that belong together.
fn misused(reason: &str) -> ExitCode {
    output::print_error(&anyhow::anyhow!("{reason}"));
    ExitCode::from(MISUSED)
}

/// Runs what needs no installation, or else what does.
async fn alone_or_connected(mut arguments: Arguments) -> anyhow::Result<ExitCode> {
    let secrets = arguments.connection.secrets();
    let remote = match &mut arguments.command {
        Command::Copy(copy) => Some(&mut copy.remote),
        Command::Sync(sync) => Some(&mut sync.remote),
        Command::Plan(plan) => Some(&mut plan.remote),
        _ => None,
    };
    if let Some(remote) = remote {
        // The tokens of Sluice's own registry are issued at another port than the registry's.
        let own = Endpoints::read(arguments.connection.folder())
            .ok()
            .flatten();
        remote.own = own.and_then(|own| own.registry_and_issuer());
    }
    let done = match &arguments.command {
        Command::Copy(copy) => return copy::copy(copy).await,
        Command::Sync(sync) => return sync::sync(sync, secrets).await,
        Command::Plan(plan) if plan.needs_bus() => {
            let bus = arguments.connection.open().await?;
            return plan::of_applied(plan, &bus, secrets).await;
        }
        Command::Plan(plan) => return plan::of_files(plan, secrets).await,
        Command::Import(import) => return import::import(import),
        Command::Tags(arguments) => tags::tags(arguments, secrets).await,
        Command::Keys { folder } => commands::keys(folder.clone()),
        Command::NatsConfig(config) => nats_config::show(config),
        Command::Registry(registry::RegistryCommand::Check(
            check @ registry::Check {
                file: Some(file), ..
            },
        )) => registry::check_file(check, file, &secrets).await,
        _ => run(arguments).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

impl Connection {
    fn folder(&self) -> &Path {
        self.data.as_deref().unwrap_or(Path::new(DATA))
    }

    /// Returns the folder of secrets that was named, or the one in the data folder.
    fn secrets(&self) -> Secrets {
        let folder = self.secrets.clone();
        Secrets::at(folder.unwrap_or_else(|| self.folder().join(SECRETS)))
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
            allow_plain_text: self.allow_plain_text,
            passwords: None,
        }
    }

    /// Returns the server that was named, or the one that a running `sluice up` has written down.
    fn endpoint(&self) -> anyhow::Result<NatsEndpoint> {
        if let Some(nats) = self.elsewhere() {
            return Ok(nats);
        }
        match Endpoints::read(self.folder())? {
            // Whoever started it has allowed it, and the address is that of this machine.
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

    /// As [`Connection::open`]; the server that a backup is restored into may have been started only just now.
    async fn open_for(&self, command: &Command) -> anyhow::Result<Bus> {
        let until = tokio::time::Instant::now() + START;
        let may_start = matches!(command, Command::Restore { .. });
        loop {
            match self.open().await {
                Err(_) if may_start && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                opened => return opened,
            }
        }
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
    let bus = arguments.connection.open_for(&arguments.command).await?;
    match arguments.command {
        // These were carried out before there was a connection.
        Command::Up(_)
        | Command::Apply { .. }
        | Command::Keys { .. }
        | Command::NatsConfig(_)
        | Command::Copy(_)
        | Command::Sync(_)
        | Command::Plan(_)
        | Command::Import(_)
        | Command::Tags(_) => Ok(()),
        Command::Provision {
            replicas,
            duplicate_window_seconds,
            ack_wait_seconds,
            limits,
        } => {
            let options = ProvisionOptions {
                limits: limits.read()?,
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
            registry::check(&bus, &check, &arguments.connection.secrets()).await
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
    use std::fs;

    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_in_a_sentence_of_the_documentation_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let docs = fs::read_dir(root.join("docs")).unwrap();
        let mut pages: Vec<_> = docs.map(|page| page.unwrap().path()).collect();
        pages.push(root.join("README.md"));
        let mut count = 0;
        for page in pages
            .iter()
            .filter(|page| page.extension() == Some("md".as_ref()))
        {
            let text = fs::read_to_string(page).unwrap();
            for (_, rest) in text
                .match_indices("`sluice ")
                .map(|(at, _)| text.split_at(at + 1))
            {
                let (command, _) = rest.split_once('`').unwrap();
                let mut words = Vec::new();
                for (place, part) in command.split(['"', '\'']).enumerate() {
                    match place % 2 {
                        0 => words.extend(part.split_whitespace()),
                        _ => words.push(part),
                    }
                }
                // What is in brackets may be left out.
                words.retain(|word| !word.starts_with('['));
                let is_placeholder = |c: char| c == '<' || c.is_ascii_uppercase();
                let Err(error) = Arguments::try_parse_from(words) else {
                    count += 1;
                    continue;
                };
                // A sentence may name a command without its arguments, or with one that stands for many.
                let is_unfinished = match error.kind() {
                    ErrorKind::MissingRequiredArgument
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::MissingSubcommand => true,
                    ErrorKind::ValueValidation => command.contains(is_placeholder),
                    ErrorKind::InvalidValue => error.to_string().contains("a value is required"),
                    _ => false,
                };
                assert!(is_unfinished, "{}: `{command}`: {error}", page.display());
            }
        }
        assert!(count > 10, "{count}");
    }
}
