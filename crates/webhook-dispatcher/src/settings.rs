//! Settings of the webhook dispatcher.

use serde::Deserialize;
use sluice_bus::topology::WEBHOOK_DISPATCHER;
use sluice_service::{BusSettings, HttpSettings, SecretSettings};

/// Settings of the webhook dispatcher; `config.default.toml` documents each.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub(crate) bus: BusSettings,
    pub(crate) secrets: SecretSettings,
    pub(crate) http: HttpSettings,
    pub(crate) webhooks: WebhookSettings,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WebhookSettings {
    pub(crate) concurrency: usize,
    pub(crate) per_endpoint: usize,
    pub(crate) timeout_seconds: u64,
    pub(crate) attempts: u32,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "webhook-dispatcher";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let webhooks = &self.webhooks;
        let mut problems = Vec::new();
        if !(1..=256).contains(&webhooks.concurrency) {
            problems.push("`webhooks.concurrency` must be 1 to 256".to_owned());
        }
        if !(1..=webhooks.concurrency).contains(&webhooks.per_endpoint) {
            problems.push("`webhooks.per_endpoint` must be 1 to `webhooks.concurrency`".to_owned());
        }
        if !(1..=120).contains(&webhooks.timeout_seconds) {
            problems.push("`webhooks.timeout_seconds` must be 1 to 120".to_owned());
        }
        let most = WEBHOOK_DISPATCHER.max_attempts;
        if !(1..=most).contains(&webhooks.attempts) {
            problems.push(format!("`webhooks.attempts` must be 1 to {most}"));
        }
        problems
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
