//! Makes streams, consumers and buckets as the topology says; only `sluice provision` and `up` do this.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, RetentionPolicy, Source};
use async_nats::jetstream::{kv, object_store};

use crate::connect::Bus;
use crate::error::Error;
use crate::topology::{
    AUDIT, BUCKETS, DEAD_LETTERS, EVENTS, EVENTS_AGE, REPORTS, SCHEDULES, STAGES, Stage, WORK,
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
}

impl Default for ProvisionOptions {
    fn default() -> Self {
        Self {
            replicas: 1,
            duplicate_window: Duration::from_secs(2 * 3_600),
        }
    }
}

impl Bus {
    /// Creates what is missing and updates what differs; running it again changes nothing.
    ///
    /// # Errors
    /// A server that refuses, naming the stream, consumer or bucket.
    pub async fn provision(&self, options: ProvisionOptions) -> Result<(), Error> {
        for config in streams(options) {
            let name = config.name.clone();
            self.js
                .create_or_update_stream(config)
                .await
                .map_err(Error::server("provision stream", name))?;
        }
        for bucket in BUCKETS {
            let config = kv::Config {
                bucket: bucket.name.to_owned(),
                history: bucket.history,
                max_age: bucket.max_age.unwrap_or_default(),
                num_replicas: options.replicas,
                ..Default::default()
            };
            self.js
                .create_or_update_key_value(config)
                .await
                .map_err(Error::server("provision bucket", bucket.name))?;
        }
        if self.js.get_object_store(REPORTS).await.is_err() {
            let config = object_store::Config {
                bucket: REPORTS.to_owned(),
                num_replicas: options.replicas,
                ..Default::default()
            };
            self.js
                .create_object_store(config)
                .await
                .map_err(Error::server("provision object store", REPORTS))?;
        }
        for stage in STAGES {
            for (stream, filters) in stage.sources() {
                self.js
                    .create_consumer_on_stream(consumer(stage, filters), stream)
                    .await
                    .map_err(Error::server(
                        "provision consumer",
                        format!("{stream}/{}", stage.name),
                    ))?;
            }
        }
        Ok(())
    }

    /// Compares the consumers of a stage with what this version needs.
    pub(crate) async fn verify(&self, stage: &Stage) -> Result<(), Error> {
        for (stream, filters) in stage.sources() {
            let what = format!("{stream}/{}", stage.name);
            let missing = |_| Error::Topology {
                what: what.clone(),
                detail: "it does not exist".to_owned(),
            };
            let found: PullConsumer = self
                .js
                .get_consumer_from_stream(stage.name, stream)
                .await
                .map_err(missing)?;
            let config = &found.cached_info().config;
            let mut subjects = config.filter_subjects.clone();
            subjects
                .extend(Some(config.filter_subject.clone()).filter(|subject| !subject.is_empty()));
            if subjects != filters {
                return Err(Error::Topology {
                    what,
                    detail: format!("it filters {subjects:?}"),
                });
            }
            if config.ack_wait != stage.ack_wait || config.max_deliver != -1 {
                return Err(Error::Topology {
                    what,
                    detail: "`ack_wait` or `max_deliver` differ".to_owned(),
                });
            }
        }
        Ok(())
    }
}

fn streams(options: ProvisionOptions) -> Vec<Config> {
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
    vec![
        Config {
            max_age: EVENTS_AGE,
            allow_message_ttl: true,
            ..stream(EVENTS, &["sluice.v1.>"])
        },
        Config {
            retention: RetentionPolicy::WorkQueue,
            ..stream(WORK, &["sluice.do.>"])
        },
        Config {
            retention: RetentionPolicy::WorkQueue,
            allow_message_schedules: true,
            allow_rollup: true,
            ..stream(SCHEDULES, &["sluice.schedule.>", "sluice.due.>"])
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
    ]
}

fn consumer(stage: &Stage, filters: &[&str]) -> pull::Config {
    pull::Config {
        durable_name: Some(stage.name.to_owned()),
        filter_subjects: filters.iter().map(ToString::to_string).collect(),
        ack_policy: AckPolicy::Explicit,
        ack_wait: stage.ack_wait,
        // The server would only stop delivering; attempts are counted by the loop, which says why it gives up.
        max_deliver: -1,
        max_ack_pending: MAX_IN_FLIGHT,
        ..Default::default()
    }
}
