//! `main` of every service.

use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use sluice_telemetry::terminal::{Breaks, EscapingWriter};

use super::host::Host;
use super::probe::{probe, probe_readiness};
use super::run::run;
use crate::settings::Settings;
use crate::settings::sources::SettingsSources;
use crate::tls::install_crypto;

/// The exit code for a configuration that is not valid (`EX_CONFIG`).
const BAD_CONFIGURATION: u8 = 78;

#[derive(Parser)]
#[command(version, disable_help_subcommand = true)]
struct Arguments {
    /// Read settings from this TOML file instead of the one that `SLUICE_CONFIG` names
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the settings and exit
    #[arg(long)]
    check_config: bool,
    /// Print the effective settings, secrets masked, and exit
    #[arg(long)]
    print_config: bool,
    /// Print the documented defaults and exit
    #[arg(long)]
    print_defaults: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Subcommand)]
enum Action {
    /// Exit with 0 if the service that runs with these settings is ready, with 1 if it is not, within 2 seconds
    Health,
}

/// Reads the settings, builds the service with `build`, and runs it until a signal or the end of a task.
///
/// Exit codes: 0 after a clean stop, 1 after a failure, 78 for arguments or settings that are not valid.
pub fn launch<S, B, F>(build: B) -> ExitCode
where
    S: Settings,
    B: FnOnce(S, Host) -> F,
    F: Future<Output = anyhow::Result<()>>,
{
    let arguments = match arguments::<S>() {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if arguments.print_defaults {
        return print(S::DEFAULTS);
    }
    let sources = SettingsSources::of_process(arguments.config);
    let (settings, effective) = match sources.read::<S>() {
        Ok(read) => read,
        Err(problems) => return report_error(&problems.into(), BAD_CONFIGURATION),
    };
    if arguments.print_config {
        return print(&effective);
    }
    if arguments.check_config {
        return ExitCode::SUCCESS;
    }
    if let Some(Action::Health) = arguments.action {
        return report_probe(probe_readiness(settings.http()));
    }
    install_crypto();
    let name = format!("sluice-{}", S::NAME);
    let telemetry = match sluice_telemetry::init(&name, env!("CARGO_PKG_VERSION")) {
        Ok(telemetry) => telemetry,
        Err(error) => return report_error(&error, BAD_CONFIGURATION),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime.context("failed to start the runtime") {
        Ok(runtime) => runtime,
        Err(error) => return report_error(&error, 1),
    };
    let host = Host::new(S::NAME);
    let http = settings.http().clone();
    // Also the part of `build` before its first await runs inside the runtime, after signals and health are set up.
    let start = {
        let host = host.clone();
        async move { build(settings, host).await }
    };
    let code = runtime.block_on(run(telemetry, &host, &http, start));
    // A blocking call that hangs must not keep the process.
    runtime.shutdown_background();
    code
}

/// `main` of the probe of other servers: requests the URL that is its argument.
#[must_use]
pub fn probe_main() -> ExitCode {
    match std::env::args().nth(1) {
        Some(url) => report_probe(probe(&url)),
        None => report_error(
            &anyhow::anyhow!("name the URL to request, as in `http://127.0.0.1:8222/healthz`"),
            BAD_CONFIGURATION,
        ),
    }
}

fn report_probe(probed: anyhow::Result<String>) -> ExitCode {
    match probed {
        Ok(body) => print(&format!("{body}\n")),
        Err(error) => report_error(&error, 1),
    }
}

fn arguments<S: Settings>() -> Result<Arguments, ExitCode> {
    let name = format!("sluice-{}", S::NAME);
    let help = format!(
        "Settings come from the documented defaults, then the file, then the environment: `section.key` is SLUICE__SECTION__KEY.\n\n\
        Example:\n  SLUICE__BUS__URL=tls://nats.example:4222 {name} --config /etc/sluice/{}.toml",
        S::NAME
    );
    let command = Arguments::command().name(name).after_help(help);
    command
        .try_get_matches()
        .and_then(|matches| Arguments::from_arg_matches(&matches))
        .map_err(|error| {
            let text = error.render().to_string();
            if error.use_stderr() {
                print_error(&text, Breaks::Keep);
                ExitCode::from(BAD_CONFIGURATION)
            } else {
                print(&text)
            }
        })
}

#[expect(
    clippy::disallowed_methods,
    reason = "output that was asked for, escaped"
)]
fn print(text: &str) -> ExitCode {
    let mut stdout = EscapingWriter::new(std::io::stdout(), Breaks::Keep);
    match stdout.write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn report_error(error: &anyhow::Error, code: u8) -> ExitCode {
    print_error(&format!("error: {error:#}\n"), Breaks::Indent);
    ExitCode::from(code)
}

#[expect(
    clippy::disallowed_methods,
    reason = "telemetry has not started yet; escaped"
)]
fn print_error(text: &str, breaks: Breaks) {
    // A terminal that is closed gets no message.
    EscapingWriter::new(std::io::stderr(), breaks)
        .write_all(text.as_bytes())
        .ok();
}
