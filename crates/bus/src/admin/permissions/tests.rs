//! The table is complete, and each fact, bucket and stage has its one service.

use std::collections::BTreeMap;

use sluice_events::Event;

use super::*;

#[test]
fn each_fact_has_exactly_one_publisher() {
    for fact in Event::TYPES {
        let subject = format!("sluice.v1.{}.hub.a", fact.name);
        let may_publish = |permissions: &&Permissions| {
            let mut grants = permissions.publish.iter();
            grants.any(|grant| covers(&grant.subject, &subject))
        };
        let all = services_and_subscribers(&[]);
        let publishers: Vec<_> = all
            .iter()
            .filter(may_publish)
            .map(|one| one.user.as_str())
            .collect();
        assert_eq!(publishers, [fact.publisher], "{}", fact.name);
    }
}

#[test]
fn only_the_buckets_of_tags_images_and_budgets_have_several_writers() {
    let mut writers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for service in all_services() {
        for bucket in service.rights.written_buckets() {
            writers.entry(bucket).or_default().push(service.name);
        }
    }
    for (bucket, writers) in &writers {
        let shared = ["tags", "tombstones", "budgets", "images"].contains(bucket);
        assert!(shared || writers.len() == 1, "{bucket}: {writers:?}");
    }
}

#[test]
fn a_message_matches_one_grant_of_its_publisher_at_most() {
    for permissions in services_and_subscribers(&[]) {
        for grant in &permissions.publish {
            let covered = permissions
                .publish
                .iter()
                .filter(|other| covers(&other.subject, &grant.subject));
            assert_eq!(
                covered.count(),
                1,
                "{}: {}",
                permissions.user,
                grant.subject
            );
        }
    }
}

#[test]
fn no_service_may_empty_or_change_a_stream_that_it_shares() {
    for permissions in services_and_subscribers(&[]) {
        for grant in &permissions.publish {
            let Some(request) = grant.subject.strip_prefix(API) else {
                continue;
            };
            let own = |stage: &Stage| {
                stage.name == permissions.user && request.ends_with(stage.schedules)
            };
            let changes = [
                "CREATE",
                "UPDATE",
                "DELETE",
                "PURGE",
                "RESTORE",
                "SNAPSHOT",
                "MSG.DELETE",
            ]
            .iter()
            .any(|verb| request.starts_with(&format!("STREAM.{verb}")));
            let reports = permissions.user == "scanner-adapter" && request.ends_with("OBJ_reports");
            // Who controls the promoter controls the gate; purging entries there promotes nothing.
            let purges = ["decisions", "images", "tags", "upstream", "verdicts"]
                .map(|bucket| format!("STREAM.PURGE.KV_{bucket}"))
                .into_iter()
                .chain(["STREAM.PURGE.OBJ_reports".to_owned()])
                .any(|purge| permissions.user == "promoter" && request == purge);
            assert!(
                !changes || reports || purges || STAGES.into_iter().any(own),
                "{}: {request}",
                permissions.user
            );
            assert!(
                !request.starts_with('*') && !request.starts_with('>'),
                "{request}"
            );
        }
    }
}
