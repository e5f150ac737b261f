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
