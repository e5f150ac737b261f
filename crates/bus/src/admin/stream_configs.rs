//! The configurations of streams, buckets and consumers that this version needs.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::kv;
use async_nats::jetstream::stream::{Config, RetentionPolicy, Source};

use super::limits::{StreamLimits, discard_policy};
use crate::topology::{
    AUDIT, BucketSpec, DEAD_LETTERS, EVENT_SUBJECTS, EVENTS, EVENTS_AGE, PULL_SUBJECTS, PULLS,
    PULLS_AGE, STAGES, Stage, WORK, schedule_subjects_of,
};

/// The most messages of a consumer that are not acknowledged, over all replicas.
pub(crate) const MAX_IN_FLIGHT: i64 = 1_000;

/// The duplicate window of pulls: the registry repeats a notification within seconds.
const PULLS_WINDOW: Duration = Duration::from_secs(120);
/// The settings that may differ from one installation to another.
#[derive(Debug, Clone, Copy)]
pub struct ProvisionOptions {
    /// The number of servers that hold each stream.
    pub replicas: usize,
    /// How long a stream drops duplicates of a message id.
    pub duplicate_window: Duration,
    /// How long the server waits for an acknowledgement, in the place of the value of each stage.
    pub ack_wait: Option<Duration>,
    /// The limits of streams that a person sets.
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

/// Returns the configuration of every stream; sizes are limited by the caller.
pub(crate) fn streams(options: ProvisionOptions) -> Vec<Config> {
    let stream = |name: &str, subjects: &[&str]| Config {
        name: name.to_owned(),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        num_replicas: options.replicas,
        duplicate_window: options.duplicate_window,
        discard: discard_policy(name),
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
            // There are too many pulls to keep their ids for hours.
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
    // No maximum age: it would delete the schedules themselves.
    all.extend(STAGES.map(|stage| {
        let mut config = Config {
            retention: RetentionPolicy::WorkQueue,
            allow_message_schedules: true,
            allow_rollup: true,
            ..stream(stage.schedules, stage.due)
        };
        config.subjects.extend(schedule_subjects_of(stage));
        config
    }));
    all
}

pub(crate) fn bucket(spec: &BucketSpec, options: ProvisionOptions) -> kv::Config {
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
        // At a limit the server only stops delivering; the consume loop counts attempts and writes dead letters.
        max_deliver: -1,
        max_ack_pending: MAX_IN_FLIGHT,
        ..Default::default()
    }
}
