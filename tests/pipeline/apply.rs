//! Resources: applied whole or not at all.

use std::fs;

use sluice_tests::Stack;

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
    assert_eq!(stack.facts("resource.applied").len(), 1);
    stack.sluice(&["delete", "repository", "hub/*"]);
    assert_eq!(stack.facts("resource.applied").len(), 2);
    assert!(
        !stack
            .try_sluice(&["get", "repository", "hub/*"])
            .status
            .success()
    );
}
