//! Webhooks: who is told of which events.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use url::Url;

use super::enabled;
use crate::name::{InvalidName, ResourceName};
use crate::pattern::Pattern;

/// A receiver of events over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its name.
    pub name: ResourceName,
    /// Where events are posted.
    pub url: String,
    /// The events, as in `image.promoted`, `tag.*` or `*`.
    pub events: Vec<Pattern>,
    /// The repositories, as source or target; empty for all.
    #[serde(default)]
    pub repositories: Vec<Pattern>,
    /// The form of the body.
    #[serde(default)]
    pub format: Format,
    /// The file with the signing secrets (`whsec_...`), one a line, newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<PathBuf>,
    /// Allows addresses of private networks and of this machine.
    #[serde(default)]
    pub allow_private_addresses: bool,
    /// Off sends nothing.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

/// The form of a webhook's body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum Format {
    /// CloudEvents 1.0, structured JSON.
    #[default]
    Cloudevents,
}

impl TryFrom<String> for Format {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let reason = match text.as_str() {
            "cloudevents" => return Ok(Self::Cloudevents),
            "dtr" | "slack" => "it is not supported yet; write `cloudevents`",
            _ => "this version knows `cloudevents`",
        };
        Err(InvalidName::new("format", &text, reason))
    }
}

impl Webhook {
    /// Says whether this endpoint wants an event of this name about these repositories.
    pub fn wants<'a>(&self, event: &str, mut repositories: impl Iterator<Item = &'a str>) -> bool {
        let about = self.repositories.is_empty()
            || repositories.any(|name| {
                self.repositories
                    .iter()
                    .any(|pattern| pattern.matches(name))
            });
        self.enabled && about && self.events.iter().any(|pattern| pattern.matches(event))
    }

    pub(super) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        match Url::parse(&self.url) {
            Ok(url) if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() => {
                faults.push((
                    "url",
                    "expected an address that starts with `https://` or `http://`".to_owned(),
                ));
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                faults.push((
                    "url",
                    "credentials do not belong in an address; use `secret_file`".to_owned(),
                ));
            }
            Ok(_) => {}
            Err(error) => faults.push((
                "url",
                format!("expected an address, as in `https://hooks.example/x`: {error}"),
            )),
        }
        if self.events.is_empty() {
            faults.push((
                "events",
                "name at least one event, as in `image.promoted`, or `*` for all".to_owned(),
            ));
        }
        faults
    }
}
