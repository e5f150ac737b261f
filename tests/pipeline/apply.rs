//! Resources: applied whole or not at all.

use std::fs;

use sluice_tests::{Stack, wait_for};

const GOOD: &str = "kind: Repository\nname: hub/*\nkeep: 3\n";

#[test]
fn nothing_of_a_wrong_file_is_applied() {
    let stack = Stack::start(7_200);
    for (wrong, line, told) in [
        (
            "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\nevry: 1h\n",
            9,
            "evry",
        ),
        (
            "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\ntags: { semver: '>=>1' }\n",
            9,
            "version range",
        ),
        ("kind: Mirrr\nname: a\n", 5, "this version knows"),
        (
            "kind: Mirror\nname: a\nfrom: alpine\nto: hub/a\n",
            7,
            "docker.io/library/alpine",
        ),
        (
            "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\ntags:\n\tsemver: '1'\n",
            10,
            "indent with spaces",
        ),
        (
            "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: 'hub/a\n",
            8,
            "write the closing quote",
        ),
    ] {
        let file = stack.folder().join("wrong.yaml");
        fs::write(&file, format!("{GOOD}---\n{wrong}")).unwrap();
        let output = stack.try_sluice(&["apply", "-f", file.to_str().unwrap()]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(complaint.contains("wrong.yaml"), "{complaint}");
        assert!(complaint.contains(&format!("line {line}:")), "{complaint}");
        assert!(complaint.contains(told), "{complaint}");
        assert_eq!(
            stack.sluice(&["get", "repositories", "-o", "json"]).trim(),
            "[]",
            "the good half was applied"
        );
    }
}

#[test]
fn what_get_shows_as_yaml_can_be_applied() {
    let stack = Stack::start(7_200);
    let policy = "kind: PromotionPolicy\nname: p\nfrom: hub/*\nto: official/{name}\nwhen: scan.critical == 0\nsoak: 1h\n";
    let other = "kind: PromotionPolicy\nname: q\nfrom: hub/*\nto: other/{name}\nwhen: 'true'\n";
    let settings = "kind: Repository\nname: hub/*\nkeep: { newest: 3, by: pushed }\n";
    stack.apply(&format!("{policy}---\n{other}---\n{settings}"));
    for kind in ["promotionpolicies", "repositories"] {
        let shown = stack.sluice(&["get", kind, "-o", "yaml"]);
        let file = stack.folder().join("shown.yaml");
        fs::write(&file, &shown).unwrap();
        let told = stack.sluice(&["apply", "-f", file.to_str().unwrap()]);
        assert!(!told.is_empty(), "{shown}");
        assert!(
            told.lines().all(|line| line.ends_with("unchanged")),
            "{told}{shown}"
        );
    }
}

#[test]
fn a_removal_never_takes_a_newer_apply_with_it() {
    let stack = Stack::start(7_200);
    let bus = stack.bus();
    stack.apply(GOOD);
    let resources = &bus.state.resources;
    let seen = bus.run(resources.list(">")).unwrap().remove(0);
    stack.apply(&GOOD.replace("keep: 3", "keep: 4"));
    let removed = bus.run(resources.delete_at(&seen.key, seen.revision));
    assert!(removed.unwrap_err().is_conflict());
    let shown = stack.sluice(&["get", "repositories", "-o", "json"]);
    assert!(shown.contains("\"keep\": 4"), "{shown}");
}

#[test]
fn what_is_applied_before_is_checked_with_what_is_applied_now() {
    let stack = Stack::start(7_200);
    stack.apply("kind: PromotionPolicy\nname: p\nfrom: hub/*\nto: official/{name}\nwhen: 'true'\n");
    for (wrong, told) in [
        (
            "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: official/a\n",
            "keep mirrors and targets apart",
        ),
        (
            "kind: Repository\nname: official/*\nkeep: 5\n",
            "where only the promoter does",
        ),
    ] {
        let file = stack.folder().join("wrong.yaml");
        fs::write(&file, wrong).unwrap();
        let output = stack.try_sluice(&["apply", "-f", file.to_str().unwrap()]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(complaint.contains(told), "{complaint}");
    }
    assert_eq!(stack.sluice(&["get", "mirrors", "-o", "json"]).trim(), "[]");
}

#[test]
fn a_deleted_mirror_leaves_the_status_and_what_is_wrong_comes_first() {
    let mut stack = Stack::start(7_200);
    let publisher = stack.publisher();
    let image = publisher.image("library/app", "amd64", "one");
    publisher.put("library/app", "1", &image);
    stack.service("poller", &[]);
    stack.service("mirror-worker", &[]);
    let mirror = stack.mirror("app", "library/app", "hub/app", "every: 1h\n");
    stack.apply(&format!("{}{mirror}", stack.upstream_resource()));
    wait_for("the poll to be shown", 30, || {
        (stack.status()["mirrors"][0]["mirror"] == "app").then_some(())
    });
    wait_for("everything to be done", 60, || {
        stack.is_quiet().then_some(())
    });
    stack.sluice(&["delete", "mirror", "app"]);
    assert_eq!(stack.status()["mirrors"], serde_json::json!([]));
    stack.sluice(&["pause", "a rest"]);
    let stopped = stack.status()["stopped"].clone();
    let stopped: Vec<_> = stopped.as_array().unwrap().iter().collect();
    assert!(
        stopped.iter().any(|stage| *stage == "pruner"),
        "{stopped:?}"
    );
    assert!(
        stopped.iter().all(|stage| *stage != "poller"),
        "{stopped:?}"
    );
    let shown = stack.sluice(&["status"]);
    let place = |text: &str| {
        shown
            .find(text)
            .unwrap_or_else(|| panic!("{text}: {shown}"))
    };
    assert!(place("paused") < place("STOPPED") && place("STOPPED") < place("STAGES"));
    stack.sluice(&["resume"]);
}

#[test]
fn a_condition_that_could_never_decide_is_refused_with_its_place() {
    let stack = Stack::start(7_200);
    let policy = "kind: PromotionPolicy\nname: p\nfrom: hub/*\nto: official/{name}\nwhen: ";
    let pruning =
        "kind: PruningPolicy\nname: p\nrepositories: [hub/*]\nschedule: '0 3 * * *'\ndelete: ";
    for (start, condition, told) in [
        (policy, "scan.criticl == 0", "did you mean `critical`"),
        (
            policy,
            "true || scan.criticl == 0",
            "did you mean `critical`",
        ),
        (
            policy,
            "skan.critical == 0",
            "unknown name `skan`, did you mean `scan`",
        ),
        (
            policy,
            "scan.critical == 'none'",
            "int cannot be compared with string",
        ),
        (policy, "scan.critical + 1", "compare it, as in"),
        (
            policy,
            "scan.critical ==",
            "it ends where a value is expected",
        ),
        (
            policy,
            "scan.critical == 0 &&& true",
            "join terms with `&&`",
        ),
        (policy, "allowed(tag)", "unknown function `allowed`"),
        (policy, "''", "leave it out"),
        (pruning, "scan.criticl > 5", "did you mean `critical`"),
    ] {
        let file = stack.folder().join("wrong.yaml");
        fs::write(&file, format!("{GOOD}---\n{start}{condition}\n")).unwrap();
        let output = stack.try_sluice(&["apply", "-f", file.to_str().unwrap()]);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{condition}: {complaint}");
        assert!(complaint.contains("wrong.yaml, line 9: "), "{complaint}");
        assert!(complaint.contains(told), "{complaint}");
        assert_eq!(
            stack.sluice(&["get", "repositories", "-o", "json"]).trim(),
            "[]",
            "the good half was applied"
        );
    }
    stack.apply(&format!("{policy}scan.critical == 0\n"));
}

#[test]
fn an_applied_resource_is_shown_told_and_removed() {
    let stack = Stack::start(7_200);
    stack.apply(GOOD);
    let file = stack.folder().join("resources.yaml");
    let again = stack.sluice(&["apply", "-f", file.to_str().unwrap()]);
    assert!(again.contains("unchanged"), "{again}");
    assert!(
        stack
            .sluice(&["get", "repository", "hub/*"])
            .contains("keep=3")
    );
    assert_eq!(stack.events("resource.applied").len(), 1);
    stack.sluice(&["delete", "repository", "hub/*"]);
    assert_eq!(stack.events("resource.applied").len(), 2);
    assert!(
        !stack
            .try_sluice(&["get", "repository", "hub/*"])
            .status
            .success()
    );
}
