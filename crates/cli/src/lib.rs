//! The `sluice` command: arguments, output and exit codes; other crates do the work.

mod arguments;
mod exit;
mod inspect;
mod ops;
mod output;
mod standalone;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use sluice_bus::ProvisionOptions;

use crate::arguments::connection::Connection;
pub use crate::arguments::help::{GROUPS, command};
use crate::arguments::{Arguments, Command, help};
use crate::inspect::{events, explain, status};
use crate::ops::dead_letters::{self, DeadLetters};
use crate::ops::registry_check::{self, Check, RegistryCommand};
use crate::ops::{
    backup, install, nats_config, pause, prepare, queue, reconcile, resources, restore, up,
};
use crate::standalone::{copy, import, plan, sync, tags};

/// Runs the command and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match help::parse() {
        Ok(arguments) => arguments,
        Err(error) => return output::usage(&error),
    };
    sluice_service::install_crypto();
    let result = match &arguments.command {
        Command::Up(up) => up::up(up, &arguments.connection),
        _ => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime")
            .and_then(|runtime| runtime.block_on(run(arguments))),
    };
    match result {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::print_error(&error);
            exit::code_of(&error)
        }
    }
}

/// Runs a command that needs no NATS server, or else one that does.
async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let connection = &arguments.connection;
    let result = match &arguments.command {
        Command::Copy(copy) => return copy::copy(copy, connection).await,
        Command::Sync(sync) => return sync::sync(sync, connection).await,
        Command::Plan(plan) => return plan::plan(plan, connection).await,
        Command::Import(import) => return import::import(import),
        Command::Schema => resources::schema(),
        Command::Tags(tags) => tags::tags(tags, connection).await,
        Command::Keys { folder } => install::keys(folder.clone()),
        Command::Prepare(prepare) => prepare::prepare(prepare),
        Command::NatsConfig(config) => nats_config::show(config),
        Command::Registry(RegistryCommand::Check(
            check @ Check {
                file: Some(file), ..
            },
        )) => registry_check::check_file(check, file, &connection.secrets()).await,
        _ => run_connected(arguments).await,
    };
    result.map(|()| ExitCode::SUCCESS)
}

async fn run_connected(arguments: Arguments) -> anyhow::Result<()> {
    if let Command::Apply { file, dry_run } = &arguments.command {
        return apply(&arguments.connection, file, *dry_run).await;
    }
    let bus = match &arguments.command {
        Command::Restore { .. } | Command::Provision { .. } => {
            arguments.connection.open_starting().await?
        }
        _ => arguments.connection.open().await?,
    };
    match arguments.command {
        // Handled before the connection was opened.
        Command::Up(_)
        | Command::Apply { .. }
        | Command::Keys { .. }
        | Command::Prepare(_)
        | Command::NatsConfig(_)
        | Command::Copy(_)
        | Command::Sync(_)
        | Command::Plan(_)
        | Command::Import(_)
        | Command::Schema
        | Command::Tags(_) => Ok(()),
        Command::Provision {
            replicas,
            duplicate_window_seconds,
            ack_wait_seconds,
            limits,
        } => {
            let options = ProvisionOptions {
                limits: limits.parse()?,
                replicas,
                duplicate_window: Duration::from_secs(duplicate_window_seconds),
                ack_wait: ack_wait_seconds.map(Duration::from_secs),
            };
            install::provision(&bus, options).await
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
        } => events::follow(&bus, &subject, from_start).await,
        Command::Events { subject, .. } => events::show(&bus, &subject).await,
        Command::Explain { image, output } => explain::explain(&bus, &image, output).await,
        Command::Poll { mirror } => queue::poll(&bus, mirror).await,
        Command::Prune { repository, policy } => queue::prune(&bus, repository, policy).await,
        Command::Registry(RegistryCommand::Check(check)) => {
            registry_check::check(&bus, &check, &arguments.connection.secrets()).await
        }
        Command::Scan { image } => queue::scan(&bus, image).await,
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
        Command::DeadLetters(command) => match command {
            DeadLetters::List { output } => dead_letters::list(&bus, output).await,
            DeadLetters::Retry { number, .. } => dead_letters::retry(&bus, number).await,
        },
    }
}

/// Applies a file, which is checked before the connection is opened.
async fn apply(connection: &Connection, file: &Path, dry_run: bool) -> anyhow::Result<()> {
    let documents = sluice_embedded::read_resources(file)?;
    if dry_run {
        return resources::report_valid(file, &documents);
    }
    let bus = connection.open().await?;
    resources::apply(&bus, file, &documents).await
}
