//! Tests of the reader of resource files.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::resources::{EXAMPLES, Recall};

/// The examples of the design, as far as their kinds are supported.
const GOOD: &str = r#"# what a person writes
kind: Registry            # a named remote, with one rotatable credential
name: docker-hub
host: docker.io
username: acme
password: { secret: docker-hub }
reserve: 20               # pulls never spent by background work
---
kind: Mirror
name: alpine
from: docker.io/library/alpine
to: hub/alpine
tags: { semver: ">=3.18", exclude: ["*-rc*", "edge"], newest: 10 }
every: 15m
---
kind: Repository
name: hub/*
visibility: private       # developers cannot pull
scan: on_push             # or manual
keep: 10                  # tag limit; 0 = unlimited
---
kind: PromotionPolicy
name: clean-to-official
from: hub/*
to: official/{name}
tag: "%n"                 # DTR's template keywords
when: scan.critical == 0 && scan.high == 0
soak: 24h                 # age since first seen upstream
require: { platforms: [linux/amd64] }     # must also be present
recall: flag              # or withdraw, or ignore, when it later fails
---
kind: PruningPolicy
name: nightly
repositories: [hub/*]
schedule: "0 3 * * *"
delete: tag.matches("-rc") || scan.critical > 5
---
kind: Webhook
name: slack-images
url: https://hooks.internal/x
events: [image.promoted, scan.failed]
repositories: ["hub/*", "official/*"]     # matches the event's source or target
format: cloudevents
signing_key: { secret: slack-hook }
---
kind: Account
name: ci
password: { secret: ci }
push: ["hub/*"]
"#;

const MIRROR: &str = "kind: Mirror\nname: a\nfrom: docker.io/library/a\nto: hub/a\n";

fn only(text: &str) -> Document {
    let mut documents = parse_documents(text).unwrap();
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn problems_of(text: &str) -> Vec<String> {
    let problems = parse_documents(text).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn every_kind_is_read_and_its_stored_form_read_again() {
    let documents = parse_documents(EXAMPLES).unwrap();
    let mut kinds: Vec<_> = documents
        .iter()
        .map(|document| document.resource.kind())
        .collect();
    kinds.dedup();
    assert_eq!(kinds, Kind::ALL);
    for document in &documents {
        let resource = &document.resource;
        let json = resource.to_json().unwrap();
        let again = Resource::from_json(resource.kind(), &json).unwrap();
        assert_eq!(&again, resource);
        assert_eq!(again.to_json().unwrap(), json);
    }
}

#[test]
fn what_a_policy_accepts_as_uncovered_is_read_strictly() {
    let policy = |more: &str| {
        format!("kind: PromotionPolicy\nname: a\nfrom: hub/*\nto: official/{{name}}\n{more}\n")
    };
    let Resource::PromotionPolicy(read) =
        only(&policy("coverage: { allow: [conda-pkg, fedora] }")).resource
    else {
        panic!("expected a policy");
    };
    let allowed: Vec<_> = read
        .coverage
        .allow
        .iter()
        .map(|kind| kind.as_str())
        .collect();
    assert_eq!(allowed, ["conda-pkg", "fedora"]);
    let Resource::PromotionPolicy(silent) = only(&policy("when: 'true'")).resource else {
        panic!("expected a policy");
    };
    assert!(silent.coverage.is_strict() && silent.unknown.is_none());
    for bad in [
        "coverage: { alow: [conda-pkg] }",
        "coverage: { allow: conda-pkg }",
        "coverage: { allow: ['*'] }",
        "coverage: { allow: [Conda] }",
        "coverage: [conda-pkg]",
        "coverage: none",
        "unknown: maybe",
    ] {
        assert!(!problems_of(&policy(bad)).is_empty(), "{bad}");
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let Resource::Mirror(mirror) = only(MIRROR).resource else {
        panic!("expected a mirror");
    };
    assert_eq!(mirror.every.to_string(), "15m");
    assert!(mirror.enabled);
    let text = "kind: PromotionPolicy\nname: a\nfrom: hub/*\nto: official/{name}\n";
    let Resource::PromotionPolicy(policy) = only(text).resource else {
        panic!("expected a promotion policy");
    };
    assert_eq!((policy.tag.as_str(), policy.recall), ("%n", Recall::Flag));
    let Resource::Repository(settings) = only("kind: Repository\nname: hub/*\n").resource else {
        panic!("expected settings of repositories");
    };
    assert_eq!(
        (settings.visibility, settings.keep, settings.immutable),
        (None, None, None)
    );
}

#[test]
fn texts_that_look_like_numbers_stay_texts() {
    let text = format!("{MIRROR}tags: {{ include: [1.10, 0x1F, yes, 2026-01-01] }}\n");
    let Resource::Mirror(mirror) = only(&text).resource else {
        panic!("expected a mirror");
    };
    let include: Vec<_> = mirror.tags.include.iter().map(|tag| tag.as_str()).collect();
    assert_eq!(include, ["1.10", "0x1F", "yes", "2026-01-01"]);
}

#[test]
fn keys_are_found_with_their_lines() {
    let documents = parse_documents(GOOD).unwrap();
    for (index, key, line) in [
        (0, "kind", 2),
        (0, "reserve", 7),
        (1, "every", 14),
        (1, "newest", 13),
        (3, "when", 27),
        (3, "platforms", 29),
        (4, "delete", 36),
        (4, "absent", 32),
    ] {
        assert_eq!(documents[index].line_of(key), line, "{key}");
    }
    assert_eq!(documents[3].line, 22);
    // A top-level key goes before one of the same name further in.
    let policy = only(
        "kind: PromotionPolicy\nname: a\nrules:\n  - field: tag\n    operator: eq\n    values: ['tag: x']\nfrom: hub/*\nto: x/{name}\ntag: '%n'\n",
    );
    assert_eq!((policy.line_of("tag"), policy.line_of("operator")), (9, 5));
}

#[test]
fn yaml_may_be_written_in_any_of_its_ways() {
    let flow = "{kind: Mirror, name: a, from: docker.io/library/a, to: hub/a}";
    for (text, line) in [
        (MIRROR.to_owned(), 1),
        (flow.to_owned(), 1),
        (format!("--- {flow}"), 1),
        (format!("---\t# first\n{MIRROR}"), 2),
        (
            format!("\n\n# a comment\n---\n\n{MIRROR}---\n---\n# end\n"),
            6,
        ),
        (format!("%YAML 1.2\n---\n{MIRROR}...\n"), 3),
        (format!("\u{feff}{MIRROR}"), 1),
        (MIRROR.replace('\n', "\r\n"), 1),
        (MIRROR.replace("kind", "  kind").replace("\n", "\n  "), 1),
        (MIRROR.replace("kind:", "\"kind\" :"), 1),
        (
            r#"{"name":"a","to":"hub/a","from":"docker.io/library/a","kind":"Mirror"}"#.to_owned(),
            1,
        ),
        (format!("{MIRROR}<<: {{ every: 1h }}\n"), 1),
        (format!("{MIRROR}platforms: all\n"), 1),
    ] {
        let document = only(&text);
        assert_eq!(document.resource.name().as_str(), "a", "{text}");
        assert_eq!(document.line, line, "{text}");
    }
}

/// A replacement in the examples, the line of the problem, and a part of its message.
const MISTAKES: &[(&str, &str, usize, &str)] = &[
    (
        "every: 15m",
        "evry: 15m",
        14,
        "unknown key `evry`, did you mean `every`?; allowed are `name`",
    ),
    (
        "every: 15m",
        "every: 15 minutes",
        14,
        "`every`: `15 minutes` is not a valid duration: expected a number and a unit",
    ),
    (
        "every: 15m",
        "every: 1s",
        14,
        "`every`: the shortest interval",
    ),
    ("every: 15m", "every:", 14, "`every`: the value is missing"),
    (
        "every: 15m",
        "every: [15m]",
        14,
        "`every`: expected one text",
    ),
    (
        "every: 15m",
        "platforms: []",
        14,
        "expected `all`, or a list of platforms",
    ),
    (
        "every: 15m",
        "platforms: linux/amd64",
        14,
        "expected `all`, or a list of platforms",
    ),
    ("newest: 10", "newest: 0", 13, "selects nothing"),
    (
        "newest: 10",
        "newst: 10",
        13,
        "`tags`: unknown key `newst`, did you mean `newest`?",
    ),
    (
        "newest: 10",
        "newest: -1",
        13,
        "`tags`: expected a whole number from 0",
    ),
    (
        "newest: 10",
        "newest: 1, newest: 2",
        13,
        "the key `newest` is written twice",
    ),
    (
        "[\"*-rc*\", \"edge\"]",
        "edge",
        13,
        "`tags`: expected a list",
    ),
    (
        "to: hub/alpine",
        "to: hub/alpine:3",
        12,
        "`hub/alpine:3` is not a valid repository",
    ),
    (
        "from: docker.io/library/alpine",
        "from: alpine",
        11,
        "as in `docker.io/library/alpine`",
    ),
    ("to: hub/alpine\n", "", 9, "the key `to` is missing; add it"),
    ("name: alpine\n", "", 9, "the key `name` is missing; add it"),
    (
        "host: docker.io",
        "host: https://docker.io",
        4,
        "write the host alone",
    ),
    (
        "password: { secret: docker-hub }",
        "pasword: { secret: x }",
        6,
        "did you mean `password`?",
    ),
    ("username: acme\n", "", 5, "`password`: add `username`"),
    (
        "keep: 10 ",
        "keep: ten ",
        20,
        "expected a whole number from 0, or `{ newest: 5",
    ),
    ("keep: 10 ", "keep: 100001 ", 20, "`keep`: at most 100000"),
    (
        "scan: on_push",
        "scan: onpush",
        19,
        "did you mean `on_push`?; allowed are `on_push`, `manual`",
    ),
    (
        "soak: 24h",
        "rules: [{field: a, operator: eq, values: []}]",
        28,
        "not as both",
    ),
    (
        "soak: 24h",
        "enabled: yes",
        28,
        "`enabled`: expected `true` or `false`",
    ),
    (
        "official/{name}\n",
        "official/{nme}\n",
        25,
        "as in `official/{name}`",
    ),
    ("[linux/amd64]", "[linux]", 29, "as in `linux/amd64`"),
    (
        "recall: flag",
        "recall: drop",
        30,
        "allowed are `flag`, `withdraw`, `ignore`",
    ),
    ("[hub/*]\n", "[]\n", 34, "`repositories`: name at least one"),
    (
        "name: nightly",
        "name: nightly\nname: again",
        34,
        "the key `name` is written twice",
    ),
    (
        "format: cloudevents",
        "format: xml",
        43,
        "`format`: `xml` is not known; allowed are `cloudevents`",
    ),
    ("https://hooks", "ftp://hooks", 40, "starts with `https://`"),
    (
        "https://hooks",
        "https://a:b@hooks",
        40,
        "credentials do not belong in an address",
    ),
    (
        "https://hooks.internal/x",
        "/x",
        40,
        "`url`: expected an address",
    ),
    (
        "[image.promoted, scan.failed]",
        "[]",
        41,
        "`events`: name at least one event",
    ),
    (
        "name: ci",
        "name: CI",
        47,
        "`CI` is not a valid account name",
    ),
    ("push: [\"hub/*\"]\n", "", 47, "neither pull nor push"),
    (
        "kind: Webhook",
        "kind: Webhok",
        38,
        "did you mean `Webhook`?",
    ),
    (
        "kind: Webhook",
        "kind: Exception",
        38,
        "it is not supported yet; this version knows",
    ),
    (
        "kind: Webhook",
        "kind: Scanner",
        38,
        "it is not supported yet; this version knows",
    ),
    (
        "kind: Webhook",
        "kind: [Webhook]",
        38,
        "`kind`: expected one text",
    ),
    ("kind: Webhook\n", "", 38, "the document has no `kind`"),
    ("soak: 24h", "soak: *day", 28, "unknown"),
    ("soak: 24h", "soak: \"24h", 28, "unclosed quote"),
    (
        "soak: 24h",
        "...\nsoak: 24h",
        29,
        "put a line `---` before it",
    ),
];

#[test]
fn every_problem_is_reported_with_its_line_in_the_file() {
    for &(good, bad, line, text) in MISTAKES {
        let changed = GOOD.replacen(good, bad, 1);
        assert_ne!(changed, GOOD, "{good}");
        let problems = parse_documents(&changed).unwrap_err();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].line, line, "{bad}: {problems:?}");
        assert!(problems[0].message.contains(text), "{bad}: {problems:?}");
    }
}

#[test]
fn all_problems_of_all_documents_are_reported_at_once() {
    let text = GOOD
        .replace("host: docker.io\n", "")
        .replace("every: 15m", "evry: 15m\non_delete: kep\ntag: {}")
        .replace("keep: 10 ", "kep: 10 ")
        .replace("kind: PruningPolicy", "kind: Pruning");
    let lines: Vec<_> = parse_documents(&text)
        .unwrap_err()
        .iter()
        .map(|problem| problem.line)
        .collect();
    assert_eq!(lines, [2, 13, 14, 15, 21, 33]);
    // A key with a wrong value is not reported as missing too.
    assert_eq!(
        problems_of(&MIRROR.replace("to: hub/a", "to: HUB")).len(),
        1
    );
}

#[test]
fn a_document_that_is_no_mapping_is_refused() {
    for text in ["- kind: Mirror", "words", "~", "[]", "kind"] {
        assert!(
            problems_of(text)[0].contains("line 1: expected keys with values"),
            "{text}"
        );
    }
    assert!(problems_of("{}")[0].contains("no `kind`"));
    for nothing in ["", "\n\n", "# nothing\n", "---\n---\n...\n"] {
        assert!(
            problems_of(nothing)[0].contains("holds no resource"),
            "{nothing:?}"
        );
    }
}

#[test]
fn hostile_documents_are_refused_quickly() {
    let deep = format!("{MIRROR}tags: {}", "[".repeat(100_000));
    let nested = (0..5_000).fold(String::new(), |mut text, depth| {
        writeln!(text, "{}a:", " ".repeat(depth % 200)).unwrap();
        text
    });
    let keys = (0..200_000).fold(String::new(), |mut text, index| {
        writeln!(text, "k{index}: 1").unwrap();
        text
    });
    let mut laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (last, next) in ["ab", "bc", "cd", "de", "ef", "fg", "gh"].map(|pair| pair.split_at(1)) {
        writeln!(
            laughs,
            "{next}: &{next} [{}]",
            vec![format!("*{last}"); 9].join(",")
        )
        .unwrap();
    }
    laughs.push_str(MIRROR);
    for hostile in [deep, nested, keys, laughs, "- ".repeat(100_000)] {
        let problems = problems_of(&hostile);
        assert!(
            problems.iter().map(String::len).sum::<usize>() < 20_000,
            "{problems:?}"
        );
    }
    assert!(problems_of(&"x".repeat(MAX_BYTES + 1))[0].contains("4 MiB"));
    assert!(problems_of(&"---\na\n".repeat(MAX_DOCUMENTS + 1))[0].contains("documents; split it"));
    assert_eq!(
        problems_of(&"---\na: 1\n".repeat(MAX_DOCUMENTS)).len(),
        MAX_PROBLEMS
    );
    let wrong: String = (0..50).fold(MIRROR.to_owned(), |text, index| {
        format!("{text}k{index}: 1\n")
    });
    assert_eq!(problems_of(&wrong).len(), 10);
}

#[test]
fn a_lone_carriage_return_leads_to_no_line_behind_the_file() {
    let problems = parse_documents("kind: Mirror\r\r\r\rname: \u{5}").unwrap_err();
    assert!(
        problems
            .iter()
            .all(|problem| (1..=2).contains(&problem.line)),
        "{problems:?}"
    );
}

#[test]
fn a_line_break_in_a_value_is_shown_and_breaks_no_line() {
    let text =
        "kind: Webhook\nname: a\nurl: https://hooks.example/x\nevents: [\"image\\npromoted\"]\n";
    let problems = parse_documents(text).unwrap_err();
    assert!(
        problems[0].message.contains("`image\\npromoted`"),
        "{}",
        problems[0]
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in ".{0,200}", lines in "([a-z]{0,4}|[-:#&*!|>%@{}\\[\\],'\" \n\t?~]|\u{feff}|\u{85}|kind: Mirror\n|---|\\.\\.\\.|<<: ){0,60}") {
        drop(parse_documents(&text));
        drop(parse_documents(&lines));
        drop(parse_documents(&format!("{MIRROR}{text}")));
        drop(parse_documents(&format!("{MIRROR}{lines}")));
    }

    #[test]
    fn a_problem_lies_within_the_file(place in 0..GOOD.len(), junk in "[a-z:\\[{\"'\n -]{1,8}") {
        prop_assume!(GOOD.is_char_boundary(place));
        let (before, after) = GOOD.split_at(place);
        let text = format!("{before}{junk}{after}");
        for problem in parse_documents(&text).err().unwrap_or_default() {
            prop_assert!((1..=text.lines().count() + 1).contains(&problem.line), "{problem}");
            prop_assert!(!problem.message.contains(char::is_control), "{problem}");
        }
    }
}
