//! The traces of the events of an image, with links to them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sluice_bus::Fact;
use sluice_telemetry::context::TraceUrl;

use crate::output::{Section, time_millis};

/// The traces of some events, each with its first event.
pub(super) struct Traces<'a> {
    firsts: Vec<(&'a str, &'a Fact)>,
    url: TraceUrl,
}

impl<'a> Traces<'a> {
    pub(super) fn of(facts: &'a [Fact], url: TraceUrl) -> Self {
        let mut seen = BTreeSet::new();
        let with_id = |fact: &'a Fact| Some((fact.trace_id()?, fact));
        let firsts = facts.iter().filter_map(with_id);
        Self {
            firsts: firsts.filter(|(id, _)| seen.insert(*id)).collect(),
            url,
        }
    }

    /// Returns the link to each trace, or its id where the URL of a trace is not known.
    pub(super) fn section(&self) -> Section {
        let row = |(id, fact): &(&str, &Fact)| {
            let at = fact.at.map(time_millis).unwrap_or_default();
            let first = fact.event.as_ref().map_or("", |event| event.name());
            let link = self.url.link(id);
            vec![
                at,
                first.to_owned(),
                link.unwrap_or_else(|| (*id).to_owned()),
            ]
        };
        Section {
            title: "TRACES",
            header: &["SINCE", "FIRST EVENT", "TRACE"],
            rows: self.firsts.iter().map(row).collect(),
        }
    }

    pub(super) fn json(&self) -> Vec<Value> {
        let trace = |(id, fact): &(&str, &Fact)| {
            let first = fact.event.as_ref().map(|event| event.name());
            json!({ "id": id, "since": fact.at, "firstEvent": first, "url": self.url.link(id) })
        };
        self.firsts.iter().map(trace).collect()
    }
}
