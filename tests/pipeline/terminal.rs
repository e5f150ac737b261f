//! What peers say reaches the terminal of nobody as it is: every command is looked at as the bytes that it writes.

use chrono::Utc;
use serde_json::Value;
use sluice_events::facts::{ImageUnauthorised, TagPushed, UpstreamPollFailed};
use sluice_events::wire::events::Reason;
use sluice_events::wire::state::{Decision, Endpoint, TagEntry, UpstreamPoll, Verdict};
use sluice_state::key;
use sluice_tests::Stack;
use sluice_tests::bus::digest;

/// Moves the cursor, sets the title, hides, reorders, and pretends to be the next line.
const HOSTILE: &str = "\x1b[2J\x1b]0;owned\x07 \u{9b}31m \x08\x7f\r\nerror: all is well\n\u{202e}gpj.exe\u{2066} \
                       \u{200b}\u{feff}\u{2028}\u{2029}\u{e0041}\u{ad}";

/// Fails on anything but text and the breaks between lines.
fn check(command: &[&str], written: &[u8]) {
    let text = std::str::from_utf8(written).unwrap();
    for c in text.chars() {
        let hostile = c.is_control() && c != '\n' || HOSTILE.contains(c) && !c.is_ascii();
        assert!(
            !hostile,
            "{command:?} writes {c:?}:\n{}",
            text.escape_debug()
        );
    }
    for line in text.lines() {
        assert!(
            !line.starts_with("error: all is well"),
            "{command:?}: {text}"
        );
    }
}

/// Stores what a hostile upstream, publisher or endpoint makes services store.
fn plant(stack: &Stack) {
    let client = stack.bus();
    let said = || HOSTILE.to_owned();
    client.publish(
        TagPushed {
            registry: "registry.example".parse().unwrap(),
            repository: "hub/app".parse().unwrap(),
            tag: "1.0".parse().unwrap(),
            digest: digest(1).parse().unwrap(),
            media_type: said(),
            size_bytes: 1,
            actor: said(),
            at: Utc::now(),
        },
        "a",
    );
    client.publish(
        UpstreamPollFailed {
            mirror: "app".parse().unwrap(),
            source: "docker.io/library/app".parse().unwrap(),
            repository: "hub/app".parse().unwrap(),
            reason: said(),
            failures: 3,
        },
        "a",
    );
    client.publish(
        ImageUnauthorised {
            repository: "hub/app".parse().unwrap(),
            tag: Some("1.0".parse().unwrap()),
            digest: digest(1).parse().unwrap(),
            reverted: false,
            reason: said(),
            pushed_by: said(),
            expected: None,
            registry: None,
        },
        "a",
    );
    let (app, tag) = ("hub/app".parse().unwrap(), "1.0".parse().unwrap());
    let state = &client.state;
    client.run(async {
        let poll = UpstreamPoll {
            schema: 1,
            mirror: "app".to_owned(),
            failures: 3,
            reason: said(),
            ..Default::default()
        };
        state
            .polls
            .put(&key::poll(&"app".parse().unwrap()), &poll)
            .await
            .unwrap();
        let entry = TagEntry {
            schema: 1,
            repository: "hub/app".to_owned(),
            tag: "1.0".to_owned(),
            digest: digest(1),
            arrived_by: said(),
            ..Default::default()
        };
        state.tags.put(&key::tag(&app, &tag), &entry).await.unwrap();
        let verdict = Verdict {
            schema: 1,
            digest: digest(1),
            scanner: said(),
            scanner_version: said(),
            database_version: said(),
            reason: said(),
            os: said(),
            ..Default::default()
        };
        let of = digest(1).parse().unwrap();
        state
            .verdicts
            .put(&key::verdict(&of), &verdict)
            .await
            .unwrap();
        let decision = Decision {
            schema: 1,
            policy: "clean".to_owned(),
            repository: "hub/app".to_owned(),
            tag: "1.0".to_owned(),
            digest: digest(1),
            target: "official/app".to_owned(),
            target_tag: "1.0".to_owned(),
            reasons: vec![Reason {
                rule: said(),
                detail: said(),
                ..Default::default()
            }],
            flagged: said(),
            ..Default::default()
        };
        let at = key::decision(&"clean".parse().unwrap(), &app, &tag, &of);
        state.decisions.put(&at, &decision).await.unwrap();
        let endpoint = Endpoint {
            schema: 1,
            name: "hook".to_owned(),
            consecutive_failures: 3,
            last_failure_at: Some(sluice_events::time_to_wire(Utc::now())),
            last_error: said(),
            ..Default::default()
        };
        let hook = key::endpoint(&"hook".parse().unwrap());
        state.endpoints.put(&hook, &endpoint).await.unwrap();
    });
    let percent: String = HOSTILE.bytes().map(|byte| format!("%{byte:02X}")).collect();
    stack.nats.publish_raw(
        "sluice.dead.poller",
        &[
            ("sluice-dead-reason", &percent),
            ("sluice-dead-subject", &percent),
            ("sluice-dead-attempts", "3"),
            ("ce-type", &percent),
        ],
        "x",
    );
}

#[test]
fn nothing_that_peers_say_steers_the_terminal_of_any_command() {
    let mut stack = Stack::start(7_200);
    stack.may_leave_messages();
    stack.apply(
        "kind: Webhook\nname: hook\nurl: https://hooks.example\nevents: ['*']\n---\n\
         kind: Mirror\nname: app\nfrom: docker.io/library/app\nto: hub/app\nenabled: false\n",
    );
    plant(&stack);
    let file = stack.folder().join("hostile.yaml");
    let document = serde_json::json!({ "kind": "Mirror", "name": HOSTILE, HOSTILE: HOSTILE });
    std::fs::write(&file, document.to_string()).unwrap();
    let raw = stack.folder().join("raw.yaml");
    std::fs::write(
        &raw,
        format!("kind: Mirror\nname: '{}'\n", HOSTILE.replace('\n', " ")),
    )
    .unwrap();
    let image = format!("{HOSTILE}/app:1.0");
    let commands: &[&[&str]] = &[
        &["pause", HOSTILE],
        &["status"],
        &["status", "-o", "json"],
        &["status", "-o", "yaml"],
        &["events"],
        &["explain", "hub/app:1.0"],
        &["explain", "hub/app:1.0", "-o", "json"],
        &["explain", "hub/app:1.0", "-o", "yaml"],
        &["dead-letters", "list"],
        &["dead-letters", "list", "-o", "json"],
        &["dead-letters", "list", "-o", "yaml"],
        &["get", "mirrors"],
        &["get", "mirrors", "-o", "yaml"],
        &["apply", "-f", file.to_str().unwrap()],
        &["apply", "-f", raw.to_str().unwrap()],
        &["sync", "-f", file.to_str().unwrap()],
        &["plan", "-f", raw.to_str().unwrap()],
        &["poll", HOSTILE],
        &["scan", &image],
        &["copy", &image, &image],
        &["events", "--subject", "sluice.v1.a\u{202e}b"],
        &["status", "--nats-user", HOSTILE],
        &[HOSTILE],
    ];
    let mut said = 0;
    for command in commands {
        let output = stack.try_sluice(command);
        check(command, &output.stdout);
        check(command, &output.stderr);
        let all = [output.stdout, output.stderr].concat();
        said += usize::from(String::from_utf8(all).unwrap().contains("gpj.exe"));
    }
    // It is shown, only not as it is.
    assert!(said >= 8, "{said} commands say what was planted");
    let status: Value = serde_json::from_str(&stack.sluice(&["status", "-o", "json"])).unwrap();
    assert_eq!(status["mirrors"][0]["reason"], HOSTILE);
    let fact: Value = stack.events("tag.pushed").pop().unwrap();
    assert_eq!(fact["data"]["actor"], HOSTILE);
}
