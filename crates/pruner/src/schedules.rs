//! The schedules of pruning policies: one per policy that is enabled.

use sluice_bus::{Schedule, Timing};
use sluice_events::commands::PruneRepositories;
use sluice_events::subject;
use sluice_policy::cron::to_six_fields;
use sluice_state::{DesiredSchedule, Snapshot};

/// The prefix of the names of the schedules.
pub(crate) const PREFIX: &str = "prune";

/// Returns the schedules of a catalogue. No run starts at once when a policy is applied.
pub(crate) fn desired_schedules(catalog: &Snapshot) -> Vec<DesiredSchedule> {
    let mut all = Vec::new();
    for policy in catalog.pruning.values().filter(|policy| policy.enabled) {
        let cron = match to_six_fields(&policy.schedule) {
            Ok(cron) => cron,
            Err(error) => {
                tracing::error!(policy = %policy.name, %error, "the policy never runs: its schedule is invalid");
                continue;
            }
        };
        let command = PruneRepositories {
            policy: Some(policy.name.clone()),
            repository: None,
        };
        let schedule = Schedule {
            name: format!("{PREFIX}.{}", subject::encode(policy.name.as_str())),
            timing: Timing::Cron(cron),
            command: command.into(),
        };
        all.push(DesiredSchedule {
            schedule,
            at_once: false,
        });
    }
    all
}

#[cfg(test)]
mod tests {
    use sluice_domain::resources::{Resource, parse_documents};

    use super::*;

    #[test]
    fn each_enabled_policy_has_its_schedule() {
        let yaml = "kind: PruningPolicy\nname: nightly\nrepositories: [hub/*]\nschedule: '0 3 * * sun'\ndelete: 'true'\n---\n\
                    kind: PruningPolicy\nname: off\nrepositories: [hub/*]\nschedule: '0 3 * * *'\ndelete: 'true'\nenabled: false\n---\n\
                    kind: PruningPolicy\nname: wrong\nrepositories: [hub/*]\nschedule: sometimes\ndelete: 'true'\n";
        let mut catalog = Snapshot::default();
        for document in parse_documents(yaml).unwrap() {
            if let Resource::PruningPolicy(policy) = document.resource {
                catalog.pruning.insert(policy.name.clone(), policy);
            }
        }
        let all = desired_schedules(&catalog);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].schedule.name, "prune.nightly");
        assert_eq!(
            all[0].schedule.timing,
            Timing::Cron("0 0 3 * * 0".to_owned())
        );
        assert_eq!(all[0].schedule.command.topic(), "prune.nightly");
        assert!(!all[0].at_once);
    }
}
