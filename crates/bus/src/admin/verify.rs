//! Compares streams and consumers with what this version needs, before a stage starts.

use std::fmt::Debug;

use async_nats::jetstream::consumer::{Config as ConsumerConfig, IntoConsumerConfig as _};
use async_nats::jetstream::stream::Config as StreamConfig;

use super::lookup::filters;
use super::stream_configs::{ProvisionOptions, consumer, streams};
use crate::connection::Bus;
use crate::error::Error;
use crate::topology::{DEAD_LETTERS, EVENTS, PULLS, Stage, WORK, sources_of};

impl Bus {
    /// Compares the streams and the consumers of a stage with what this version needs.
    ///
    /// Settings that differ between installations, and those that the server fills in, are not compared.
    pub(crate) async fn verify(&self, stage: &Stage) -> Result<(), Error> {
        // A stage uses neither the audit nor the schedules of another stage.
        let used = [EVENTS, PULLS, WORK, DEAD_LETTERS, stage.schedules];
        let reads_pulls = !stage.pulls.is_empty();
        for needed in streams(ProvisionOptions::default()) {
            let name = needed.name.as_str();
            if !used.contains(&name) || (name == PULLS && !reads_pulls) {
                continue;
            }
            let found = self.stream_config(&needed.name).await?;
            let differences = found.map(|found| stream_differences(&found, &needed));
            check(&needed.name, differences)?;
        }
        for (stream, filters) in sources_of(stage) {
            let needed =
                consumer(stage, filters, ProvisionOptions::default()).into_consumer_config();
            let found = self.consumer_config(stage.name, stream).await?;
            let what = format!("{stream}/{}", stage.name);
            let differences = found.map(|found| consumer_differences(&found, &needed));
            check(&what, differences)?;
        }
        Ok(())
    }
}

/// Fails if there are differences, or nothing to compare.
fn check(what: &str, differences: Option<Vec<String>>) -> Result<(), Error> {
    let differences = differences.unwrap_or_else(|| vec!["it does not exist".to_owned()]);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::Topology {
        what: what.to_owned(),
        detail: differences.join(", "),
    })
}

fn stream_differences(found: &StreamConfig, needed: &StreamConfig) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = Comparison(&mut differences);
    compare.setting("subjects", &found.subjects, &needed.subjects);
    compare.setting("discard", &found.discard, &needed.discard);
    compare.setting("max_bytes", &(found.max_bytes > 0), &true);
    compare.setting("retention", &found.retention, &needed.retention);
    compare.setting("max_age", &found.max_age, &needed.max_age);
    compare.setting(
        "allow_msg_ttl",
        &found.allow_message_ttl,
        &needed.allow_message_ttl,
    );
    compare.setting(
        "allow_msg_schedules",
        &found.allow_message_schedules,
        &needed.allow_message_schedules,
    );
    compare.setting(
        "allow_rollup_hdrs",
        &found.allow_rollup,
        &needed.allow_rollup,
    );
    differences
}

fn consumer_differences(found: &ConsumerConfig, needed: &ConsumerConfig) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = Comparison(&mut differences);
    compare.setting("filter_subjects", &filters(found), &filters(needed));
    compare.setting("ack_policy", &found.ack_policy, &needed.ack_policy);
    compare.setting("max_deliver", &found.max_deliver, &needed.max_deliver);
    compare.setting("backoff", &found.backoff, &needed.backoff);
    compare.setting(
        "max_ack_pending",
        &found.max_ack_pending,
        &needed.max_ack_pending,
    );
    differences
}

/// Collects the settings that differ.
struct Comparison<'a>(&'a mut Vec<String>);

impl Comparison<'_> {
    fn setting<T: Debug + PartialEq>(&mut self, name: &str, found: &T, needed: &T) {
        if found != needed {
            self.0
                .push(format!("`{name}` is {found:?} and must be {needed:?}"));
        }
    }
}
