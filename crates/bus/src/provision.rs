//! Makes streams, consumers and buckets as the topology says; only `sluice provision` and `up` do this.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, ConsumerErrorKind, RetentionPolicy, Source};
use async_nats::jetstream::{ErrorCode, kv, object_store};

use crate::connect::Bus;
use crate::error::Error;
use crate::topology::{
    AUDIT, BUCKETS, BucketSpec, DEAD_LETTERS, EVENTS, EVENTS_AGE, REPORTS, STAGES, Stage, WORK,
};

/// Consumers hold at most so many messages at once over all replicas.
const MAX_IN_FLIGHT: i64 = 1_000;

/// What may differ from one installation to another.
#[derive(Debug, Clone, Copy)]
pub struct ProvisionOptions {
    /// On how many servers each stream is kept.
    pub replicas: usize,
    /// For how long the same message id is dropped.
    pub duplicate_window: Duration,
    /// After how long without a sign of life work is given to somebody else, if not as each stage has it.
    pub ack_wait: Option<Duration>,
}

impl Default for ProvisionOptions {
    fn default() -> Self {
        Self {
            replicas: 1,
            duplicate_window: Duration::from_secs(2 * 3_600),
            ack_wait: None,
        }
    }
}

/// What provisioning did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It did not exist.
    Created(String),
    /// It was not as this version needs it.
    Updated(String),
}

impl Bus {
    /// Creates what is missing and updates what differs; running it again changes nothing.
    ///
    /// # Errors
    /// A server that refuses, naming the stream, consumer or bucket.
    pub async fn provision(&self, options: ProvisionOptions) -> Result<Vec<Change>, Error> {
        let mut changes = Vec::new();
        for mut config in streams(options) {
            let name = config.name.clone();
            let before = self.stream_config(&name).await?;
            keep_places(&mut config, before.as_ref());
            let after = self
                .server()?
                .create_or_update_stream(config)
                .await
                .map_err(Error::server("provision stream", &name))?;
            changes.extend(changed(name, before.as_ref(), &after.config));
        }
        for spec in BUCKETS {
            let name = format!("KV_{}", spec.name);
            let before = self.stream_config(&name).await?;
            let store = self
                .server()?
                .create_or_update_key_value(bucket(&spec, options))
                .await
                .map_err(Error::server("provision bucket", spec.name))?;
            let after = &store.stream.cached_info().config;
            changes.extend(changed(name, before.as_ref(), after));
        }
        let name = format!("OBJ_{REPORTS}");
        if self.stream_config(&name).await?.is_none() {
            let config = object_store::Config {
                bucket: REPORTS.to_owned(),
                num_replicas: options.replicas,
                ..Default::default()
            };
            self.server()?
                .create_object_store(config)
                .await
                .map_err(Error::server("provision object store", REPORTS))?;
            changes.push(Change::Created(name));
        }
        for stage in STAGES {
            for (stream, filters) in stage.sources() {
                let name = format!("{stream}/{}", stage.name);
                let before = self.consumer_config(stage.name, stream).await?;
                let after = self
                    .server()?
                    .create_consumer_on_stream(consumer(stage, filters, options), stream)
                    .await
                    .map_err(Error::server("provision consumer", &name))?;
                let after = &after.cached_info().config;
                changes.extend(changed(name, before.as_ref(), after));
            }
        }
        Ok(changes)
    }

    /// Reads how a stream is configured, if there is one.
    pub(crate) async fn stream_config(&self, name: &str) -> Result<Option<Config>, Error> {
        let look = async { Ok::<_, Error>(self.server()?.get_stream(name).await) };
        match self.denials.heed(&[name], look).await? {
            Ok(stream) => Ok(Some(stream.cached_info().config.clone())),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(told)
                    if told.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    Ok(None)
                }
                _ => Err(Error::server("look up stream", name)(error)),
            },
        }
    }

    /// Reads how a consumer is configured, if there is one.
    pub(crate) async fn consumer_config(
        &self,
        name: &str,
        stream: &str,
    ) -> Result<Option<async_nats::jetstream::consumer::Config>, Error> {
        let about = format!("{stream}.{name}");
        let look = async {
            let server = self.server()?;
            Ok::<_, Error>(server.get_consumer_from_stream(name, stream).await)
        };
        let found: Result<PullConsumer, _> = self.denials.heed(&[&about], look).await?;
        match found {
            Ok(consumer) => Ok(Some(consumer.cached_info().config.clone())),
            Err(error) => match error.kind() {
                ConsumerErrorKind::JetStream(told)
                    if [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND]
                        .contains(&told.error_code()) =>
                {
                    Ok(None)
                }
                _ => Err(Error::server(
                    "look up consumer",
                    format!("{stream}/{name}"),
                )(error)),
            },
        }
    }
}

/// Where a restored stream goes on in its source stays as it is; without it the server would take everything again.
fn keep_places(config: &mut Config, before: Option<&Config>) {
    let known = before.and_then(|before| before.sources.as_ref());
    for source in config.sources.iter_mut().flatten() {
        let same = |known: &&Source| {
            known.name == source.name && known.filter_subject == source.filter_subject
        };
        let known = known.and_then(|known| known.iter().find(same));
        source.start_sequence = known.and_then(|known| known.start_sequence);
    }
}

/// The server fills in what was left out, so only what it says before and after can be compared.
fn changed<C: PartialEq>(name: String, before: Option<&C>, after: &C) -> Option<Change> {
    match before {
        None => Some(Change::Created(name)),
        Some(before) if before != after => Some(Change::Updated(name)),
        Some(_) => None,
    }
}

pub(crate) fn streams(options: ProvisionOptions) -> Vec<Config> {
    let stream = |name: &str, subjects: &[&str]| Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        num_replicas: options.replicas,
        duplicate_window: options.duplicate_window,
        allow_direct: true,
        ..Default::default()
    };
    let audited = |subject: &str| Source {
        name: EVENTS.to_owned(),
        filter_subject: Some(subject.to_owned()),
        ..Default::default()
    };
    let mut all = vec![
        Config {
            max_age: EVENTS_AGE,
            allow_message_ttl: true,
            ..stream(EVENTS, &["sluice.v1.>"])
        },
        Config {
            retention: RetentionPolicy::WorkQueue,
            ..stream(WORK, &["sluice.do.>"])
        },
        stream(DEAD_LETTERS, &["sluice.dead.>"]),
        Config {
            sources: Some(vec![
                audited("sluice.v1.image.>"),
                audited("sluice.v1.resource.>"),
                audited("sluice.v1.scan.>"),
            ]),
            ..stream(AUDIT, &[])
        },
    ];
    // No age: it would delete the schedules themselves.
    all.extend(STAGES.map(|stage| {
        let mut config = Config {
            retention: RetentionPolicy::WorkQueue,
            allow_message_schedules: true,
            allow_rollup: true,
            ..stream(stage.schedules, stage.due)
        };
        config.subjects.extend(stage.schedule_subjects());
        config
    }));
    all
}

fn bucket(spec: &BucketSpec, options: ProvisionOptions) -> kv::Config {
    kv::Config {
        bucket: spec.name.to_owned(),
        history: spec.history,
        max_age: spec.max_age.unwrap_or_default(),
        limit_markers: spec.markers,
        num_replicas: options.replicas,
        ..Default::default()
    }
}

pub(crate) fn consumer(stage: &Stage, filters: &[&str], options: ProvisionOptions) -> pull::Config {
    pull::Config {
        durable_name: Some(stage.name.to_owned()),
        filter_subjects: filters.iter().map(ToString::to_string).collect(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: options.ack_wait.unwrap_or(stage.ack_wait),
        // The server would only stop delivering; attempts are counted by the loop, which says why it gives up.
        max_deliver: -1,
        max_ack_pending: MAX_IN_FLIGHT,
        ..Default::default()
    }
}
