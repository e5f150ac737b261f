//! `sluice up`: the options of the embedded mode, and the summary that it prints once it is ready.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sluice_embedded::{
    AppliedFile, Endpoints, NatsEndpoint, Options, ProgramOptions, ResourceFile, read_resources,
};
use url::Url;

use crate::arguments::connection::{Connection, DATA};
use crate::arguments::limits::LimitArguments;
use crate::output::{count, lines};

/// Run everything on this machine: nats-server, a registry and all services.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sluice up -f mirrors.yaml\n  sluice up -f mirrors.yaml --data /var/lib/sluice --registry-url https://registry.example"
)]
pub(crate) struct Arguments {
    /// YAML file with resources to apply; may be repeated.
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Listen address of nats-server; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_NATS_LISTEN",
        default_value = "127.0.0.1:4222"
    )]
    nats_listen: SocketAddr,
    /// Listen address of the registry; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_REGISTRY_LISTEN",
        default_value = "127.0.0.1:5000"
    )]
    registry_listen: SocketAddr,
    /// Listen address of the registry's token issuer; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_TOKENS_LISTEN",
        default_value = "127.0.0.1:8481"
    )]
    tokens_listen: SocketAddr,
    /// Listen address of the REST API; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_API_LISTEN",
        default_value = "127.0.0.1:8480"
    )]
    api_listen: SocketAddr,
    /// Listen address of health and metrics; port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SLUICE_HEALTH_LISTEN",
        default_value = "127.0.0.1:8479"
    )]
    health_listen: SocketAddr,
    /// Folder with a password for each service at the NATS of `--nats`, as `sluice keys` creates it
    /// [default: every service uses `--nats-user`].
    #[arg(long, value_name = "DIR", env = "SLUICE_NATS_PASSWORDS")]
    nats_passwords: Option<PathBuf>,
    /// Use this registry instead of starting one.
    #[arg(long, value_name = "URL", conflicts_with = "registry_listen")]
    registry_url: Option<Url>,
    /// URL by which clients on other machines reach the registry and its token issuer: that of a proxy with TLS before both.
    #[arg(
        long,
        value_name = "URL",
        env = "SLUICE_PUBLIC_URL",
        value_parser = public_url,
        conflicts_with = "registry_url"
    )]
    public_url: Option<Url>,
    /// nats-server to start [default: from `--tools` or PATH].
    #[arg(long, value_name = "FILE", env = "SLUICE_NATS_SERVER")]
    nats_server: Option<PathBuf>,
    /// Distribution to start [default: from `--tools` or PATH].
    #[arg(long, value_name = "FILE", env = "SLUICE_REGISTRY_PROGRAM")]
    registry_program: Option<PathBuf>,
    /// Trivy to scan with [default: from `--tools` or PATH].
    #[arg(long, value_name = "FILE", env = "SLUICE_TRIVY")]
    trivy: Option<PathBuf>,
    /// Folder that `deploy/tools` has filled.
    #[arg(
        long,
        value_name = "DIR",
        env = "SLUICE_TOOLS",
        default_value = ".tools"
    )]
    tools: PathBuf,
    /// Seconds to wait for unfinished work at the end.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    grace_seconds: u64,
    #[command(flatten)]
    limits: LimitArguments,
}

impl Arguments {
    /// Runs everything until it is stopped.
    pub(crate) fn run(self, connection: &Connection) -> anyhow::Result<ExitCode> {
        let options = self.options(connection)?;
        sluice_embedded::run(options, |endpoints, applied| {
            // A closed standard output does not stop the services.
            lines(&summary(endpoints, connection.folder(), applied)).ok();
        })
    }

    fn options(&self, connection: &Connection) -> anyhow::Result<Options> {
        let resources = self.files.iter().map(|path| {
            Ok(ResourceFile {
                documents: read_resources(path)?,
                path: path.clone(),
            })
        });
        Ok(Options {
            folder: connection.folder().to_owned(),
            secrets: connection.secrets.clone(),
            resources: resources.collect::<anyhow::Result<_>>()?,
            nats: connection.named_server().map(|nats| NatsEndpoint {
                passwords: self.nats_passwords.clone(),
                ..nats
            }),
            registry_url: self.registry_url.clone(),
            public_url: self.public_url.clone(),
            nats_listen: self.nats_listen,
            registry_listen: self.registry_listen,
            tokens_listen: self.tokens_listen,
            api_listen: self.api_listen,
            health_listen: self.health_listen,
            allow_plain_text: connection.allow_plain_text,
            programs: ProgramOptions {
                nats_server: self.nats_server.clone(),
                registry: self.registry_program.clone(),
                trivy: self.trivy.clone(),
                tools: self.tools.clone(),
            },
            limits: self.limits.parse()?,
            grace_seconds: self.grace_seconds,
        })
    }
}

/// Parses a public URL: passwords are sent there, so it has TLS, and the paths below it are those of the registry.
fn public_url(text: &str) -> Result<Url, String> {
    let url: Url = text.parse().map_err(|error| format!("{error}"))?;
    let is_root = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let has_no_user = url.username().is_empty() && url.password().is_none();
    if url.scheme() != "https" || !is_root || !has_no_user {
        return Err("write `https://` and a host, as in `https://registry.example`".to_owned());
    }
    Ok(url)
}

/// Returns the addresses and the next commands.
fn summary(endpoints: &Endpoints, folder: &Path, applied: &[AppliedFile]) -> String {
    let data = folder.display();
    let mut lines = vec![
        "sluice is up".to_owned(),
        String::new(),
        format!("  registry  {}", endpoints.registry),
        format!(
            "  api       {}  (token in {})",
            endpoints.api,
            endpoints.api_token_file.display()
        ),
        format!("  nats      {}", endpoints.nats.url),
        format!("  health    {}/readyz", endpoints.health),
        format!("  data      {data} (server logs in {data}/logs)"),
    ];
    lines.extend(applied.iter().map(|file| {
        format!(
            "  applied   {}: {}, {} new or changed",
            file.path.display(),
            count(file.count, "resource"),
            file.changed
        )
    }));
    lines.push(String::new());
    // Commands find the default folder by themselves.
    let sluice = if folder == Path::new(DATA) {
        "sluice".to_owned()
    } else {
        format!("sluice --data {data}")
    };
    for (command, description) in [
        ("status", "queues, mirrors, failures"),
        ("events --follow", "events as they happen"),
        ("apply -f FILE", "mirrors, policies, webhooks"),
        ("explain hub/NAME:TAG", "history of an image"),
    ] {
        lines.push(format!("  {sluice} {command:<22}{description}"));
    }
    lines.push("  Ctrl-C stops everything".to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_has_tls_and_no_path() {
        for text in ["https://registry.example", "https://registry.example:8443/"] {
            assert!(public_url(text).is_ok(), "{text}");
        }
        for text in [
            "registry.example",
            "http://registry.example",
            "https://registry.example/hub",
            "https://registry.example/?a",
            "https://ci:secret@registry.example",
        ] {
            assert!(public_url(text).is_err(), "{text}");
        }
    }
}
