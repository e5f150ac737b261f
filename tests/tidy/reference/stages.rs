//! `docs/STAGES.md`: what each stage consumes, publishes, reads and writes, from the table of stages.

use std::fmt::Write as _;

use sluice_bus::topology::{STAGES, Stage, sources_of};
use sluice_domain::stages::RegistryAccess;
use sluice_events::Event;

use super::{check, code, table};

const INTRODUCTION: &str = "\
A stage is a service that consumes messages. `crates/domain/src/stages/table.rs` has one row for each; its streams, its
consumers, its permissions at NATS, its access to the internal registry and its place in a backup follow from that row.
Every stage also reads the buckets `resources` and `control`, writes its own entry in `reconciliations`, and writes dead letters.
";

fn codes<'a>(all: impl IntoIterator<Item = &'a str>) -> String {
    let all: Vec<String> = all.into_iter().map(code).collect();
    if all.is_empty() {
        return "nothing".to_owned();
    }
    all.join(", ")
}

fn registry(stage: &Stage) -> String {
    let access = match stage.registry {
        RegistryAccess::None => "no account",
        RegistryAccess::Read => "pulls every repository",
        RegistryAccess::WriteOutsideTargets => {
            "pulls, pushes and deletes outside the targets; nothing in them"
        }
        RegistryAccess::WriteTargets => {
            "pulls every repository, pushes and deletes in the targets only"
        }
    };
    let lists = if stage.lists_repositories {
        "; lists the repositories"
    } else {
        ""
    };
    format!("{access}{lists}")
}

fn buckets(stage: &Stage) -> [(&'static str, String); 3] {
    let rights = &stage.rights;
    let read = rights.reads_reports.then_some("reports");
    let written = rights.stores_reports.then_some("reports");
    [
        ("reads", codes(rights.reads.iter().copied().chain(read))),
        ("writes", codes(rights.written_buckets().chain(written))),
        (
            "removes old entries of",
            codes(rights.purges.iter().copied()),
        ),
    ]
}

/// Returns what the stage reads besides its own messages and buckets.
fn other_reads(stage: &Stage) -> String {
    let rights = &stage.rights;
    let last = codes(rights.reads_last_events.iter().copied());
    let all = [
        (rights.reads_events, "all events".to_owned()),
        (rights.reads_backlog, "its pending events".to_owned()),
        (
            !rights.reads_last_events.is_empty(),
            format!("the last {last}"),
        ),
        (
            rights.monitors,
            "dead letters, the backlog of all stages, the usage of streams".to_owned(),
        ),
        (rights.reads_dead_letters, "its dead letters".to_owned()),
        (rights.reads_progress, "progress messages".to_owned()),
    ];
    let read: Vec<String> = all
        .into_iter()
        .filter_map(|(is_read, what)| is_read.then_some(what))
        .collect();
    read.join("; ")
}

#[test]
fn the_page_of_stages_is_up_to_date() {
    let mut text = INTRODUCTION.to_owned();
    for stage in STAGES {
        writeln!(text, "\n## {}\n", stage.name).unwrap();
        let mut rows: Vec<(String, String)> = sources_of(stage)
            .into_iter()
            .map(|(stream, filters)| {
                let what = format!("consumes from {}", code(stream));
                (what, codes(filters.iter().copied()))
            })
            .collect();
        let published = Event::TYPES
            .iter()
            .filter(|one| one.publisher == stage.name);
        rows.push(("publishes".to_owned(), codes(published.map(|one| one.name))));
        rows.push((
            "queues".to_owned(),
            codes(stage.rights.commands.iter().copied()),
        ));
        let progress = stage.rights.publishes_progress;
        if !progress.is_empty() {
            rows.push((
                "reports progress of".to_owned(),
                codes(progress.iter().copied()),
            ));
        }
        let buckets = buckets(stage).map(|(what, names)| (what.to_owned(), names));
        rows.extend(buckets);
        let others = other_reads(stage);
        if !others.is_empty() {
            rows.push(("also reads".to_owned(), others));
        }
        rows.push(("internal registry".to_owned(), registry(stage)));
        rows.push((
            "a message".to_owned(),
            format!(
                "is delivered again after {} s without an acknowledgement, and is a dead letter after {} attempts",
                stage.ack_wait.as_secs(),
                stage.max_attempts
            ),
        ));
        let rows: Vec<Vec<String>> = rows.into_iter().map(|(what, of)| vec![what, of]).collect();
        text.push_str(&table(&["", ""], &rows));
    }
    check("STAGES.md", "Stages", &text);
}
