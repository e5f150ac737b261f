//! Compares what is provisioned with what this version needs, before a stage starts to work.

use std::fmt::Debug;

use async_nats::jetstream::consumer::{Config as ConsumerConfig, IntoConsumerConfig as _};
use async_nats::jetstream::stream::Config as StreamConfig;

use crate::connect::Bus;
use crate::error::Error;
use crate::provision::{ProvisionOptions, consumer, streams};
use crate::topology::{DEAD_LETTERS, EVENTS, PULLS, Stage, WORK};

impl Bus {
    /// Compares the streams and the consumers of a stage with what this version needs.
    ///
    /// What an installation may choose, and what a server fills in, is left alone.
    pub(crate) async fn verify(&self, stage: &Stage) -> Result<(), Error> {
        // No stage works with the audit, nor with the schedules of another.
        let used = [EVENTS, PULLS, WORK, DEAD_LETTERS, stage.schedules];
        let reads_pulls = !stage.pulls.is_empty();
        for needed in streams(ProvisionOptions::default()) {
            let name = needed.name.as_str();
            if !used.contains(&name) || (name == PULLS && !reads_pulls) {
                continue;
            }
            let found = self.stream_config(&needed.name).await?;
            settle(&needed.name, found.map(|found| of_stream(&found, &needed)))?;
        }
        for (stream, filters) in stage.sources() {
            let needed =
                consumer(stage, filters, ProvisionOptions::default()).into_consumer_config();
            let found = self.consumer_config(stage.name, stream).await?;
            let what = format!("{stream}/{}", stage.name);
            settle(&what, found.map(|found| of_consumer(&found, &needed)))?;
        }
        Ok(())
    }
}

fn settle(what: &str, differences: Option<Vec<String>>) -> Result<(), Error> {
    let differences = differences.unwrap_or_else(|| vec!["it does not exist".to_owned()]);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Topology {
        what: what.to_owned(),
        detail: differences.join(", "),
    })
}

fn of_stream(found: &StreamConfig, needed: &StreamConfig) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = Compare(&mut differences);
    compare.both("subjects", &found.subjects, &needed.subjects);
    compare.both("discard", &found.discard, &needed.discard);
    compare.both("max_bytes", &(found.max_bytes > 0), &true);
    compare.both("retention", &found.retention, &needed.retention);
    compare.both("max_age", &found.max_age, &needed.max_age);
    compare.both(
        "allow_msg_ttl",
        &found.allow_message_ttl,
        &needed.allow_message_ttl,
    );
    compare.both(
        "allow_msg_schedules",
        &found.allow_message_schedules,
        &needed.allow_message_schedules,
    );
    compare.both(
        "allow_rollup_hdrs",
        &found.allow_rollup,
        &needed.allow_rollup,
    );
    differences
}

fn of_consumer(found: &ConsumerConfig, needed: &ConsumerConfig) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = Compare(&mut differences);
    compare.both("filter_subjects", &filters(found), &filters(needed));
    compare.both("ack_policy", &found.ack_policy, &needed.ack_policy);
    compare.both("max_deliver", &found.max_deliver, &needed.max_deliver);
    compare.both("backoff", &found.backoff, &needed.backoff);
    compare.both(
        "max_ack_pending",
        &found.max_ack_pending,
        &needed.max_ack_pending,
    );
    differences
}

/// A single filter may be told in either of two places.
fn filters(config: &ConsumerConfig) -> Vec<&str> {
    let one = Some(config.filter_subject.as_str()).filter(|subject| !subject.is_empty());
    let mut all: Vec<&str> = config
        .filter_subjects
        .iter()
        .map(String::as_str)
        .chain(one)
        .collect();
    all.sort_unstable();
    all
}

struct Compare<'a>(&'a mut Vec<String>);

impl Compare<'_> {
    fn both<T: Debug + PartialEq>(&mut self, setting: &str, found: &T, needed: &T) {
        if found != needed {
            self.0
                .push(format!("`{setting}` is {found:?} and must be {needed:?}"));
        }
    }
}
