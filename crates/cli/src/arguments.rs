//! The command line: every command with its options and help.

pub(crate) mod connection;
pub(crate) mod help;
pub(crate) mod limits;

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use sluice_bus::topology::Stage;
use sluice_domain::resources::Kind;
use sluice_domain::{Repository, ResourceName};
use sluice_registry::ImageReference;

use self::connection::Connection;
use self::limits::LimitArguments;
use crate::inspect::explain::ExplainedImage;
use crate::ops::dead_letters::DeadLetters;
use crate::ops::registry_check::RegistryCommand;
use crate::ops::{nats_config, prepare, reconcile, up};
use crate::output::Format;
use crate::standalone::{copy, import, plan, sync, tags};

/// The arguments of the process.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about = "The gate between public container registries and your developers"
)]
#[command(
    after_help = "Examples:\n  sluice up -f mirrors.yaml\n  sluice events --follow\n\nShow the options and examples of a command: sluice COMMAND --help"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine: nats-server, a registry and all services.
    #[command(
        after_help = "Examples:\n  sluice up -f mirrors.yaml\n  sluice up -f mirrors.yaml --data /var/lib/sluice --registry-url https://registry.example"
    )]
    Up(Box<up::Arguments>),
    /// Create or update the streams, consumers and buckets in NATS.
    #[command(
        after_help = "Example:\n  sluice provision --nats tls://nats.example:4222 --nats-user admin --nats-password-file admin --replicas 3"
    )]
    Provision {
        /// Number of servers that keep each stream.
        #[arg(long, default_value_t = 1)]
        replicas: usize,
        /// Seconds for which a repeated event is dropped.
        #[arg(long, default_value_t = 7_200)]
        duplicate_window_seconds: u64,
        /// Seconds without progress after which work goes to another worker [default: 30].
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
        ack_wait_seconds: Option<u64>,
        #[command(flatten)]
        limits: LimitArguments,
    },
    /// Create the keys and passwords of an installation; files that exist stay as they are.
    #[command(after_help = "Example:\n  sluice keys keys/")]
    Keys {
        /// Folder to create; only its owner may read it.
        folder: PathBuf,
    },
    /// Create the folders of a stack of containers: keys, passwords and server configurations, each container its own.
    #[command(
        after_help = "Example:\n  sluice prepare /etc/sluice/stack --token-url https://registry.example/token"
    )]
    Prepare(prepare::Arguments),
    /// Print a least-privilege nats-server configuration.
    #[command(after_help = "Example:\n  sluice nats-config --listen 0.0.0.0:4222 > nats.conf")]
    NatsConfig(nats_config::Arguments),
    /// Apply the resources of a file; all of them, or none if one is invalid.
    #[command(
        after_help = "Examples:\n  sluice apply -f mirrors.yaml\n  sluice apply -f mirrors.yaml --dry-run"
    )]
    Apply {
        /// YAML file with the resources.
        #[arg(short, long, value_name = "FILE")]
        file: PathBuf,
        /// Check the file and apply nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Delete a resource.
    #[command(after_help = "Example:\n  sluice delete mirror alpine")]
    Delete {
        /// Kind of the resource, as in `mirror`.
        kind: Kind,
        /// Name of the resource.
        name: ResourceName,
    },
    /// Show resources.
    #[command(after_help = "Examples:\n  sluice get mirrors\n  sluice get mirror alpine -o yaml")]
    Get {
        /// Kind of the resources, as in `mirrors`.
        kind: Kind,
        /// Name of one resource.
        name: Option<ResourceName>,
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show status: queues, mirrors, failures.
    #[command(after_help = "Examples:\n  sluice status\n  sluice status -o json")]
    Status {
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Show events, one JSON object a line.
    #[command(
        after_help = "Examples:\n  sluice events --follow\n  sluice events --subject 'sluice.v1.tag.mirrored.>'"
    )]
    Events {
        /// Wait for new events instead of showing those of the log.
        #[arg(short, long)]
        follow: bool,
        /// With `--follow`, show the events of the log first.
        #[arg(long, requires = "follow")]
        from_start: bool,
        /// Show only subjects that match, as in `sluice.v1.tag.mirrored.>`.
        #[arg(long, default_value = sluice_events::subject::FACTS)]
        subject: String,
    },
    /// Explain the history of an image: discovered, mirrored, scanned, promoted, or why not.
    #[command(after_help = "Example:\n  sluice explain hub/alpine:3.20")]
    Explain {
        /// Image, as in `hub/alpine:3.20`, or in a remote target as in `registry.example/team/alpine:3.20`.
        image: ExplainedImage,
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Poll a mirror now.
    #[command(after_help = "Example:\n  sluice poll alpine")]
    Poll {
        /// Name of the mirror.
        mirror: ResourceName,
    },
    /// Prune now: by the tag limit, or by a pruning policy.
    #[command(
        after_help = "Examples:\n  sluice prune hub/alpine\n  sluice prune --policy old-builds"
    )]
    Prune {
        /// Prune only this repository.
        repository: Option<Repository>,
        /// Pruning policy to run instead of the tag limit.
        #[arg(long)]
        policy: Option<ResourceName>,
    },
    /// Scan an image now.
    #[command(after_help = "Example:\n  sluice scan hub/alpine:3.20")]
    Scan {
        /// Image, as in `hub/alpine:3.20`.
        image: ImageReference,
    },
    /// Back up all state and the event log to a new folder; stages pause for a moment.
    #[command(after_help = "Example:\n  sluice backup /var/backups/sluice-2027-01-31")]
    Backup {
        /// Folder to create; it must not exist yet.
        folder: PathBuf,
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Restore a backup; the services must be stopped.
    #[command(after_help = "Example:\n  sluice restore /var/backups/sluice-2027-01-31")]
    Restore {
        /// Folder of the backup.
        folder: PathBuf,
        /// Delete the streams that the server has, with everything in them, first.
        #[arg(long)]
        replace: bool,
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Pause promotion and deletion; mirroring and scanning continue.
    #[command(after_help = "Example:\n  sluice pause 'registry maintenance until noon'")]
    Pause {
        /// Reason, which `sluice status` shows.
        reason: String,
    },
    /// Resume promotion and deletion.
    #[command(after_help = "Example:\n  sluice resume")]
    Resume {
        /// Also end the pause after a restore before the promoter has compared the targets.
        #[arg(long)]
        unreconciled: bool,
    },
    /// Reconcile from stored state: find missing work and queue it.
    #[command(
        after_help = "Examples:\n  sluice reconcile\n  sluice reconcile promoter\n  sluice reconcile --audit"
    )]
    Reconcile {
        /// Stages, as in `promoter` [default: all].
        #[arg(value_parser = reconcile::stage)]
        stages: Vec<&'static Stage>,
        /// Also compare the registry with the state, and mirror again what is missing there.
        #[arg(long, conflicts_with = "stages")]
        audit: bool,
        /// Seconds to wait for the stages.
        #[arg(long, default_value_t = 60)]
        timeout_seconds: u64,
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Check remote registries.
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// List and retry dead letters.
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Copy an image from one registry to another (standalone).
    Copy(Box<copy::CopyArguments>),
    /// Sync mirrors once, from registry to registry (standalone).
    Sync(Box<sync::SyncArguments>),
    /// Estimate what mirrors will cost: pulls, requests and bytes.
    Plan(Box<plan::PlanArguments>),
    /// Show which tags a selection takes, and why it leaves out the others.
    Tags(Box<tags::TagsArguments>),
    /// Print the JSON Schema of resource files, for editors.
    #[command(after_help = "Example:\n  sluice schema > sluice.schema.json")]
    Schema,
    /// Convert a regsync or skopeo configuration to resources.
    #[command(subcommand)]
    Import(import::ImportArguments),
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
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
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
                for (index, part) in command.split(['"', '\'']).enumerate() {
                    match index % 2 {
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
