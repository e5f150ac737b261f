//! `docs/EVENTS.md` says what the protocol says; `UPDATE=1` rewrites its generated part.

use std::fmt::Write as _;
use std::fs;

use sluice_events::{Event, EventType};

use crate::protocol::{self, messages, root, update};
use crate::samples;

const BEGIN: &str =
    "<!-- begin: written from /proto by `UPDATE=1 cargo test -p sluice-events --test it` -->";
const END: &str = "<!-- end -->";

#[test]
fn the_page_of_events_matches_the_protocol() {
    let path = root().join("docs/EVENTS.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let fresh = format!("{before}{BEGIN}\n\n{}{END}{after}", reference());
    if update() {
        fs::write(&path, &fresh).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == fresh,
        "docs/EVENTS.md is not what the protocol says; run with UPDATE=1"
    );
}

/// Writes what the protocol says of every event and of the types in them.
fn reference() -> String {
    let events = samples::events();
    let mut text = String::from("| event | published by | when |\n| --- | --- | --- |\n");
    let described = messages("facts");
    let all: Vec<_> = described
        .iter()
        .map(|message| {
            let type_name = format!("sluice.events.v1.{}", message.name);
            let mut facts = Event::TYPES.iter();
            let fact = facts.find(|fact| fact.type_name == type_name);
            let row = fact.unwrap_or_else(|| panic!("{type_name} has no row in `events!`"));
            (message, row)
        })
        .collect();
    for (message, fact) in &all {
        let (name, comment) = (fact.name, &message.comment);
        let anchor = name.replace('.', "");
        let publishers = publishers(fact);
        writeln!(text, "| [`{name}`](#{anchor}) | {publishers} | {comment} |").unwrap();
    }
    for (message, fact) in &all {
        let name = fact.name;
        writeln!(text, "\n### `{name}`\n\n{}\n", message.comment).unwrap();
        writeln!(text, "- Type: `{}`", fact.type_name).unwrap();
        let event = events.iter().find(|event| event.name() == name).unwrap();
        writeln!(
            text,
            "- Subject: `sluice.v1.{name}.{}`, as in `{}`",
            fact.tokens,
            event.subject()
        )
        .unwrap();
        writeln!(text, "- Published by: {}", publishers(fact)).unwrap();
        writeln!(
            text,
            "- Example: [{0}.json](../tests/contract/golden/v1/{0}.json)\n",
            message.name
        )
        .unwrap();
        fields(&mut text, message);
    }
    text.push_str("\n### Types in events\n");
    for message in messages("types") {
        writeln!(text, "\n#### `{}`\n\n{}\n", message.name, message.comment).unwrap();
        fields(&mut text, &message);
    }
    text.push('\n');
    text
}

fn fields(text: &mut String, message: &protocol::Message) {
    text.push_str("| field | type | meaning |\n| --- | --- | --- |\n");
    for field in &message.fields {
        writeln!(
            text,
            "| `{}` | {} | {} |",
            field.name, field.kind, field.comment
        )
        .unwrap();
    }
}

/// The service that publishes a fact; `sluice apply` stores resources too.
fn publishers(fact: &EventType) -> String {
    let also = match fact.name {
        "resource.applied" => ", `sluice apply`",
        _ => "",
    };
    format!("`sluice-{}`{also}", fact.publisher)
}
