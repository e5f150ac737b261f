//! What a registry refuses is remembered, whatever else goes wrong at that moment.

use chrono::{DateTime, TimeDelta, Utc};
use sluice_registry::{BudgetDenial, RequestKind};
use sluice_tests::{BusClient, Nats, wait_for};
use tokio::runtime::Runtime;

fn paused_until(bus: &BusClient, kind: RequestKind) -> Option<DateTime<Utc>> {
    let registry = "registry.example".parse().unwrap();
    let account = bus.state.budgets.account(&registry, "mirror", 0, false);
    match bus.run(async { account.reserve(kind, None).await }) {
        Ok(_) => None,
        Err(BudgetDenial::UsedUp { until, .. }) => Some(until),
        Err(other) => panic!("{other:?}"),
    }
}

fn refuse(bus: &BusClient, kind: RequestKind, until: DateTime<Utc>) {
    let registry = "registry.example".parse().unwrap();
    let account = bus.state.budgets.account(&registry, "mirror", 0, false);
    bus.run(async { account.record_refusal(kind, until).await });
}

fn provisioned() -> (Nats, BusClient, BusClient) {
    let (nats, _) = Runtime::new().unwrap().block_on(crate::provisioned());
    let [one, other] = [(); 2].map(|()| BusClient::connect(&nats.url));
    (nats, one, other)
}

#[test]
fn a_refusal_that_ends_earlier_shortens_none() {
    let (_nats, one, other) = provisioned();
    let hour = sluice_domain::now() + TimeDelta::hours(1);
    for kind in [RequestKind::Pull, RequestKind::Listing, RequestKind::Login] {
        refuse(&one, kind, hour);
        refuse(&other, kind, sluice_domain::now() + TimeDelta::seconds(5));
        for worker in [&one, &other] {
            assert_eq!(paused_until(worker, kind), Some(hour), "{kind:?}");
        }
    }
}

#[test]
fn a_refusal_is_not_lost_with_the_server_away() {
    let (mut nats, one, other) = provisioned();
    nats.kill();
    let hour = sluice_domain::now() + TimeDelta::hours(1);
    refuse(&one, RequestKind::Pull, hour);
    nats.restart();
    wait_for("the connections to be there again", 30, || {
        let listed = |worker: &BusClient| worker.run(worker.state.tags.list("*.*")).is_ok();
        (listed(&one) && listed(&other)).then_some(())
    });
    assert_eq!(paused_until(&one, RequestKind::Pull), Some(hour));
    // Whoever asked has written it down.
    assert_eq!(paused_until(&other, RequestKind::Pull), Some(hour));
}

#[test]
fn a_report_that_is_cut_off_is_an_error() {
    let (_nats, one, _) = provisioned();
    let report = one.run(async {
        let key = one.state.store_report(b"{\"Results\": []}").await.unwrap();
        assert_eq!(one.state.report(&key).await.unwrap(), b"{\"Results\": []}");
        // Another one, as if an object had been mixed up or cut.
        let other = one.state.store_report(b"{\"Results\": [").await.unwrap();
        let reports = one.bus.reports().await.unwrap();
        reports
            .put(&key, reports.get(&other).await.unwrap().into())
            .await
            .unwrap();
        one.state.report(&key).await
    });
    assert!(report.unwrap_err().to_string().contains("damaged"));
}
