//! The services of this process and their settings: those derived from the stack, and those from the environment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use futures_util::future::LocalBoxFuture;
use sluice_gateway::KeyFolder;
use sluice_service::{Host, Settings, SettingsErrors, SettingsSources};
use url::Url;

use crate::endpoints::{Endpoints, reachable};

/// The prefix of the variables that are settings of services.
const PREFIX: &str = "SLUICE__";
/// Each service has its own account at the registry.
const PASSWORD_FILE: &str = "REGISTRY__PASSWORD_FILE";

/// A service, started through the same entry as its own binary.
#[derive(Debug)]
struct Service {
    name: &'static str,
    defaults: &'static str,
    check: fn(&SettingsSources) -> Result<(), SettingsErrors>,
    start: for<'a> fn(SettingsSources, &'a Host) -> LocalBoxFuture<'a, anyhow::Result<()>>,
}

macro_rules! service {
    ($library:ident) => {
        Service {
            name: <$library::Settings as Settings>::NAME,
            defaults: <$library::Settings as Settings>::DEFAULTS,
            check: |layers| layers.load::<$library::Settings>().map(drop),
            start: |layers, host| {
                Box::pin(async move { $library::start(layers.load()?, host).await })
            },
        }
    };
}

/// Started before the registry, which needs its tokens.
const GATEWAY: Service = service!(sluice_gateway);

/// Started once the registry is ready.
const STAGES: [Service; 6] = [
    service!(sluice_webhook_dispatcher),
    service!(sluice_promoter),
    service!(sluice_pruner),
    service!(sluice_scanner_adapter),
    service!(sluice_mirror_worker),
    service!(sluice_poller),
];

/// The settings of every service, as environment variables.
#[derive(Debug)]
pub(crate) struct ServiceSettings {
    /// Derived from the stack.
    derived: BTreeMap<String, String>,
    /// From the environment of the process.
    custom: BTreeMap<String, String>,
    keys: KeyFolder,
    nats_passwords: Option<PathBuf>,
}

/// The properties of the stack from which settings are derived.
#[derive(Debug)]
pub(crate) struct StackSettings<'a> {
    /// The addresses.
    pub(crate) endpoints: &'a Endpoints,
    /// The keys, passwords and secrets.
    pub(crate) keys: &'a KeyFolder,
    /// The folder of the secrets that resources name.
    pub(crate) secrets: &'a Path,
    /// The program of the scanner.
    pub(crate) trivy: &'a Path,
    /// The folder of the scanner's database.
    pub(crate) trivy_folder: &'a Path,
    /// The URL by which clients on other machines reach registry and token issuer.
    pub(crate) public_url: Option<&'a Url>,
    /// Whether passwords and tokens may be sent in plain text beyond this machine.
    pub(crate) allow_plain_text: bool,
}

impl ServiceSettings {
    /// Reads the settings of the environment and adds the derived ones.
    pub(crate) fn new(stack: &StackSettings<'_>) -> Self {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::of(environment, stack)
    }

    fn of(
        environment: impl IntoIterator<Item = (String, String)>,
        stack: &StackSettings<'_>,
    ) -> Self {
        let (endpoints, keys) = (stack.endpoints, stack.keys);
        let nats = &endpoints.nats;
        let path = |path: &Path| path.display().to_string();
        let host = |url: &str| url.strip_prefix("http://").unwrap_or(url).to_owned();
        let or_empty = |file: &Option<PathBuf>| file.clone().unwrap_or_default();
        let (password, authorities) = (&or_empty(&nats.password_file), &or_empty(&nats.ca_file));
        let credentials = &or_empty(&nats.credentials_file);
        let derived = [
            ("BUS__URL", nats.url.clone()),
            ("BUS__USER", nats.user.clone()),
            ("BUS__PASSWORD_FILE", path(password)),
            ("BUS__CREDENTIALS_FILE", path(credentials)),
            ("BUS__CA_FILE", path(authorities)),
            ("BUS__ALLOW_PLAIN_TEXT", nats.allow_plain_text.to_string()),
            ("REGISTRY__URL", reachable(&endpoints.registry)),
            (
                "REGISTRY__ALLOW_PLAIN_TEXT",
                stack.allow_plain_text.to_string(),
            ),
            ("REGISTRY__TOKEN_HOST", host(&reachable(&endpoints.tokens))),
            ("TOKENS__LISTEN", host(&endpoints.tokens)),
            (
                "TOKENS__ALLOW_PLAIN_TEXT",
                stack.allow_plain_text.to_string(),
            ),
            ("TOKENS__KEY_FILE", path(&keys.signing_key())),
            ("TOKENS__CERTIFICATE_FILE", path(&keys.certificate())),
            ("TOKENS__ACCOUNTS_DIR", path(&keys.accounts())),
            ("NOTIFICATIONS__SECRET_FILE", path(&keys.notifications())),
            ("SECRETS__DIR", path(stack.secrets)),
            ("API__LISTEN", host(&endpoints.api)),
            ("API__ALLOW_PLAIN_TEXT", stack.allow_plain_text.to_string()),
            ("API__TOKEN_FILE", path(&endpoints.api_token_file)),
            ("TRIVY__BINARY", path(stack.trivy)),
            ("TRIVY__CACHE_DIR", path(stack.trivy_folder)),
        ];
        // The registry names the public URL, which need not be reachable from here.
        let token_url = stack.public_url.map(|_| {
            let url = format!("{}/token", reachable(&endpoints.tokens));
            ("REGISTRY__TOKEN_URL", url)
        });
        let derived = derived.into_iter().chain(token_url);
        Self {
            derived: derived
                .map(|(key, value)| (format!("{PREFIX}{key}"), value))
                .collect(),
            custom: environment
                .into_iter()
                .filter(|(name, _)| name.starts_with(PREFIX))
                .collect(),
            keys: keys.clone(),
            nats_passwords: nats.passwords.clone(),
        }
    }

    /// Checks the settings of every service.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let mut sections = BTreeSet::new();
        for service in std::iter::once(&GATEWAY).chain(&STAGES) {
            sections.extend(service.sections()?);
            (service.check)(&self.layers(service)?)?;
        }
        for name in self.custom.keys() {
            anyhow::ensure!(
                !self.derived.contains_key(name) && !name.ends_with(PASSWORD_FILE),
                "{name} cannot be set: `sluice up` derives it from its options; see `sluice up --help`"
            );
            anyhow::ensure!(
                sections.contains(&section(name)),
                "{name} is not a setting of any service; the sections are {}",
                sections.iter().cloned().collect::<Vec<_>>().join(", ")
            );
        }
        Ok(())
    }

    /// Starts the gateway.
    pub(crate) async fn start_gateway(&self, host: &Host) -> anyhow::Result<()> {
        self.start(&GATEWAY, host).await
    }

    /// Starts every other service.
    pub(crate) async fn start_stages(&self, host: &Host) -> anyhow::Result<()> {
        for stage in &STAGES {
            self.start(stage, host).await?;
        }
        Ok(())
    }

    async fn start(&self, service: &Service, host: &Host) -> anyhow::Result<()> {
        (service.start)(self.layers(service)?, &host.for_service(service.name))
            .await
            .with_context(|| format!("failed to start the {}", service.name))
    }

    /// Returns the settings of a service: only its own sections, because it refuses unknown ones.
    fn layers(&self, service: &Service) -> anyhow::Result<SettingsSources> {
        let sections = service.sections()?;
        let mut derived = self.derived.clone();
        // Each service has its own account with least privilege.
        let password = self.keys.password(service.name).display().to_string();
        derived.insert(format!("{PREFIX}{PASSWORD_FILE}"), password);
        if let Some(folder) = &self.nats_passwords {
            let password = folder.join(service.name).display().to_string();
            derived.insert(format!("{PREFIX}BUS__USER"), service.name.to_owned());
            derived.insert(format!("{PREFIX}BUS__PASSWORD_FILE"), password);
        }
        let of_service = |variables: &BTreeMap<String, String>| {
            let own = variables
                .iter()
                .filter(|(name, _)| sections.contains(&section(name)));
            own.map(|(name, value)| (name.clone(), value.clone()))
                .collect::<Vec<_>>()
        };
        Ok(SettingsSources::default()
            .with_variables(of_service(&self.custom))
            .with_variables(of_service(&derived)))
    }
}

impl Service {
    fn sections(&self) -> anyhow::Result<BTreeSet<String>> {
        let defaults: toml::Table = self
            .defaults
            .parse()
            .with_context(|| format!("the defaults of the {} are invalid", self.name))?;
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
    use crate::endpoints::{DEFAULT_NATS_URL, NatsEndpoint};

    fn check(variables: &[(&str, &str)]) -> Result<(), String> {
        let environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let endpoints = Endpoints {
            pid: 0,
            nats: NatsEndpoint {
                url: DEFAULT_NATS_URL.to_owned(),
                ..Default::default()
            },
            registry: "http://127.0.0.1:5000".to_owned(),
            tokens: "http://127.0.0.1:8481".to_owned(),
            api: "http://127.0.0.1:8480".to_owned(),
            api_token_file: "keys/api-token".into(),
            health: String::new(),
        };
        let stack = StackSettings {
            endpoints: &endpoints,
            keys: &KeyFolder::at("keys".into()),
            secrets: Path::new("secrets"),
            trivy: Path::new("trivy"),
            trivy_folder: Path::new("cache"),
            public_url: None,
            allow_plain_text: false,
        };
        ServiceSettings::of(environment, &stack)
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
    fn invalid_settings_are_refused_by_name() {
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
