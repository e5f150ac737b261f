//! Provisioning: creates and updates streams, consumers and buckets; only `sluice provision` and `sluice up` do this.

use std::collections::BTreeMap;

use async_nats::jetstream::stream::{Config, Source};
use async_nats::jetstream::{kv, object_store};
use sluice_service::error_chain;

use super::limits::{ByteSize, StreamLimits, limit_of};
use super::stream_configs::{self, ProvisionOptions};
use crate::connection::Bus;
use crate::error::Error;
use crate::topology::{BUCKETS, REPORTS, REPORTS_STREAM, STAGES, backup_order, sources_of};

/// A change that provisioning made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The stream, bucket or consumer was created.
    Created(String),
    /// The stream, bucket or consumer was updated.
    Updated(String),
}

impl Bus {
    /// Creates what is missing and updates what differs; a second run changes nothing.
    pub async fn provision(&self, options: ProvisionOptions) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        // All limits first: a limit that is rejected must leave everything unchanged.
        let mut limits = BTreeMap::new();
        for name in backup_order() {
            limits.insert(name, self.new_limit(name, options.limits).await?);
        }
        let limit = |name: &str| limits.get(name).copied().unwrap_or(-1);
        for mut config in stream_configs::streams(options) {
            let name = config.name.clone();
            let before = self.stream_config(&name).await?;
            keep_source_positions(&mut config, before.as_ref());
            config.max_bytes = limit(&name);
            let after = self
                .server()?
                .create_or_update_stream(config)
                .await
                .map_err(|error| provision_error("provision stream", &name, limit(&name), error))?;
            changes.extend(changed(name, before.as_ref(), &after.config));
        }
        for spec in BUCKETS {
            let name = spec.stream.to_owned();
            let before = self.stream_config(&name).await?;
            let config = kv::Config {
                max_bytes: limit(&name),
                ..stream_configs::bucket(&spec, options)
            };
            let store = self
                .server()?
                .create_or_update_key_value(config)
                .await
                .map_err(|error| provision_error("provision bucket", &name, limit(&name), error))?;
            let after = &store.stream.cached_info().config;
            changes.extend(changed(name, before.as_ref(), after));
        }
        changes.extend(
            self.provision_reports(options, limit(REPORTS_STREAM))
                .await?,
        );
        for stage in STAGES {
            for (stream, filters) in sources_of(stage) {
                let name = format!("{stream}/{}", stage.name);
                let before = self.consumer_config(stage.name, stream).await?;
                let config = stream_configs::consumer(stage, filters, options);
                let after = self
                    .server()?
                    .create_consumer_on_stream(config, stream)
                    .await
                    .map_err(Error::server("provision consumer", &name))?;
                let after = &after.cached_info().config;
                changes.extend(changed(name, before.as_ref(), after));
            }
        }
        Ok(changes)
    }

    /// Creates the object store of reports, or updates its limit.
    async fn provision_reports(
        &self,
        options: ProvisionOptions,
        max_bytes: i64,
    ) -> Result<Option<Change>, Error> {
        let server = self.server()?;
        let Some(before) = self.stream_config(REPORTS_STREAM).await? else {
            let config = object_store::Config {
                bucket: REPORTS.to_owned(),
                max_bytes,
                num_replicas: options.replicas,
                ..Default::default()
            };
            server.create_object_store(config).await.map_err(|error| {
                provision_error("provision object store", REPORTS_STREAM, max_bytes, error)
            })?;
            return Ok(Some(Change::Created(REPORTS_STREAM.to_owned())));
        };
        let config = Config {
            max_bytes,
            num_replicas: options.replicas,
            ..before.clone()
        };
        let after = server.update_stream(config).await.map_err(|error| {
            provision_error("provision object store", REPORTS_STREAM, max_bytes, error)
        })?;
        Ok(changed(
            REPORTS_STREAM.to_owned(),
            Some(&before),
            &after.config,
        ))
    }

    /// Returns the new limit of a stream.
    async fn new_limit(&self, name: &str, limits: StreamLimits) -> Result<i64, Error> {
        let info = self.stream_info(name).await?;
        let (current, held) =
            info.map_or((None, 0), |info| (limit_of(&info.config), info.state.bytes));
        let bytes = limits.resolve(name, current, held);
        if limits.set_for(name).is_some() && bytes < held {
            return Err(Error::BelowHeld {
                stream: name.to_owned(),
                held_bytes: held,
                size: ByteSize(bytes).to_string(),
            });
        }
        Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
    }
}

/// Makes the error of a stream that was not provisioned; a server without room reports a code only.
fn provision_error<E>(action: &'static str, stream: &str, max_bytes: i64, error: E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let message = error_chain(&error);
    if message.contains("insufficient storage resources") || message.contains("10047") {
        return Error::NoRoom {
            stream: stream.to_owned(),
            size: ByteSize(max_bytes.unsigned_abs()).to_string(),
        };
    }
    Error::server(action, stream)(error)
}

/// Keeps the position of a restored stream in its sources; without it the server would copy the sources again.
fn keep_source_positions(config: &mut Config, before: Option<&Config>) {
    let existing = before.and_then(|before| before.sources.as_ref());
    for source in config.sources.iter_mut().flatten() {
        let is_same = |other: &&Source| {
            other.name == source.name && other.filter_subject == source.filter_subject
        };
        let same = existing.and_then(|existing| existing.iter().find(is_same));
        source.start_sequence = same.and_then(|same| same.start_sequence);
    }
}

/// Compares configurations as the server returns them, because it fills in settings that were left out.
fn changed<C: PartialEq>(name: String, before: Option<&C>, after: &C) -> Option<Change> {
    match before {
        None => Some(Change::Created(name)),
        Some(before) if before != after => Some(Change::Updated(name)),
        Some(_) => None,
    }
}
