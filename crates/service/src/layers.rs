//! Layers of settings: embedded defaults, then a file, then `SLUICE__SECTION__KEY` of the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::error::Kind;
use figment::providers::{Format as _, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Error, Figment};
use thiserror::Error;
use url::Url;

use crate::settings::{BusSettings, RegistrySettings, Settings};

/// The second underscore matters: Kubernetes sets `SLUICE_POLLER_SERVICE_HOST` and the like by itself.
const PREFIX: &str = "SLUICE__";
/// The variable that names the file.
const FILE: &str = "SLUICE_CONFIG";
/// What is shown in place of a secret.
const MASK: &str = "***";

/// Where the settings of a process come from, beside the defaults of its service.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    file: Option<PathBuf>,
    variables: BTreeMap<String, String>,
}

/// Everything that is wrong with the settings of a service.
#[derive(Debug, Error)]
#[error("the settings of sluice-{service} are not valid:\n  {}", list.join("\n  "))]
pub struct Problems {
    service: &'static str,
    list: Vec<String>,
}

impl Layers {
    /// Returns the layers of this process: a file, or the one that `SLUICE_CONFIG` names, and the environment.
    pub(crate) fn of_process(file: Option<PathBuf>) -> Self {
        let named = std::env::var_os(FILE).filter(|name| !name.is_empty());
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self {
            file: file.or_else(|| named.map(PathBuf::from)),
            variables: BTreeMap::new(),
        }
        .variables(variables)
    }

    /// Adds a TOML file over the defaults.
    #[must_use]
    pub fn file(mut self, file: PathBuf) -> Self {
        self.file = Some(file);
        self
    }

    /// Adds variables over the file; those that do not begin with `SLUICE__` have no meaning here.
    #[must_use]
    pub fn variables(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let ours = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with(PREFIX));
        self.variables.extend(ours);
        self
    }

    /// Reads the settings of a service.
    ///
    /// # Errors
    /// All problems at once, each with its key, its variable and where it was set.
    pub fn load<S: Settings>(&self) -> Result<S, Problems> {
        self.read().map(|(settings, _)| settings)
    }

    /// Reads the settings of a service, and tells the values in effect as TOML with secrets masked.
    pub(crate) fn read<S: Settings>(&self) -> Result<(S, String), Problems> {
        let mut reading = Reading::of(self, S::DEFAULTS);
        let settings = loop {
            match reading.merged().extract::<S>() {
                Ok(settings) => break Some(settings),
                Err(error) if reading.drop_invalid(&error) => {}
                Err(_) => break None,
            }
        };
        let found = settings.iter().flat_map(S::problems);
        let found: Vec<_> = found.chain(reading.in_plain_text()).collect();
        reading
            .problems
            .extend(found.iter().map(|problem| named(problem)));
        match (settings, reading.effective()) {
            (Some(settings), Some(effective)) if reading.problems.is_empty() => {
                Ok((settings, effective))
            }
            _ => Err(Problems {
                service: S::NAME,
                list: reading.problems,
            }),
        }
    }
}

/// The layers while they are read; a value that is wrong is told and set aside, so that the next one is seen too.
struct Reading<'a> {
    layers: &'a Layers,
    defaults: Dict,
    file: Dict,
    variables: Dict,
    problems: Vec<String>,
}

impl<'a> Reading<'a> {
    fn of(layers: &'a Layers, defaults: &str) -> Self {
        let mut problems = Vec::new();
        let mut parsed = |place: &str, text: &str| {
            let dict = Figment::from(Toml::string(text)).extract::<Dict>();
            dict.unwrap_or_else(|error| {
                let told = error.to_string().replace('\n', "\n  ");
                problems.push(format!("{place}: {told}"));
                Dict::new()
            })
        };
        let defaults = parsed("the defaults", defaults);
        let mut file = Dict::new();
        if let Some(path) = &layers.file {
            let place = format!("`{}`", path.display());
            match std::fs::read_to_string(path) {
                Ok(text) => file = parsed(&place, &text),
                Err(error) => problems.push(format!("{place}: cannot be read: {error}")),
            }
        }
        let mut variables = Dict::new();
        for (name, text) in &layers.variables {
            let key = name
                .strip_prefix(PREFIX)
                .unwrap_or(name)
                .to_ascii_lowercase();
            insert(&mut variables, &key.split("__").collect::<Vec<_>>(), text);
        }
        Self {
            layers,
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

    /// Tells what is wrong and takes it out; says whether there was something to take out.
    fn drop_invalid(&mut self, error: &Error) -> bool {
        let mut path = error.path.clone();
        if let Kind::MissingField(field) = &error.kind {
            path.push(field.clone().into_owned());
        }
        let variable = variable(&path);
        if self.read_as_text(&path, &variable, &error.kind) {
            return true;
        }
        let (place, taken) = if take(&mut self.variables, &path) {
            (" in the environment".to_owned(), true)
        } else if take(&mut self.file, &path) {
            let file = self.layers.file.as_deref().unwrap_or("".as_ref());
            (format!(" in `{}`", file.display()), true)
        } else {
            (String::new(), false)
        };
        let told = match &error.kind {
            Kind::UnknownField(_, known) => {
                format!("is unknown; known here are `{}`", known.join("`, `"))
            }
            Kind::MissingField(_) => "is not set".to_owned(),
            kind => kind.to_string(),
        };
        let key = path.join(".");
        self.problems
            .push(format!("`{key}` ({variable}){place}: {told}"));
        taken
    }

    /// A variable that looks like a number is one unless a text is wanted, as in an account named `007`.
    fn read_as_text(&mut self, path: &[String], variable: &str, kind: &Kind) -> bool {
        let Some(text) = self.layers.variables.get(variable) else {
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

    /// Returns what would be sent in plain text, in the sections that services have in common.
    fn in_plain_text(&self) -> impl Iterator<Item = String> + use<> {
        let merged = self.merged();
        let bus = merged.extract_inner::<BusSettings>("bus").ok();
        let registry = merged.extract_inner::<RegistrySettings>("registry").ok();
        let bus = bus.and_then(|bus| bus.problem());
        let registry = registry.and_then(|registry| registry.plain_text_problem());
        bus.into_iter().chain(registry)
    }

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

fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").to_ascii_uppercase())
}

/// Names the variable beside the key that a problem begins with.
fn named(problem: &str) -> String {
    let parts = problem
        .strip_prefix('`')
        .and_then(|rest| rest.split_once('`'));
    let Some((key, rest)) = parts else {
        return problem.to_owned();
    };
    let path: Vec<_> = key.split('.').map(str::to_owned).collect();
    format!("`{key}` ({}){rest}", variable(&path))
}

fn insert(dict: &mut Dict, path: &[&str], text: &str) {
    let [first, rest @ ..] = path else {
        return;
    };
    if rest.is_empty() {
        dict.insert((*first).to_owned(), value(text));
        return;
    }
    let inner = dict
        .entry((*first).to_owned())
        .or_insert_with(|| Value::from(Dict::new()));
    if inner.as_dict().is_none() {
        *inner = Value::from(Dict::new());
    }
    if let Value::Dict(_, inner) = inner {
        insert(inner, rest, text);
    }
}

/// Reads numbers, booleans and lists as what they look like; a text stays as it is.
fn value(text: &str) -> Value {
    let Ok(value) = text.parse::<Value>();
    match value {
        Value::Num(..) | Value::Bool(..) | Value::Array(..) | Value::Dict(..) => value,
        _ => Value::from(text),
    }
}

fn find<'d>(dict: &'d mut Dict, path: &[String]) -> Option<&'d mut Value> {
    let (first, rest) = path.split_first()?;
    match dict.get_mut(first)? {
        value if rest.is_empty() => Some(value),
        Value::Dict(_, inner) => find(inner, rest),
        _ => None,
    }
}

/// Removes what is at the path, or the value that ends it early: an error may be inside of a list.
fn take(dict: &mut Dict, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    match dict.get_mut(first) {
        None => false,
        Some(Value::Dict(_, inner)) if !rest.is_empty() => take(inner, rest),
        Some(_) => dict.remove(first).is_some(),
    }
}

/// Secrets are in files; this is for one that was put where it does not belong.
fn mask(dict: &mut Dict) {
    let secret = ["password", "secret", "token", "key"];
    for (key, value) in dict {
        let named = secret.iter().any(|end| key.ends_with(end));
        match value {
            Value::Dict(_, inner) => mask(inner),
            _ if named => *value = Value::from(MASK),
            _ => mask_within(value),
        }
    }
}

fn mask_within(value: &mut Value) {
    match value {
        Value::Dict(_, inner) => mask(inner),
        Value::Array(_, items) => items.iter_mut().for_each(mask_within),
        Value::String(_, text) => {
            if let Ok(mut url) = Url::parse(text)
                && url.password().is_some()
                && url.set_password(Some(MASK)).is_ok()
            {
                *text = url.into();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
