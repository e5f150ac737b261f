//! The services that run in this process, and where each gets its settings from.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use futures_util::future::LocalBoxFuture;
use sluice_service::{Host, Layers, Problems, Settings};

/// What marks a variable as a setting of a service.
const PREFIX: &str = "SLUICE__";

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

/// In the order in which they are started.
const STAGES: [Stage; 2] = [stage!(sluice_poller), stage!(sluice_mirror_worker)];

/// The settings of every service: those that follow from this process, and those that a person set.
#[derive(Debug)]
pub(crate) struct Variables {
    ours: BTreeMap<String, String>,
    theirs: BTreeMap<String, String>,
}

impl Variables {
    /// Takes a person's settings from the environment, and adds those that follow from this process.
    pub(crate) fn new(ours: &[(&str, String)]) -> Self {
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self::of(environment, ours)
    }

    fn of(
        environment: impl IntoIterator<Item = (String, String)>,
        ours: &[(&str, String)],
    ) -> Self {
        Self {
            ours: ours
                .iter()
                .map(|(key, value)| (format!("{PREFIX}{key}"), value.clone()))
                .collect(),
            theirs: environment
                .into_iter()
                .filter(|(name, _)| name.starts_with(PREFIX))
                .collect(),
        }
    }

    /// Checks the settings of every service.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let mut known = BTreeSet::new();
        for stage in &STAGES {
            known.extend(stage.sections()?);
            (stage.check)(&self.layers(stage)?)?;
        }
        for name in self.theirs.keys() {
            anyhow::ensure!(
                !self.ours.contains_key(name),
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

    /// Starts every service on the host.
    pub(crate) async fn start(&self, host: &Host) -> anyhow::Result<()> {
        for stage in &STAGES {
            (stage.start)(self.layers(stage)?, &host.part(stage.name))
                .await
                .with_context(|| format!("the {} cannot be started", stage.name))?;
        }
        Ok(())
    }

    /// A service refuses settings that it does not know, so each gets those of its own sections.
    fn layers(&self, stage: &Stage) -> anyhow::Result<Layers> {
        let sections = stage.sections()?;
        let of_stage = |variables: &BTreeMap<String, String>| {
            let own = variables
                .iter()
                .filter(|(name, _)| sections.contains(&section(name)));
            own.map(|(name, value)| (name.clone(), value.clone()))
                .collect::<Vec<_>>()
        };
        Ok(Layers::default()
            .variables(of_stage(&self.theirs))
            .variables(of_stage(&self.ours)))
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

    fn check(variables: &[(&str, &str)]) -> Result<(), String> {
        let environment = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let ours = [
            ("BUS__URL", "nats://127.0.0.1:4222".to_owned()),
            ("REGISTRY__URL", "http://127.0.0.1:5000".to_owned()),
        ];
        Variables::of(environment, &ours)
            .check()
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_service_gets_the_settings_of_its_own_sections() {
        check(&[
            ("SLUICE__POLLER__CONCURRENCY", "2"),
            ("SLUICE__MIRROR__CONCURRENCY", "3"),
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
        ] {
            let refused = check(&[(name, value)]).unwrap_err();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
