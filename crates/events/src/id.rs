//! Ids of events: one occurrence of a fact always has the same id.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use uuid::Uuid;

/// The namespace of Sluice's name-based ids.
const NAMESPACE: Uuid = Uuid::from_u128(0x5d0f_6c9a_3b52_4c1f_9f1e_7a4c_2f8b_61d3);

/// The id of an event, also its deduplication id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct EventId(Uuid);

impl EventId {
    /// Derives the id of a fact from its type, its identity and its occurrence.
    #[must_use]
    pub fn of(type_name: &str, key: &str, occurrence: &str) -> Self {
        Self(Uuid::new_v5(
            &NAMESPACE,
            format!("{type_name}|{key}|{occurrence}").as_bytes(),
        ))
    }

    /// Makes a random id, for commands.
    #[must_use]
    pub fn random() -> Self {
        let simulated = sluice_domain::clock::simulated_chance();
        Self(simulated.map_or_else(Uuid::now_v7, Uuid::from_u128))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_occurrence_has_one_id() {
        let id = EventId::of("t", "k", "1");
        assert_eq!(id, EventId::of("t", "k", "1"));
        assert_ne!(id, EventId::of("t", "k", "2"));
        assert_eq!(id.to_string().parse::<EventId>().unwrap(), id);
    }
}
