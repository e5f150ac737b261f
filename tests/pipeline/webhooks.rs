//! Events reach the endpoints that want them: signed, once each, and nowhere that they must not go.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use sluice_bus::topology;
use sluice_tests::bus::{promoted, scan_failed};
use sluice_tests::endpoint::{Endpoint, webhook};
use sluice_tests::{Stack, pass, put_secret, wait_for};
use tokio::time::Instant;

const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

fn dead_letters(stack: &Stack) -> String {
    stack.sluice(&["dead-letters", "list"])
}

#[test]
fn each_event_reaches_each_endpoint_once_although_it_answers_500_twice_first() {
    // A duplicate window of one second leaves the once to the state.
    let mut stack = Stack::start(1);
    let folder = stack.folder().to_owned();
    let twice = ["--fail-first", "2"];
    let (images, all) = (
        Endpoint::own(&folder, "images", OLD, &twice),
        Endpoint::library(&folder, "all", NEW, &twice),
    );
    stack.apply(&format!(
        "{}{}",
        webhook(
            &folder,
            "images",
            &images.url,
            OLD,
            "events: [image.*]\nrepositories: [official/*]\n"
        ),
        // The receiver knows the old secret only, as in the middle of a rotation.
        webhook(
            &folder,
            "all",
            &all.url,
            &format!("{OLD}\n{NEW}\n"),
            "events: ['image.promoted', 'scan.*', 'webhook.*']\n"
        ),
    ));
    for _ in 0..2 {
        stack.service("webhook-dispatcher", &[]);
    }
    let bus = stack.bus();
    let images_of = ["app0", "app1", "app2", "app3"];
    let mut ids = BTreeSet::new();
    for name in images_of {
        ids.insert(bus.publish(promoted(name, "1.0"), "once").id.to_string());
    }
    let scan = bus
        .publish(scan_failed("app9", "1.0"), "once")
        .id
        .to_string();
    wait_for("every delivery to be told", 60, || {
        (stack.events("webhook.delivered").len() == 9).then_some(())
    });
    // The same happenings are told again after the stream has forgotten their ids.
    for name in images_of {
        wait_for("the stream to forget", 10, || {
            let again = bus.publish(promoted(name, "1.0"), "once");
            (!again.duplicate).then_some(())
        });
    }
    wait_for("everything to be done", 30, || {
        stack.is_quiet().then_some(())
    });
    assert_eq!(images.taken().into_keys().collect::<BTreeSet<_>>(), ids);
    ids.insert(scan.clone());
    assert_eq!(all.taken().into_keys().collect::<BTreeSet<_>>(), ids);
    for endpoint in [&images, &all] {
        let taken = endpoint.taken();
        assert!(taken.values().all(|times| *times == 1), "{taken:?}");
        assert_eq!(endpoint.requests().len(), taken.len() * 3);
    }
    let told = stack.events("webhook.delivered");
    assert_eq!(told.len(), 9);
    assert!(told.iter().all(|fact| fact["data"]["attempts"] == 3));
    let requests = all.requests();
    let request = requests
        .iter()
        .find(|request| request["id"] == scan)
        .unwrap();
    let body = &request["body"];
    assert_eq!(
        request["headers"]["content-type"],
        "application/cloudevents+json"
    );
    assert_eq!(body["id"], scan);
    assert_eq!(body["type"], "sluice.events.v1.ScanFailed");
    assert_eq!(body["eventname"], "scan.failed");
    assert_eq!(body["source"], "/sluice/test");
    assert_eq!(body["subject"], "sluice.v1.scan.failed.hub.app9");
    assert_eq!(body["data"]["repository"], "hub/app9");
}

#[test]
fn a_thousand_events_for_an_endpoint_that_hangs_delay_no_other_endpoint() {
    const WAITING: usize = 1_000;
    const DELIVERIES: usize = 24;
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    let folder = stack.folder().to_owned();
    // The kernel takes connections for it, and nobody ever answers.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = format!("http://{}/hook", hung.local_addr().unwrap());
    let healthy = Endpoint::own(&folder, "healthy", OLD, &[]);
    stack.apply(&format!(
        "{}{}",
        webhook(&folder, "hung", &at, OLD, "events: ['scan.failed']\n"),
        webhook(
            &folder,
            "healthy",
            &healthy.url,
            OLD,
            "events: ['image.promoted']\n"
        ),
    ));
    stack.service(
        "webhook-dispatcher",
        &[("SLUICE__WEBHOOKS__TIMEOUT_SECONDS", "4")],
    );
    let bus = stack.bus();
    for number in 0..WAITING {
        bus.publish(scan_failed(&format!("app{number}"), "1.0"), "once");
    }
    let stage = topology::WEBHOOK_DISPATCHER;
    wait_for("all of them to wait for the endpoint", 60, || {
        let status = bus.run(bus.bus.status_of(&stage)).unwrap();
        let (later, taken) = status.iter().fold((0, 0), |(later, taken), one| {
            (later + one.later, taken + one.waiting)
        });
        (taken == 0 && later + 16 >= WAITING as u64).then_some(())
    });
    // Long enough for some that were tried to be tried again, and for those that wait to look for a place again.
    let mut prompt = 0;
    for number in 0..DELIVERIES {
        let began = Instant::now();
        let id = bus
            .publish(promoted(&format!("app{number}"), "1.0"), "once")
            .id;
        wait_for("the other endpoint's delivery", 20, || {
            healthy.taken().contains_key(&id.to_string()).then_some(())
        });
        let took = began.elapsed();
        prompt += usize::from(took < Duration::from_secs(1));
        pass(Duration::from_millis(500).saturating_sub(took));
    }
    // A busy machine may hold up a few.
    assert!(prompt * 4 >= DELIVERIES * 3, "{prompt} of {DELIVERIES}");
}

#[test]
fn an_endpoint_with_a_certificate_of_its_own_making_is_trusted_once_it_is_named() {
    let mut stack = Stack::start(7_200);
    let folder = stack.folder().to_owned();
    let (certificate, key) = (folder.join("hook.pem"), folder.join("hook.key"));
    let made = Command::new("openssl")
        .args("req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=hook -addext subjectAltName=IP:127.0.0.1".split(' '))
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let files = [&certificate, &key].map(|file| file.to_str().unwrap());
    let tls = ["--certificate", files[0], "--key", files[1]];
    let endpoint = Endpoint::own(&folder, "hook", OLD, &tls);
    let events = "events: ['image.*']\n";
    stack.apply(&webhook(&folder, "hook", &endpoint.url, OLD, events));
    stack.service("webhook-dispatcher", &[]);
    let id = stack.bus().publish(promoted("app", "1.0"), "once").id;
    let refused = wait_for("the certificate to be refused", 60, || {
        let health = stack.status()["webhooks"][0].to_string();
        health.contains("certificate").then_some(health)
    });
    assert!(
        refused.contains("name the certificate of the authority in `ca`"),
        "{refused}"
    );
    assert!(endpoint.requests().is_empty());
    // A secret that is none of certificates lets nothing out.
    put_secret(&folder, "hook-ca", "hunter2", None);
    let named = format!("{events}ca: {{ secret: hook-ca }}\n");
    stack.apply(&webhook(&folder, "hook", &endpoint.url, OLD, &named));
    let refused = wait_for("the secret to be refused", 60, || {
        let health = stack.status()["webhooks"][0].to_string();
        health.contains("holds no certificates").then_some(health)
    });
    assert!(!refused.contains("hunter2"), "{refused}");
    let pem = fs::read_to_string(&certificate).unwrap();
    put_secret(&folder, "hook-ca", &pem, None);
    wait_for("the event to be taken", 60, || {
        (endpoint.taken().get(&id.to_string()) == Some(&1)).then_some(())
    });
}

#[test]
fn an_endpoint_with_another_secret_is_retried_and_given_up_with_the_reason() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    let folder = stack.folder().to_owned();
    let endpoint = Endpoint::library(&folder, "hook", NEW, &[]);
    stack.apply(&webhook(
        &folder,
        "hook",
        &endpoint.url,
        OLD,
        "events: ['image.*']\n",
    ));
    stack.service("webhook-dispatcher", &[("SLUICE__WEBHOOKS__ATTEMPTS", "3")]);
    let bus = stack.bus();
    let id = bus.publish(promoted("app", "1.0"), "once").id.to_string();
    let letters = wait_for("the dead letter", 60, || {
        Some(dead_letters(&stack)).filter(|letters| letters.contains("webhook-dispatcher"))
    });
    assert!(
        letters.contains("given up after 3 attempts") && letters.contains("401"),
        "{letters}"
    );
    let statuses: Vec<_> = endpoint
        .requests()
        .iter()
        .map(|r| r["status"].clone())
        .collect();
    assert_eq!(statuses, [401, 401, 401]);
    let failed = stack.events("webhook.failed");
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0]["data"]["attempts"], 3);
    assert_eq!(failed[0]["data"]["status"], 401);
    let entry = bus
        .run(bus.state.deliveries.list(">"))
        .unwrap()
        .remove(0)
        .value;
    assert!(entry.given_up && !entry.delivered);
    assert_eq!((entry.attempt_count, entry.attempts.len()), (3, 3));
    let health = bus
        .run(bus.state.endpoints.get("hook"))
        .unwrap()
        .unwrap()
        .value;
    assert_eq!(health.consecutive_failures, 3);
    assert!(health.last_error.contains("401"), "{}", health.last_error);
    let status = stack.status();
    assert_eq!(status["webhooks"][0]["failing"], true);
    let last = &status["lastDeadLetters"][0];
    assert_eq!(last["stage"], "webhook-dispatcher");
    let shown = stack.sluice(&["status"]);
    assert!(shown.contains("failed 3 times: "), "{shown}");
    assert!(shown.contains("given up after 3 attempts"), "{shown}");
    // Secrets are read when they are used, so that none has to be restarted.
    fs::write(folder.join("secrets/hook"), NEW).unwrap();
    stack.sluice(&["dead-letters", "retry", "--all"]);
    wait_for("the event to be taken", 30, || {
        endpoint.taken().contains_key(&id).then_some(())
    });
    wait_for("the recovery to be noted", 10, || {
        let health = bus
            .run(bus.state.endpoints.get("hook"))
            .unwrap()
            .unwrap()
            .value;
        (health.consecutive_failures == 0 && health.last_success_at.is_some()).then_some(())
    });
    assert_eq!(stack.status()["webhooks"][0]["failing"], false);
    stack.sluice(&["delete", "webhook", "hook"]);
    assert_eq!(stack.status()["webhooks"], serde_json::json!([]));
}

#[test]
fn nothing_goes_out_unsigned_while_the_secret_is_missing() {
    let mut stack = Stack::start(7_200);
    let folder = stack.folder().to_owned();
    let endpoint = Endpoint::own(&folder, "hook", OLD, &[]);
    stack.apply(&webhook(
        &folder,
        "hook",
        &endpoint.url,
        OLD,
        "events: ['image.*']\n",
    ));
    let secret = folder.join("secrets/hook");
    fs::remove_file(&secret).unwrap();
    stack.service("webhook-dispatcher", &[("SLUICE__WEBHOOKS__ATTEMPTS", "1")]);
    let bus = stack.bus();
    let id = bus.publish(promoted("app", "1.0"), "once").id.to_string();
    let health = wait_for("the missing secret to be noted", 30, || {
        bus.run(bus.state.endpoints.get("hook")).unwrap()
    });
    assert!(
        health
            .value
            .last_error
            .contains("no file `hook` in the folder"),
        "{}",
        health.value.last_error
    );
    assert!(endpoint.requests().is_empty());
    fs::write(&secret, OLD).unwrap();
    wait_for("the event to be taken", 60, || {
        endpoint.taken().contains_key(&id).then_some(())
    });
    assert_eq!(endpoint.requests().len(), 1);
}

#[test]
fn redirects_are_not_followed_and_private_addresses_not_spoken_to() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    let folder = stack.folder().to_owned();
    let elsewhere = Endpoint::library(&folder, "elsewhere", OLD, &[]);
    let there = ["--answer", "307", "--location", elsewhere.url.as_str()];
    let redirecting = Endpoint::library(&folder, "redirecting", OLD, &there);
    let by_name = elsewhere.url.replace("127.0.0.1", "localhost");
    stack.apply(&format!(
        "{}---\nkind: Webhook\nname: by-number\nurl: {}\nevents: ['image.*']\n\
         ---\nkind: Webhook\nname: by-name\nurl: {by_name}\nevents: ['image.*']\n",
        webhook(
            &folder,
            "redirected",
            &redirecting.url,
            OLD,
            "events: ['image.*']\n"
        ),
        elsewhere.url,
    ));
    stack.service("webhook-dispatcher", &[("SLUICE__WEBHOOKS__ATTEMPTS", "2")]);
    stack.bus().publish(promoted("app", "1.0"), "once");
    wait_for("all three to be told", 60, || {
        (stack.events("webhook.failed").len() == 3).then_some(())
    });
    let reasons: BTreeMap<String, String> = stack
        .events("webhook.failed")
        .iter()
        .map(|fact| {
            let text = |key: &str| fact["data"][key].as_str().unwrap().to_owned();
            (text("endpoint"), text("reason"))
        })
        .collect();
    assert!(
        reasons["redirected"].contains("redirects are not followed"),
        "{reasons:?}"
    );
    assert!(
        reasons["by-number"].contains("no public address"),
        "{reasons:?}"
    );
    assert!(
        reasons["by-name"].contains("no public address"),
        "{reasons:?}"
    );
    assert_eq!(redirecting.requests().len(), 2);
    assert!(elsewhere.requests().is_empty());
}

#[test]
fn a_killed_dispatcher_loses_no_delivery() {
    let mut stack = Stack::quick(1);
    let folder = stack.folder().to_owned();
    let endpoint = Endpoint::own(&folder, "hook", OLD, &["--fail-first", "1"]);
    stack.apply(&webhook(
        &folder,
        "hook",
        &endpoint.url,
        OLD,
        "events: ['image.*']\n",
    ));
    let first = stack.service("webhook-dispatcher", &[]);
    let bus = stack.bus();
    let ids: BTreeSet<String> = (0..60)
        .map(|number| {
            bus.publish(promoted(&format!("app{number}"), "1.0"), "once")
                .id
                .to_string()
        })
        .collect();
    wait_for("the first to arrive", 30, || {
        (!endpoint.requests().is_empty()).then_some(())
    });
    stack.kill(first);
    let before = endpoint.taken().len();
    assert!(before < ids.len(), "it was killed too late");
    stack.service("webhook-dispatcher", &[]);
    // What the killed one had comes back after `ack_wait`, which is 1 s here.
    wait_for("every event to be taken", 120, || {
        (endpoint.taken().len() == ids.len()).then_some(())
    });
    wait_for("everything to be done", 60, || {
        stack.is_quiet().then_some(())
    });
    let taken = endpoint.taken();
    assert_eq!(taken.keys().cloned().collect::<BTreeSet<_>>(), ids);
    // Only what was under way when it was killed may come again, with the same id.
    let repeated = taken.values().filter(|times| **times > 1).count();
    assert!(repeated <= 4, "{repeated} events came more than once");
    let told: BTreeSet<String> = stack
        .events("webhook.delivered")
        .iter()
        .map(|fact| fact["data"]["eventId"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(told, ids);
}

#[test]
fn an_endpoint_that_never_answers_does_not_keep_events_from_others() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    let folder = stack.folder().to_owned();
    // Connections are accepted by the system, and nobody ever reads from them.
    let dead = TcpListener::bind("127.0.0.1:0").unwrap();
    let dead_url = format!("http://{}/", dead.local_addr().unwrap());
    let endpoint = Endpoint::own(&folder, "alive", OLD, &[]);
    stack.apply(&format!(
        "{}{}",
        webhook(&folder, "a-dead", &dead_url, OLD, "events: ['image.*']\n"),
        webhook(&folder, "alive", &endpoint.url, OLD, "events: ['scan.*']\n"),
    ));
    let settings = [
        ("SLUICE__WEBHOOKS__CONCURRENCY", "4"),
        ("SLUICE__WEBHOOKS__PER_ENDPOINT", "2"),
        ("SLUICE__WEBHOOKS__TIMEOUT_SECONDS", "30"),
    ];
    stack.service("webhook-dispatcher", &settings);
    let bus = stack.bus();
    for number in 0..40 {
        bus.publish(promoted(&format!("app{number}"), "1.0"), "once");
    }
    for number in 0..20 {
        bus.publish(scan_failed(&format!("app{number}"), "1.0"), "once");
    }
    // Had the dead endpoint all four places, each four of its forty events would take half a minute.
    wait_for("the others to be taken", 60, || {
        (endpoint.taken().len() == 20).then_some(())
    });
}

#[test]
fn a_new_webhook_is_not_told_what_was_before_it() {
    let mut stack = Stack::start(7_200);
    let folder = stack.folder().to_owned();
    let endpoint = Endpoint::own(&folder, "hook", OLD, &[]);
    let bus = stack.bus();
    bus.publish(promoted("before", "1.0"), "once");
    let hook = webhook(&folder, "hook", &endpoint.url, OLD, "events: ['image.*']\n");
    stack.apply(&hook);
    let after = bus.publish(promoted("after", "1.0"), "once").id.to_string();
    // A change of the webhook does not make it younger.
    stack.apply(&hook.replace("image.*", "image.promoted"));
    stack.service("webhook-dispatcher", &[]);
    wait_for("the younger event", 30, || {
        (!endpoint.requests().is_empty()).then_some(())
    });
    wait_for("everything to be done", 30, || {
        stack.is_quiet().then_some(())
    });
    assert_eq!(endpoint.taken().into_keys().collect::<Vec<_>>(), [after]);
}

#[test]
fn a_webhook_that_is_switched_off_gets_nothing_more_and_that_is_told() {
    let mut stack = Stack::start(7_200);
    let folder = stack.folder().to_owned();
    let endpoint = Endpoint::library(&folder, "hook", OLD, &["--answer", "500"]);
    let hook = webhook(&folder, "hook", &endpoint.url, OLD, "events: ['image.*']\n");
    stack.apply(&hook);
    stack.service("webhook-dispatcher", &[]);
    stack.bus().publish(promoted("app", "1.0"), "once");
    wait_for("an attempt", 30, || {
        (!endpoint.requests().is_empty()).then_some(())
    });
    stack.apply(&format!("{hook}enabled: false\n"));
    let failed = wait_for("the end to be told", 30, || {
        stack.events("webhook.failed").pop()
    });
    let reason = failed["data"]["reason"].as_str().unwrap();
    assert!(reason.contains("disabled"), "{reason}");
    let requests = endpoint.requests().len();
    stack.bus().publish(promoted("app", "1.1"), "once");
    wait_for("everything to be done", 30, || {
        stack.is_quiet().then_some(())
    });
    assert_eq!(endpoint.requests().len(), requests);
}
