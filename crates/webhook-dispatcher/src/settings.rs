//! Settings of the webhook dispatcher.

use serde::Deserialize;
use sluice_bus::topology::WEBHOOK_DISPATCHER;
use sluice_service::{BusSettings, HttpSettings, SecretSettings, out_of_range};
use sluice_telemetry::context::TraceUrl;

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
    #[serde(default)]
    pub(crate) trace_url: String,
}

impl sluice_service::Settings for Settings {
    const NAME: &'static str = "webhook-dispatcher";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");

    fn problems(&self) -> Vec<String> {
        let webhooks = &self.webhooks;
        let per_endpoint = (!(1..=webhooks.concurrency).contains(&webhooks.per_endpoint))
            .then(|| "`webhooks.per_endpoint` must be 1 to `webhooks.concurrency`".to_owned());
        let trace_url = webhooks.trace_url.parse::<TraceUrl>();
        let max_attempts = WEBHOOK_DISPATCHER.max_attempts;
        [
            out_of_range("webhooks.concurrency", webhooks.concurrency, 1..=256),
            per_endpoint,
            out_of_range(
                "webhooks.timeout_seconds",
                webhooks.timeout_seconds,
                1..=120,
            ),
            out_of_range("webhooks.attempts", webhooks.attempts, 1..=max_attempts),
            trace_url
                .err()
                .map(|error| format!("`webhooks.trace_url`: {error}")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}
