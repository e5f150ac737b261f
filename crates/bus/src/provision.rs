//! Makes streams, consumers and buckets as the topology says; only `sluice provision` and `up` do this.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, ConsumerErrorKind, Info, RetentionPolicy, Source};
use async_nats::jetstream::{ErrorCode, kv, object_store};

use crate::connect::Bus;
use crate::error::Error;
use crate::limits::{Size, StreamLimits, when_full};
use crate::topology::{
    AUDIT, BACKUP_ORDER, BUCKETS, BucketSpec, DEAD_LETTERS, EVENT_SUBJECTS, EVENTS, EVENTS_AGE,
    PULL_SUBJECTS, PULLS, PULLS_AGE, REPORTS, STAGES, Stage, WORK,
};

/// Consumers hold at most so many messages at once over all replicas.
const MAX_IN_FLIGHT: i64 = 1_000;

/// For how long the same pull is dropped: the registry repeats a notification within seconds.
const PULLS_WINDOW: Duration = Duration::from_secs(120);
/// The stream of the object store.
const OBJECTS: &str = "OBJ_reports";

/// What may differ from one installation to another.
#[derive(Debug, Clone, Copy)]
pub struct ProvisionOptions {
    /// On how many servers each stream is kept.
    pub replicas: usize,
    /// For how long the same message id is dropped.
    pub duplicate_window: Duration,
    /// After how long without a sign of life work is given to somebody else, if not as each stage has it.
    pub ack_wait: Option<Duration>,
    /// How large streams may become.
    pub limits: StreamLimits,
}

impl Default for ProvisionOptions {
    fn default() -> Self {
        Self {
            replicas: 1,
            duplicate_window: Duration::from_secs(2 * 3_600),
            ack_wait: None,
            limits: StreamLimits::default(),
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
        // All limits come first: what one of them is refused for changes nothing.
        let mut limits = BTreeMap::new();
        for name in BACKUP_ORDER {
            limits.insert(name, self.limit(name, options.limits).await?);
        }
        let limit = |name: &str| limits.get(name).copied().unwrap_or(-1);
        for mut config in streams(options) {
            let name = config.name.clone();
            let before = self.stream_config(&name).await?;
            keep_places(&mut config, before.as_ref());
            config.max_bytes = limit(&name);
            let after = self
                .server()?
                .create_or_update_stream(config)
                .await
                .map_err(|error| refused("provision stream", &name, limit(&name), error))?;
            changes.extend(changed(name, before.as_ref(), &after.config));
        }
        for spec in BUCKETS {
            let name = format!("KV_{}", spec.name);
            let before = self.stream_config(&name).await?;
            let config = kv::Config {
                max_bytes: limit(&name),
                ..bucket(&spec, options)
            };
            let store = self
                .server()?
                .create_or_update_key_value(config)
                .await
                .map_err(|error| refused("provision bucket", &name, limit(&name), error))?;
            let after = &store.stream.cached_info().config;
            changes.extend(changed(name, before.as_ref(), after));
        }
        changes.extend(self.provision_reports(options, limit(OBJECTS)).await?);
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

    /// Creates the object store of reports, or gives it its limit.
    async fn provision_reports(
        &self,
        options: ProvisionOptions,
        max_bytes: i64,
    ) -> Result<Option<Change>, Error> {
        let server = self.server()?;
        let Some(before) = self.stream_config(OBJECTS).await? else {
            let config = object_store::Config {
                bucket: REPORTS.to_owned(),
                max_bytes,
                num_replicas: options.replicas,
                ..Default::default()
            };
            server
                .create_object_store(config)
                .await
                .map_err(|error| refused("provision object store", OBJECTS, max_bytes, error))?;
            return Ok(Some(Change::Created(OBJECTS.to_owned())));
        };
        let config = Config {
            max_bytes,
            num_replicas: options.replicas,
            ..before.clone()
        };
        let after = server
            .update_stream(config)
            .await
            .map_err(|error| refused("provision object store", OBJECTS, max_bytes, error))?;
        Ok(changed(OBJECTS.to_owned(), Some(&before), &after.config))
    }

    /// Returns what a stream may take from now on.
    async fn limit(&self, name: &str, limits: StreamLimits) -> Result<i64, Error> {
        let info = self.stream_info(name).await?;
        let (now, held) = info.map_or((None, 0), |info| (limit_of(&info.config), info.state.bytes));
        let bytes = limits.resolve(name, now, held);
        if limits.set_for(name).is_some() && bytes < held {
            return Err(Error::BelowHeld {
                stream: name.to_owned(),
                held_bytes: held,
                size: Size(bytes).to_string(),
            });
        }
        Ok(i64::try_from(bytes).unwrap_or(i64::MAX))
    }

    /// Reads how a stream is configured, if there is one.
    pub(crate) async fn stream_config(&self, name: &str) -> Result<Option<Config>, Error> {
        Ok(self.stream_info(name).await?.map(|info| info.config))
    }

    /// Reads how a stream is configured and what it holds, if there is one.
    pub(crate) async fn stream_info(&self, name: &str) -> Result<Option<Info>, Error> {
        let look = async { Ok::<_, Error>(self.server()?.get_stream(name).await) };
        match self
            .denials
            .fail_on_permission_violation(&[name], look)
            .await?
        {
            Ok(stream) => Ok(Some(stream.cached_info().clone())),
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
        let found: Result<PullConsumer, _> = self
            .denials
            .fail_on_permission_violation(&[&about], look)
            .await?;
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

/// Returns what a stream may take, if that is limited.
pub(crate) fn limit_of(config: &Config) -> Option<u64> {
    u64::try_from(config.max_bytes)
        .ok()
        .filter(|bytes| *bytes > 0)
}

/// Says why a stream was not provisioned; a server without room says so in a number.
fn refused<E>(action: &'static str, stream: &str, max_bytes: i64, error: E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = cause {
        let told = error.to_string();
        if told.contains("insufficient storage resources") || told.contains("10047") {
            return Error::NoRoom {
                stream: stream.to_owned(),
                size: Size(max_bytes.unsigned_abs()).to_string(),
            };
        }
        cause = error.source();
    }
    Error::server(action, stream)(error)
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
        discard: when_full(name),
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
            ..stream(EVENTS, &EVENT_SUBJECTS)
        },
        Config {
            max_age: PULLS_AGE,
            // The ids of a flood are not kept for hours.
            duplicate_window: options.duplicate_window.min(PULLS_WINDOW),
            ..stream(PULLS, &PULL_SUBJECTS)
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
