//! The sources of settings: embedded defaults, then a file, then `SLUICE__SECTION__KEY` of the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::error::Kind;
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Error, Figment};
use thiserror::Error;

use super::masking::mask;
use super::value_tree::{find, insert, remove};
use super::{BusSettings, RegistrySettings, Settings};

/// The second underscore matters: Kubernetes sets `SLUICE_POLLER_SERVICE_HOST` and the like by itself.
const PREFIX: &str = "SLUICE__";
/// The variable that names the file.
const FILE_VARIABLE: &str = "SLUICE_CONFIG";

/// The sources of the settings of a process, besides the defaults of its service.
#[derive(Debug, Clone, Default)]
pub struct SettingsSources {
    file: Option<PathBuf>,
    variables: BTreeMap<String, String>,
}

/// All problems with the settings of a service.
#[derive(Debug, Error)]
#[error("the settings of sluice-{service} are not valid:\n  {}", list.join("\n  "))]
pub struct SettingsErrors {
    service: &'static str,
    list: Vec<String>,
}

impl SettingsSources {
    /// Returns the sources of this process: a file, by default the one that `SLUICE_CONFIG` names, and the environment.
    pub(crate) fn of_process(file: Option<PathBuf>) -> Self {
        let named = std::env::var_os(FILE_VARIABLE).filter(|name| !name.is_empty());
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self {
            file: file.or_else(|| named.map(PathBuf::from)),
            variables: BTreeMap::new(),
        }
        .with_variables(variables)
    }

    /// Adds a TOML file, which overrides the defaults.
    #[must_use]
    pub fn with_file(mut self, file: PathBuf) -> Self {
        self.file = Some(file);
        self
    }

    /// Adds variables, which override the file; those without the prefix `SLUICE__` are ignored.
    #[must_use]
    pub fn with_variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with(PREFIX));
        self.variables.extend(ours);
        self
    }

    /// Reads the settings of a service.
    ///
    /// # Errors
    /// All problems at once, each with its key, its variable and its source.
    pub fn load<S: Settings>(&self) -> Result<S, SettingsErrors> {
        self.read().map(|(settings, _)| settings)
    }

    /// Reads the settings of a service; returns them with the effective values as TOML, secrets masked.
    pub(crate) fn read<S: Settings>(&self) -> Result<(S, String), SettingsErrors> {
        let mut reader = SourceReader::new(self, S::DEFAULTS);
        let settings = loop {
            match reader.merged().extract::<S>() {
                Ok(settings) => break Some(settings),
                Err(error) if reader.drop_invalid(&error) => {}
                Err(_) => break None,
            }
        };
        let found = settings.iter().flat_map(S::problems);
        let found: Vec<_> = found.chain(reader.plain_text_problems()).collect();
        reader
            .problems
            .extend(found.iter().map(|problem| with_variable(problem)));
        match (settings, reader.effective()) {
            (Some(settings), Some(effective)) if reader.problems.is_empty() => {
                Ok((settings, effective))
            }
            _ => Err(SettingsErrors {
                service: S::NAME,
                list: reader.problems,
            }),
        }
    }
}

/// The values of the sources; an invalid value is reported and removed, so that the next one is found too.
struct SourceReader<'a> {
    sources: &'a SettingsSources,
    defaults: Dict,
    file: Dict,
    variables: Dict,
    problems: Vec<String>,
}

impl<'a> SourceReader<'a> {
    fn new(sources: &'a SettingsSources, defaults: &str) -> Self {
        let mut problems = Vec::new();
        let mut parsed = |place: &str, text: &str| {
            let dict = Figment::from(Toml::string(text)).extract::<Dict>();
            dict.unwrap_or_else(|error| {
                let message = error.to_string().replace('\n', "\n  ");
                problems.push(format!("{place}: {message}"));
                Dict::new()
            })
        };
        let defaults = parsed("the defaults", defaults);
        let mut file = Dict::new();
        if let Some(path) = &sources.file {
            let place = format!("`{}`", path.display());
            match std::fs::read_to_string(path) {
                Ok(text) => file = parsed(&place, &text),
                Err(error) => problems.push(format!("{place}: cannot be read: {error}")),
            }
        }
        let mut variables = Dict::new();
        for (name, text) in &sources.variables {
            let key = name
                .strip_prefix(PREFIX)
                .unwrap_or(name)
                .to_ascii_lowercase();
            insert(&mut variables, &key.split("__").collect::<Vec<_>>(), text);
        }
        Self {
            sources,
            defaults,
            file,
            variables,
            problems,
        }
    }

    fn merged(&self) -> Figment {
        Figment::from(Serialized::defaults(&self.defaults))
            .merge(Serialized::defaults(&self.file))
            .merge(Serialized::defaults(&self.variables))
    }

    /// Reports an invalid value and removes it; says whether there was one to remove.
    fn drop_invalid(&mut self, error: &Error) -> bool {
        let mut path = error.path.clone();
        if let Kind::MissingField(field) = &error.kind {
            path.push(field.clone().into_owned());
        }
        let variable = variable_name(&path);
        if self.read_as_text(&path, &variable, &error.kind) {
            return true;
        }
        let (place, removed) = if remove(&mut self.variables, &path) {
            (" in the environment".to_owned(), true)
        } else if remove(&mut self.file, &path) {
            let file = self.sources.file.as_deref().unwrap_or("".as_ref());
            (format!(" in `{}`", file.display()), true)
        } else {
            (String::new(), false)
        };
        let reason = match &error.kind {
            Kind::UnknownField(_, known) => {
                format!("is unknown; known here are `{}`", known.join("`, `"))
            }
            Kind::MissingField(_) => "is not set".to_owned(),
            kind => kind.to_string(),
        };
        let key = path.join(".");
        self.problems
            .push(format!("`{key}` ({variable}){place}: {reason}"));
        removed
    }

    /// Reads a variable that looks like a number as text if a text is needed, as for an account named `007`.
    fn read_as_text(&mut self, path: &[String], variable: &str, kind: &Kind) -> bool {
        let Some(text) = self.sources.variables.get(variable) else {
            return false;
        };
        match find(&mut self.variables, path) {
            Some(value) if matches!(kind, Kind::InvalidType(..)) && value.as_str().is_none() => {
                *value = Value::from(text.as_str());
                true
            }
            _ => false,
        }
    }

    /// Returns the problems of the common sections with plain text.
    fn plain_text_problems(&self) -> impl Iterator<Item = String> + use<> {
        let merged = self.merged();
        let bus = merged.extract_inner::<BusSettings>("bus").ok();
        let registry = merged.extract_inner::<RegistrySettings>("registry").ok();
        let bus = bus.and_then(|bus| bus.problem());
        let registry = registry.and_then(|registry| registry.plain_text_problem());
        bus.into_iter().chain(registry)
    }

    /// Returns the effective values as TOML, secrets masked.
    fn effective(&mut self) -> Option<String> {
        let merged = self.merged().extract::<Dict>().map(|mut dict| {
            mask(&mut dict);
            dict
        });
        let text = merged
            .map_err(|error| error.to_string())
            .and_then(|dict| toml::to_string(&dict).map_err(|error| error.to_string()));
        match text {
            Ok(text) => Some(text),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }
}

fn variable_name(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_ascii_uppercase())
}

/// Adds the variable to the key with which a problem begins.
fn with_variable(problem: &str) -> String {
    let parts = problem
        .strip_prefix('`')
        .and_then(|rest| rest.split_once('`'));
    let Some((key, rest)) = parts else {
        return problem.to_owned();
    };
    let path: Vec<_> = key.split('.').map(str::to_owned).collect();
    format!("`{key}` ({}){rest}", variable_name(&path))
}

#[cfg(test)]
mod tests;
