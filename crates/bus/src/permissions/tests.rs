//! The table is complete, and says of each thing who alone does it.

use std::collections::BTreeMap;

use sluice_events::Event;

use super::*;

#[test]
fn each_fact_has_exactly_one_publisher() {
    for (_, fact) in Event::TYPES {
        let publishers: Vec<_> = SERVICES
            .iter()
            .filter(|service| service.facts.contains(fact))
            .map(|service| service.name)
            .collect();
        assert_eq!(publishers.len(), 1, "{fact} is published by {publishers:?}");
        let subject = format!("sluice.v1.{fact}.hub.a");
        let may: Vec<_> = services()
            .iter()
            .filter(|rights| {
                rights
                    .publish
                    .iter()
                    .any(|grant| covers(&grant.subject, &subject))
            })
            .map(|rights| rights.user)
            .collect();
        assert_eq!(may, publishers, "{fact}");
    }
    let known = |fact: &str| Event::TYPES.iter().any(|(_, name)| *name == fact);
    for service in &SERVICES {
        assert!(
            service.facts.iter().all(|fact| known(fact)),
            "{}",
            service.name
        );
    }
}

#[test]
fn only_the_buckets_of_the_tag_operation_descriptions_and_budgets_have_several_writers() {
    let mut writers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for service in &SERVICES {
        for bucket in service.writes() {
            writers.entry(bucket).or_default().push(service.name);
        }
    }
    for (bucket, writers) in &writers {
        let shared = TAG_OPERATION.contains(bucket) || ["budgets", "images"].contains(bucket);
        assert!(shared || writers.len() == 1, "{bucket}: {writers:?}");
    }
}

#[test]
fn every_stage_has_a_row_that_names_it() {
    for stage in STAGES {
        let row = SERVICES.iter().find(|service| service.name == stage.name);
        assert_eq!(row.unwrap().stage.unwrap().name, stage.name);
    }
}

#[test]
fn a_message_matches_one_grant_of_its_publisher_at_most() {
    for rights in services() {
        for grant in &rights.publish {
            let covered = rights
                .publish
                .iter()
                .filter(|other| covers(&other.subject, &grant.subject));
            assert_eq!(covered.count(), 1, "{}: {}", rights.user, grant.subject);
        }
    }
}

#[test]
fn no_service_may_empty_or_change_a_stream_that_it_shares() {
    for rights in services() {
        for grant in &rights.publish {
            let Some(request) = grant.subject.strip_prefix(API) else {
                continue;
            };
            let own =
                |stage: &Stage| stage.name == rights.user && request.ends_with(stage.schedules);
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
            let reports = rights.user == "scanner-adapter" && request.ends_with("OBJ_reports");
            // Who has the promoter has the gate; what is forgotten there lets nothing through.
            let forgets = ["decisions", "images", "tags", "upstream", "verdicts"]
                .map(|bucket| format!("STREAM.PURGE.KV_{bucket}"))
                .into_iter()
                .chain(["STREAM.PURGE.OBJ_reports".to_owned()])
                .any(|forgetting| rights.user == "promoter" && request == forgetting);
            assert!(
                !changes || reports || forgets || STAGES.into_iter().any(own),
                "{}: {request}",
                rights.user
            );
            assert!(
                !request.starts_with('*') && !request.starts_with('>'),
                "{request}"
            );
        }
    }
}
