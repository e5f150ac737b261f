//! Generates the lists of events for `sluice-domain`, which cannot depend on `sluice-events`.

use sluice_domain::stages::PULL_SUBJECTS;
use sluice_events::Event;

/// Generates the names of all events, and the subjects of those that are no pulls.
pub(crate) fn generate() -> String {
    let names: Vec<&str> = Event::TYPES.iter().map(|fact| fact.name).collect();
    let mut subjects: Vec<String> = Vec::new();
    for subject in names.iter().filter_map(|name| subject(name)) {
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    subjects.sort_by_key(|subject| subject == "sluice.v1.webhook.>");
    let names = list("EVENTS", &names);
    let subjects = list("EVENT_SUBJECTS", &subjects);
    format!(
        "// Generated from the table of events in `sluice-events`.\n\n\
         /// The names of all events.\n{names}\n\
         /// The subjects of all events but pulls, those about deliveries last; no two streams may share a subject.\n\
         {subjects}"
    )
}

/// Returns the subject of an event, or `None` for a pull: that of all events of its noun, if none of them is a pull.
fn subject(name: &str) -> Option<String> {
    let own = format!("sluice.v1.{name}.>");
    if PULL_SUBJECTS.contains(&own.as_str()) {
        return None;
    }
    let noun = name.split('.').next().unwrap();
    let of_noun = format!("sluice.v1.{noun}.");
    let has_pulls = PULL_SUBJECTS.iter().any(|pull| pull.starts_with(&of_noun));
    Some(if has_pulls { own } else { of_noun + ">" })
}

fn list(name: &str, items: &[impl AsRef<str>]) -> String {
    let count = items.len();
    let items: String = items
        .iter()
        .map(|item| format!("    \"{}\",\n", item.as_ref()))
        .collect();
    format!("pub const {name}: [&str; {count}] = [\n{items}];\n")
}
