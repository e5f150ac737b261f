//! The `sluice` command: what a person does with an installation.

mod commands;
mod explain;
mod output;
mod resources;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use sluice_bus::Bus;
use sluice_domain::ResourceName;
use sluice_domain::resources::Kind;
use sluice_registry::ImageReference;
use sluice_service::BusSettings;

use crate::output::Format;

/// The exit code for a command that cannot be carried out as written.
const FAILED: u8 = 1;

#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about = "The gate between public container registries and your developers"
)]
#[command(
    after_help = "Example:\n  sluice provision && sluice apply -f mirrors.yaml && sluice events --follow"
)]
struct Arguments {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Connection {
    /// The NATS server.
    #[arg(
        long,
        global = true,
        env = "SLUICE_NATS_URL",
        default_value = "nats://127.0.0.1:4222"
    )]
    nats: String,
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
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Creates the streams, consumers and buckets, or brings them up to date.
    Provision {
        /// On how many servers each stream is kept.
        #[arg(long, default_value_t = 1)]
        replicas: usize,
        /// For how many seconds the same event is dropped.
        #[arg(long, default_value_t = 7_200)]
        duplicate_window_seconds: u64,
    },
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
        /// Only subjects that match, as in `sluice.v1.tag.mirrored.>`.
        #[arg(long, default_value = sluice_events::subject::FACTS)]
        subject: String,
    },
    /// Shows the history of an image: discovered, mirrored, scanned, promoted, or why not.
    Explain {
        /// The image, as in `hub/alpine:3.20`.
        image: ImageReference,
        /// How it is shown.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Polls a mirror now.
    Poll {
        /// The mirror.
        mirror: ResourceName,
    },
    /// Lists what could not be done, or tries it again.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
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
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&error);
            ExitCode::from(FAILED)
        }
    }
}

impl Connection {
    async fn open(self) -> anyhow::Result<Bus> {
        let settings = BusSettings {
            url: self.nats,
            user: self.nats_user,
            password_file: self.nats_password_file,
            ca_file: None,
        };
        Bus::connect(&settings, "cli").await
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
        return resources::apply(&bus, file, documents).await;
    }
    let bus = arguments.connection.open().await?;
    match arguments.command {
        Command::Apply { .. } => Ok(()),
        Command::Provision {
            replicas,
            duplicate_window_seconds,
        } => commands::provision(&bus, replicas, duplicate_window_seconds).await,
        Command::Delete { kind, name } => resources::delete(&bus, kind, &name).await,
        Command::Get { kind, name, output } => {
            resources::get(&bus, kind, name.as_ref(), output).await
        }
        Command::Status { output } => commands::status(&bus, output).await,
        Command::Events { follow, subject } => commands::events(&bus, follow, &subject).await,
        Command::Explain { image, output } => explain::explain(&bus, &image, output).await,
        Command::Poll { mirror } => commands::poll(&bus, mirror).await,
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
