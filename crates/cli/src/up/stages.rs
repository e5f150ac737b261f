//! The services that run in this process, and where each gets its settings from.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures_util::future::LocalBoxFuture;
use sluice_gateway::keys::Keys;
use sluice_service::{Host, Layers, Problems, Settings};

use crate::endpoints::{Endpoints, reachable};

/// What marks a variable as a setting of a service.
const PREFIX: &str = "SLUICE__";
/// The account at the registry has another password for each service, as has the user at NATS.
const PASSWORD_FILE: &str = "REGISTRY__PASSWORD_FILE";

/// One service, started through the same entry that its own binary uses.
#[derive(Debug)]
struct Stage {
    name: &'static str,
    defaults: &'static str,
    check: fn(&Layers) -> Result<(), Problems>,
    start: for<'a> fn(Layers, &'a Host) -> LocalBoxFuture<'a, anyhow::Result<()>>,
}

macro_rules! stage {
    ($library:ident) => {
        Stage {
            name: <$library::Settings as Settings>::NAME,
            defaults: <$library::Settings as Settings>::DEFAULTS,
            check: |layers| layers.load::<$library::Settings>().map(drop),
            start: |layers, host| {
                Box::pin(async move { $library::start(layers.load()?, host).await })
            },
        }
    };
}

/// Started before the registry, which trusts its tokens.
const GATEWAY: Stage = stage!(sluice_gateway);

/// Started once the registry answers.
const STAGES: [Stage; 6] = [
    stage!(sluice_webhook_dispatcher),
    stage!(sluice_promoter),
    stage!(sluice_pruner),
    stage!(sluice_scanner_adapter),
    stage!(sluice_mirror_worker),
    stage!(sluice_poller),
];

/// The settings of every service: those that follow from this process, and those that a person set.
#[derive(Debug)]
pub(crate) struct Variables {
    ours: BTreeMap<String, String>,
    theirs: BTreeMap<String, String>,
    keys: Keys,
    nats_passwords: Option<PathBuf>,
}

/// What `up` knows that services have to know.
#[derive(Debug)]
pub(crate) struct StackSettings<'a> {
    /// Where everything is.
    pub(crate) endpoints: &'a Endpoints,
    /// The keys, passwords and secrets.
    pub(crate) keys: &'a Keys,
    /// The folder of the secrets that resources name.
    pub(crate) secrets: &'a Path,
    /// The scanner.
    pub(crate) trivy: &'a Path,
    /// Where the scanner keeps its database.
    pub(crate) trivy_folder: &'a Path,
    /// Whether passwords and tokens may go in plain text beyond this machine.
    pub(crate) allow_plain_text: bool,
}

impl Variables {
    /// Takes a person's settings from the environment, and adds those that follow from this process.
    pub(crate) fn new(known: &StackSettings<'_>) -> Self {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::of(environment, known)
    }

    fn of(
        environment: impl IntoIterator<Item = (String, String)>,
        known: &StackSettings<'_>,
    ) -> Self {
        let (endpoints, keys) = (known.endpoints, known.keys);
        let nats = &endpoints.nats;
        let path = |path: &Path| path.display().to_string();
        let host = |url: &str| url.strip_prefix("http://").unwrap_or(url).to_owned();
        let given = |file: &Option<PathBuf>| file.clone().unwrap_or_default();
        let (password, authorities) = (&given(&nats.password_file), &given(&nats.ca_file));
        let ours = [
            ("BUS__URL", nats.url.clone()),
            ("BUS__USER", nats.user.clone()),
            ("BUS__PASSWORD_FILE", path(password)),
            ("BUS__CA_FILE", path(authorities)),
            ("BUS__ALLOW_PLAIN_TEXT", nats.allow_plain_text.to_string()),
            ("REGISTRY__URL", reachable(&endpoints.registry)),
            (
                "REGISTRY__ALLOW_PLAIN_TEXT",
                known.allow_plain_text.to_string(),
            ),
            ("REGISTRY__TOKEN_HOST", host(&reachable(&endpoints.tokens))),
            ("TOKENS__LISTEN", host(&endpoints.tokens)),
            (
                "TOKENS__ALLOW_PLAIN_TEXT",
                known.allow_plain_text.to_string(),
            ),
            ("TOKENS__KEY_FILE", path(&keys.signing_key())),
            ("TOKENS__CERTIFICATE_FILE", path(&keys.certificate())),
            ("TOKENS__ACCOUNTS_DIR", path(&keys.accounts())),
            ("NOTIFICATIONS__SECRET_FILE", path(&keys.notifications())),
            ("SECRETS__DIR", path(known.secrets)),
            ("API__LISTEN", host(&endpoints.api)),
            ("API__ALLOW_PLAIN_TEXT", known.allow_plain_text.to_string()),
            ("API__TOKEN_FILE", path(&endpoints.api_token_file)),
            ("TRIVY__BINARY", path(known.trivy)),
            ("TRIVY__CACHE_DIR", path(known.trivy_folder)),
        ];
        let ours = ours.map(|(key, value)| (format!("{PREFIX}{key}"), value));
        Self {
            ours: ours.into(),
            theirs: environment
                .into_iter()
                .filter(|(name, _)| name.starts_with(PREFIX))
                .collect(),
            keys: keys.clone(),
            nats_passwords: nats.passwords.clone(),
        }
    }

    /// Checks the settings of every service.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let mut known = BTreeSet::new();
        for stage in std::iter::once(&GATEWAY).chain(&STAGES) {
            known.extend(stage.sections()?);
            (stage.check)(&self.layers(stage)?)?;
        }
        for name in self.theirs.keys() {
            anyhow::ensure!(
                !self.ours.contains_key(name) && !name.ends_with(PASSWORD_FILE),
                "{name} cannot be set: it follows from what `sluice up` starts; \
                 `sluice up --help` shows how that is changed"
            );
            anyhow::ensure!(
                known.contains(&section(name)),
                "{name} is a setting of no service; the sections are {}",
                known.iter().cloned().collect::<Vec<_>>().join(", ")
            );
        }
        Ok(())
    }

    /// Starts the gateway on the host.
    pub(crate) async fn start_gateway(&self, host: &Host) -> anyhow::Result<()> {
        self.start(&GATEWAY, host).await
    }

    /// Starts every other service on the host.
    pub(crate) async fn start_stages(&self, host: &Host) -> anyhow::Result<()> {
        for stage in &STAGES {
            self.start(stage, host).await?;
        }
        Ok(())
    }

    async fn start(&self, stage: &Stage, host: &Host) -> anyhow::Result<()> {
        (stage.start)(self.layers(stage)?, &host.part(stage.name))
            .await
            .with_context(|| format!("the {} cannot be started", stage.name))
    }

    /// A service refuses settings that it does not know, so each gets those of its own sections.
    fn layers(&self, stage: &Stage) -> anyhow::Result<Layers> {
        let sections = stage.sections()?;
        let mut ours = self.ours.clone();
        // Each has an account of its own, so that it can do what it must and no more.
        let password = self.keys.password(stage.name).display().to_string();
        ours.insert(format!("{PREFIX}{PASSWORD_FILE}"), password);
        if let Some(folder) = &self.nats_passwords {
            let password = folder.join(stage.name).display().to_string();
            ours.insert(format!("{PREFIX}BUS__USER"), stage.name.to_owned());
            ours.insert(format!("{PREFIX}BUS__PASSWORD_FILE"), password);
        }
        let of_stage = |variables: &BTreeMap<String, String>| {
            let own = variables
                .iter()
                .filter(|(name, _)| sections.contains(&section(name)));
            own.map(|(name, value)| (name.clone(), value.clone()))
                .collect::<Vec<_>>()
        };
        Ok(Layers::default()
            .variables(of_stage(&self.theirs))
            .variables(of_stage(&ours)))
    }
}

impl Stage {
    fn sections(&self) -> anyhow::Result<BTreeSet<String>> {
        let defaults: toml::Table = self
            .defaults
            .parse()
            .with_context(|| format!("the defaults of the {} are damaged", self.name))?;
        Ok(defaults.into_iter().map(|(section, _)| section).collect())
    }
}

/// Returns the section of `SLUICE__SECTION__KEY`.
fn section(variable: &str) -> String {
    let key = variable.strip_prefix(PREFIX).unwrap_or(variable);
    let (section, _) = key.split_once("__").unwrap_or((key, ""));
    section.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::NatsEndpoint;

    fn check(variables: &[(&str, &str)]) -> Result<(), String> {
        let environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let endpoints = Endpoints {
            pid: 0,
            nats: NatsEndpoint {
                url: crate::connection::NATS.to_owned(),
                ..Default::default()
            },
            registry: "http://127.0.0.1:5000".to_owned(),
            tokens: "http://127.0.0.1:8481".to_owned(),
            api: "http://127.0.0.1:8480".to_owned(),
            api_token_file: "keys/api-token".into(),
            health: String::new(),
        };
        let known = StackSettings {
            endpoints: &endpoints,
            keys: &Keys::at("keys".into()),
            secrets: Path::new("secrets"),
            trivy: Path::new("trivy"),
            trivy_folder: Path::new("cache"),
            allow_plain_text: false,
        };
        Variables::of(environment, &known)
            .check()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_service_gets_the_settings_of_its_own_sections() {
        check(&[
            ("SLUICE__POLLER__CONCURRENCY", "2"),
            ("SLUICE__MIRROR__CONCURRENCY", "3"),
            (
                "SLUICE__TRIVY__DATABASE_REPOSITORY",
                "mirror.internal/trivy-db:2",
            ),
            ("SLUICE_POLLER_SERVICE_HOST", "10.0.0.1"),
        ])
        .unwrap();
    }

    #[test]
    fn settings_that_are_not_valid_are_refused_by_name() {
        for (name, value) in [
            ("SLUICE__POLLER__CONCURRENCY", "0"),
            ("SLUICE__POLLER__CONCURENCY", "2"),
            ("SLUICE__POLER__CONCURRENCY", "2"),
            ("SLUICE__BUS__URL", "nats://elsewhere:4222"),
            ("SLUICE__REGISTRY__PASSWORD_FILE", "/run/secrets/registry"),
        ] {
            let refused = check(&[(name, value)]).unwrap_err();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
