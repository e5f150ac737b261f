//! The stages: what each consumes, how often it tries a message before that becomes a dead letter, and all that it may do.
//!
//! One table from which others follow: streams and consumers, the permissions at NATS, the access to the internal registry,
//! the accounts of services, the order of a backup, and `docs/STAGES.md`. A new stage is its crate and its row in the table.

mod stage;
mod table;

pub use self::stage::{DUE, RegistryAccess, Rights, Stage};
pub use self::table::{
    EVENT_SUBJECTS, GATEWAY, MIRROR_WORKER, POLLER, PROMOTER, PRUNER, PULL_SUBJECTS,
    SCANNER_ADAPTER, STAGES, WEBHOOK_DISPATCHER,
};

/// Returns the stage of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Stage> {
    STAGES.into_iter().find(|stage| stage.name == name)
}

/// Returns the stage of a schedule by its name, as in `poll.alpine`, or by a prefix of its name.
#[must_use]
pub fn of_schedule(name: &str) -> Option<&'static Stage> {
    let belongs = |topic: &str| {
        let rest = name.strip_prefix(topic.trim_end_matches(".>"));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    let fires = |stage: &&Stage| stage.scheduled_topics().any(belongs);
    STAGES.into_iter().find(fires)
}

/// Returns the accounts of services at the internal registry, named after the service; these names are reserved.
pub fn service_accounts() -> impl Iterator<Item = &'static str> {
    let with_account = |stage: &&Stage| stage.has_registry_account();
    STAGES.into_iter().filter(with_account).map(|one| one.name)
}

/// Says whether the name is that of a service account rather than of a person or a build system.
#[must_use]
pub fn is_service_account(name: &str) -> bool {
    find(name).is_some_and(Stage::has_registry_account)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_schedule_belongs_to_the_stage_that_it_wakes() {
        for (name, stage) in [
            ("poll.alpine", "poller"),
            ("poll", "poller"),
            ("judge.clean.hub/alpine.1", "promoter"),
            ("prune.nightly", "pruner"),
            ("retry.mirror-worker.EVENTS.7", "mirror-worker"),
            ("retry.webhook-dispatcher", "webhook-dispatcher"),
        ] {
            assert_eq!(of_schedule(name).unwrap().name, stage, "{name}");
        }
        for name in ["", "retry", "polls.a", "reports.a"] {
            assert!(of_schedule(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_services_that_reach_the_registry_have_accounts() {
        let accounts: Vec<_> = service_accounts().collect();
        assert_eq!(
            accounts,
            [
                "mirror-worker",
                "scanner-adapter",
                "promoter",
                "pruner",
                "gateway"
            ]
        );
        assert!(is_service_account("promoter"));
        assert!(!is_service_account("poller") && !is_service_account("ci"));
    }
}
