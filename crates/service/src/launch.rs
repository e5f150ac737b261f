//! `main` of every service.

use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser};
use tokio::signal::unix::{SignalKind, signal};

use crate::health;
use crate::host::Host;
use crate::settings::{Settings, load};

/// The exit code for a configuration that is not valid (`EX_CONFIG`).
const BAD_CONFIGURATION: u8 = 78;

#[derive(Parser)]
#[command(
    after_help = "Settings come from the embedded defaults, then the file, then the environment, as in\n  \
    SLUICE__BUS__URL=nats://nats:4222 sluice-poller --config /etc/sluice/poller.toml"
)]
struct Arguments {
    /// Reads settings from this TOML file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Checks the settings and exits.
    #[arg(long)]
    check_config: bool,
    /// Prints the documented defaults and exits.
    #[arg(long)]
    print_defaults: bool,
}

/// Reads the settings, builds the service with `build`, and runs it until it is told to stop.
///
/// Exit codes: 0 after a clean stop, 1 after a failure, 78 for settings that are not valid.
pub fn launch<S, B, F>(build: B) -> ExitCode
where
    S: Settings,
    B: FnOnce(S, Host) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let command = Arguments::command()
        .name(format!("sluice-{}", S::NAME))
        .version(env!("CARGO_PKG_VERSION"));
    let arguments = match Arguments::from_arg_matches(&command.get_matches()) {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    if arguments.print_defaults {
        return print(S::DEFAULTS);
    }
    let settings = match load::<S>(config_file(arguments.config).as_deref()) {
        Ok(settings) => settings,
        Err(error) => {
            complain(&error);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    crate::install_crypto();
    match runtime().and_then(|runtime| runtime.block_on(serve(settings, build))) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the configuration layer")]
fn config_file(argument: Option<PathBuf>) -> Option<PathBuf> {
    argument.or_else(|| std::env::var("SLUICE_CONFIG").ok().map(PathBuf::from))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the runtime")
}

async fn serve<S, B, F>(settings: S, build: B) -> anyhow::Result<bool>
where
    S: Settings,
    B: FnOnce(S, Host) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let telemetry = sluice_telemetry::init(&format!("sluice-{}", S::NAME))?;
    let host = Host::default();
    let grace = Duration::from_secs(settings.http().grace_seconds);
    let health = health::serve(settings.http(), S::NAME, host.stopping()).await?;
    host.spawn("signals", signals(host.clone()));
    let built = tokio::select! {
        built = build(settings, host.clone()) => built,
        () = async { host.stopping().cancelled().await } => Ok(()),
    };
    let clean = match built {
        Ok(()) => {
            host.spawn("health", health);
            host.finish(grace).await
        }
        Err(error) => {
            tracing::error!("failed to start: {error:#}");
            false
        }
    };
    telemetry.shutdown().await;
    Ok(clean)
}

/// Stops on the first signal; a second one ends the process at once.
async fn signals(host: Host) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let stopping = host.stopping();
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = stopping.cancelled() => return Ok(()),
    }
    tracing::info!("stopping");
    host.stop();
    Ok(())
}

#[expect(clippy::print_stdout, reason = "asked for on the command line")]
fn print(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

#[expect(clippy::print_stderr, reason = "telemetry has not started yet")]
fn complain(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
