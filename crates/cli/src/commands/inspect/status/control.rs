//! The section for a pause of promotion and deletion, and for the last restore.

use serde_json::{Value, json};
use sluice_events::time_from_wire;
use sluice_events::wire::state::Restored;
use sluice_state::ActivePause;

use crate::output::time;

/// Returns a row for a pause, and one for the last restore.
pub(super) fn rows(pause: Option<&ActivePause>, restored: Option<&Restored>) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    if let Some(pause) = pause {
        let text = format!("promotion and deletion are paused: {}", pause.reason);
        rows.push(vec!["paused".to_owned(), time(pause.since), text]);
    }
    if let Some(restored) = restored {
        let at = time_from_wire(restored.at.as_ref()).map(time);
        let taken = time_from_wire(restored.taken_at.as_ref()).map(time);
        let mut text = format!("from a backup of {}", taken.unwrap_or_default());
        for one in &restored.reconciled {
            let at = time_from_wire(one.at.as_ref())
                .map(time)
                .unwrap_or_default();
            text.push_str(&format!("; {} reconciled {at}", one.stage));
        }
        rows.push(vec!["restored".to_owned(), at.unwrap_or_default(), text]);
    }
    rows
}

/// Returns a pause and the last restore as an object.
pub(super) fn object(pause: Option<&ActivePause>, restored: Option<&Restored>) -> Value {
    let time = |at: Option<&_>| time_from_wire(at).map(|at| at.to_rfc3339());
    json!({
        "paused": pause.map(|pause| json!({ "since": pause.since, "reason": pause.reason })),
        "restored": restored.map(|restored| json!({
            "at": time(restored.at.as_ref()), "takenAt": time(restored.taken_at.as_ref()),
            "reconciled": restored.reconciled.iter()
                .map(|one| json!({ "stage": one.stage, "at": time(one.at.as_ref()) })).collect::<Vec<_>>(),
            "endedAt": time(restored.ended_at.as_ref()),
        })),
    })
}
