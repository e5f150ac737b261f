//! Webhooks: which events are sent to which endpoint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

pub use crate::events::EVENTS;
use crate::name::ResourceName;
use crate::name::pattern::Pattern;
use crate::name::secret::{Origin, SecretRef};
use crate::resources::condition::enabled;

/// A receiver of events over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Name of the resource.
    pub name: ResourceName,
    /// URL that events are posted to.
    pub url: String,
    /// Patterns of the events to deliver; see [EVENTS.md](EVENTS.md).
    pub events: Vec<Pattern>,
    /// Repositories, as source or target, whose events to deliver; empty for all.
    #[serde(default)]
    pub repositories: Vec<Pattern>,
    /// Format of the body.
    #[serde(default)]
    pub format: Format,
    /// Keys that deliveries are signed with (`whsec_...`), one per line, the newest first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_key: Option<SecretRef>,
    /// Certificate authorities to trust instead of the public ones, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<SecretRef>,
    /// Allow addresses of private networks and of this machine.
    #[serde(default)]
    pub allow_private_addresses: bool,
    /// `false` delivers nothing.
    #[serde(default = "enabled")]
    pub enabled: bool,
}

/// The form of a webhook's body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// CloudEvents 1.0, structured JSON.
    #[default]
    Cloudevents,
}

impl Webhook {
    /// Returns whether this endpoint wants an event of this name about these repositories.
    pub fn wants<'a>(&self, event: &str, mut repositories: impl Iterator<Item = &'a str>) -> bool {
        let about = self.repositories.is_empty()
            || repositories.any(|name| {
                self.repositories
                    .iter()
                    .any(|pattern| pattern.matches(name))
            });
        self.enabled && about && self.events.iter().any(|pattern| pattern.matches(event))
    }

    /// Returns the origin that its events go to, which its signing key is bound to.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        Origin::of_url(&Url::parse(&self.url).ok()?)
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
                    "credentials do not belong in an address; use `signing_key`".to_owned(),
                ));
            }
            Ok(url) if url.scheme() == "http" && self.ca.is_some() => faults.push((
                "ca",
                "without TLS there is no certificate to check; write `https://` in `url`"
                    .to_owned(),
            )),
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
        let unknown = |pattern: &&Pattern| !EVENTS.iter().any(|event| pattern.matches(event));
        if let Some(pattern) = self.events.iter().find(unknown) {
            let events = EVENTS.map(|event| format!("`{event}`")).join(", ");
            faults.push((
                "events",
                format!("no event is called `{pattern}`; there are {events}"),
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use crate::resources::parse_documents;

    #[test]
    fn an_authority_is_named_where_there_is_tls_only() {
        let read = |scheme: &str| {
            parse_documents(&format!(
                "kind: Webhook\nname: a\nurl: {scheme}://hooks.example/x\nevents: ['*']\nca: {{ secret: own }}\n"
            ))
        };
        assert!(read("https").is_ok());
        let problems = read("http").unwrap_err();
        assert_eq!((problems.len(), problems[0].line), (1, 5), "{problems:?}");
    }

    #[test]
    fn an_event_that_does_not_exist_is_refused_with_those_that_do() {
        let read = |events: &str| {
            parse_documents(&format!(
                "kind: Webhook\nname: a\nurl: https://hooks.example/x\nevents: [{events}]\n"
            ))
        };
        for good in ["'*'", "image.*", "'*.failed'", "image.promoted, tag.*"] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in ["image.promotd", "images.*", "image.promoted, scan.done"] {
            let problems = read(bad).unwrap_err();
            assert_eq!((problems.len(), problems[0].line), (1, 4), "{problems:?}");
            assert!(problems[0].message.contains("`image.promoted`"));
        }
    }
}
