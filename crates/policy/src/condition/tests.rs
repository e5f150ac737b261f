//! What is refused at compile time, what hostile text does, and what an evaluation reports.

use chrono::TimeDelta;
use proptest::prelude::*;
use sluice_domain::{ScanFacts, SeverityCounts};

use super::*;

fn scan() -> ScanFacts {
    ScanFacts {
        counts: SeverityCounts {
            high: 2,
            low: 7,
            ..SeverityCounts::default()
        },
        packages: 88,
        os: Some("debian 12.5".to_owned()),
        ..ScanFacts::default()
    }
}

fn image() -> ImageFacts {
    ImageFacts {
        created: Some("2026-11-20T08:00:00Z".parse().unwrap()),
        labels: Some([("team".to_owned(), "web".to_owned())].into()),
        platforms: vec!["linux/amd64".parse().unwrap()],
        ..ImageFacts::default()
    }
}

fn facts<'a>(scan: Option<&'a ScanFacts>, image: &'a ImageFacts) -> Facts<'a> {
    let now = "2026-11-24T12:00:00Z".parse().unwrap();
    Facts {
        tag: "1.2.0-rc1",
        repository: "hub/app",
        platform: None,
        scan,
        image,
        updated_at: Some(now - TimeDelta::hours(30)),
        now,
    }
}

fn truth(text: &str) -> ConditionOutcome {
    let compiled =
        CompiledCondition::new(text, Scope::Pruning).unwrap_or_else(|e| panic!("{text}: {e:?}"));
    compiled.evaluate(&facts(Some(&scan()), &image())).outcome
}

#[test]
fn conditions_name_scan_tag_image_and_time() {
    for text in [
        "scan.critical == 0 && scan.high <= 2 && scan.total == 9 && scan.packages > 80",
        "scan.dtr.critical == 0 && scan.dtr.major + scan.dtr.minor == 0",
        "scan.os.startsWith('debian') && !scan.end_of_life",
        "tag.matches('-rc') && tag.contains('rc') && tag.endsWith('rc1') && size(tag) == 9",
        "tag.glob('1.*') && !repository.glob('*') && repository.glob('hub/*')",
        "tag.semver('>=1.2.0-rc1 <2') && !tag.semver('>=2')",
        "tag in ['1.2.0-rc1', 'latest'] && repository.size() == 7",
        "now - image.created > duration('72h') && now - updated_at < duration('31h')",
        "image.created > timestamp('2026-01-01T00:00:00Z')",
        "'team' in image.labels && image.labels['team'] == 'web' && image.labels.team == \"web\"",
        "has(image.labels.team) && !has(image.labels.owner) && !has(image.size_bytes)",
        "image.platforms.exists(p, p.startsWith('linux/')) && image.platforms.size() == 1",
        "image.labels.all(key, size(key) < 10) && ['a'].map(x, x + 'b') == ['ab']",
        "scan.high > 5 ? false : tag != 'latest' // a comment",
        "-1 < 0 && 7 % 2 == 1 && 2 * 3 == 6 && {'a': 1}['a'] == 1 && 1.5 > 1.0",
    ] {
        assert_eq!(truth(text), ConditionOutcome::True, "{text}");
    }
}

#[test]
fn mistakes_are_reported_with_their_column_and_a_hint() {
    for (text, expected) in [
        (
            "scna.critical == 0",
            "line 1, column 1: unknown name `scna`, did you mean `scan`?",
        ),
        (
            "scan.hgih == 0",
            "`scan` has no field `hgih`, did you mean `high`?",
        ),
        (
            "scan.dtr.high == 0",
            "`scan.dtr` has no field `high`; there are `critical`, `major`, `minor`",
        ),
        ("scan.high == '0'", "int cannot be compared with string"),
        (
            "tag.matchs('x')",
            "unknown function `matchs`, did you mean `matches`?",
        ),
        ("matches(tag, 'x')", "unknown function `matches`"),
        ("glob('x')", "write it after the string"),
        ("tag.matches('(')", "bad regular expression: unclosed group"),
        ("tag.matches('(a{1000}){1000}')", "size limit"),
        ("tag.semver('>=>1')", "`>=>1` is not a version range"),
        ("tag.glob('[')", "expected a glob"),
        (
            "tag.matches(image.labels.team)",
            "takes its pattern as text in quotes only",
        ),
        (
            "['a'].exists(p, tag.glob(p))",
            "takes its pattern as text in quotes only",
        ),
        ("tag.glob(3)", "called on a string with one string"),
    ] {
        assert_problem(text, expected);
    }
    let many = CompiledCondition::new("scna.a == 0 && tga == 'x'", Scope::Pruning).unwrap_err();
    assert_eq!(many.len(), 2);
}

#[test]
fn mistakes_in_types_and_syntax_are_reported_too() {
    for (text, expected) in [
        ("tag > 3", "string and int have no order"),
        (
            "scan.high",
            "a condition must be true or false, and this is int",
        ),
        ("scan", "this is scan"),
        ("size(scan) > 0", "scan has no size"),
        ("scan['unknown'] == 0", "scan has no element by string"),
        (
            "image.created > now - duration('3 days')",
            "`3 days` is not a duration",
        ),
        (
            "image.created > timestamp('yesterday')",
            "`yesterday` is not a timestamp",
        ),
        ("has(image.label)", "`image` has no field `label`"),
        ("tag + 1 == 'x'", "`+` does not apply to string and int"),
        ("tag && true", "expected bool, found string"),
        ("foo(1)", "unknown function `foo`"),
        ("foo(1, 2)", "unknown function `foo`"),
        (
            "duration('1h', '2h') > duration('1h')",
            "takes one argument",
        ),
        (
            "[1].exists(scan, scan == 1)",
            "`scan` already has a meaning",
        ),
        (
            "[1].all(a, [1].all(b, [1].all(c, c == 1)))",
            "nested 2 deep",
        ),
        ("tag.all(x, x == 'a')", "string cannot be iterated over"),
        ("scan.os.foo == 1", "string has no field `foo`"),
        ("1 in tag", "int cannot be searched in string"),
        ("true ? 1 : 'a'", "the branches differ"),
        ("Thing{a: 1} == 1", "is not supported"),
        ("platform == 'linux/amd64'", "unknown name `platform`"),
        (
            "tag == 'a'\n && tga == 'b'",
            "line 2, column 5: unknown name `tga`",
        ),
        (
            "scan.critical = 0",
            "line 1, column 15: a single `=` does not compare; write `==`",
        ),
        (
            "tag == 'a' and tag == 'b'",
            "column 12: join terms with `&&` or `||`",
        ),
        (
            "scan.high ==",
            "column 13: it ends where a value is expected",
        ),
        ("true &&& true", "join terms with `&&`"),
        ("  ", "the condition is empty"),
    ] {
        assert_problem(text, expected);
    }
    assert!(CompiledCondition::new("platform == 'linux/amd64'", Scope::Promotion).is_ok());
}

fn assert_problem(text: &str, expected: &str) {
    let problems = CompiledCondition::new(text, Scope::Pruning)
        .expect_err(text)
        .join("\n");
    assert!(problems.contains(expected), "{text}: {problems}");
}

#[test]
fn hostile_text_is_refused_and_nothing_overflows() {
    for count in [10, 47, 100, 1_000, 100_000] {
        for (start, link, end) in [
            ("", "(", "1"),
            ("", "!(", "true"),
            ("", "[", "1"),
            ("", "{1:", "1"),
            ("", "size(", "tag"),
            ("", "[(", "1"),
            ("", "1+(", "1"),
            ("", "a{b:", "1"),
            ("", "[].all(x,", "true"),
            ("1", "+1", ""),
            ("true", "&&true", ""),
            ("", "!", "true"),
            ("", "-", "1"),
            ("tag", ".b", ""),
            ("tag", "[0]", ""),
            ("tag", ".f()", ""),
            ("", "true?1:", "1"),
            ("1", "==1", ""),
            ("1", " in 1", ""),
            ("", "true?", "1"),
        ] {
            let open = format!("{start}{}{end}", link.repeat(count));
            let close: String = link
                .chars()
                .rev()
                .filter_map(|c| match c {
                    '(' => Some(')'),
                    '[' => Some(']'),
                    '{' => Some('}'),
                    _ => None,
                })
                .collect();
            drop(CompiledCondition::new(&open, Scope::Pruning));
            drop(CompiledCondition::new(
                &format!("{open}{}", close.repeat(count)),
                Scope::Pruning,
            ));
        }
    }
    let long = format!("tag in [{}'x']", "'1.27.3',".repeat(1000));
    assert!(CompiledCondition::new(&long, Scope::Pruning).unwrap_err()[0].contains("4096"));
}

#[test]
fn loops_over_the_most_that_is_allowed_end() {
    let labels = |count: usize| ImageFacts {
        labels: Some((0..count).map(|n| (n.to_string(), String::new())).collect()),
        ..ImageFacts::default()
    };
    let text = "image.labels.all(a, image.labels.exists(b, image.labels[b] != '')) || true";
    let compiled = CompiledCondition::new(text, Scope::Pruning).unwrap();
    let (most, more) = (labels(128), labels(129));
    assert_eq!(
        compiled.evaluate(&facts(None, &most)).outcome,
        ConditionOutcome::True
    );
    let compiled = CompiledCondition::new("size(image.labels) > 0", Scope::Pruning).unwrap();
    assert_eq!(
        compiled.evaluate(&facts(None, &most)).outcome,
        ConditionOutcome::True
    );
    let unknown = ConditionOutcome::Undetermined("there is no value for `labels`".to_owned());
    assert_eq!(compiled.evaluate(&facts(None, &more)).outcome, unknown);
    let commas = format!("[{}1].exists(x, x == 1)", "1,".repeat(300));
    assert!(CompiledCondition::new(&commas, Scope::Pruning).unwrap_err()[0].contains("commas"));
}

#[test]
fn long_but_flat_conditions_are_allowed() {
    let many = vec!["tag != 'x'"; 200].join(" && ");
    assert_eq!(truth(&many), ConditionOutcome::True);
    let list = vec!["'1.27.3'"; 256].join(", ");
    assert_eq!(
        truth(&format!("!(tag in [{list}])")),
        ConditionOutcome::True
    );
}

#[test]
fn without_a_usable_scan_nothing_that_names_it_is_determined() {
    let zero_packages = ScanFacts {
        packages: 0,
        ..scan()
    };
    for scan in [None, Some(&zero_packages)] {
        for text in [
            "scan.critical == 0",
            "scan.critical >= 0",
            "!(scan.critical > 0)",
            "has(scan.os)",
            "scan.packages == 0",
        ] {
            let compiled = CompiledCondition::new(text, Scope::Pruning).unwrap();
            let outcome = compiled.evaluate(&facts(scan, &image()));
            assert_eq!(
                outcome.outcome,
                ConditionOutcome::Undetermined("there is no usable scan result".to_owned()),
                "{text}"
            );
        }
        let compiled =
            CompiledCondition::new("tag.matches('-rc') || scan.critical > 5", Scope::Pruning)
                .unwrap();
        assert_eq!(
            compiled.evaluate(&facts(scan, &image())).outcome,
            ConditionOutcome::True
        );
    }
}

#[test]
fn errors_are_undetermined_and_never_true_or_false() {
    for (text, expected) in [
        (
            "image.labels.owner == 'web'",
            "there is no value for `owner`",
        ),
        (
            "image.labels['owner'] != 'web'",
            "there is no value for `owner`",
        ),
        ("image.size_bytes < 5", "there is no value for `size_bytes`"),
        ("scan.fixable == 0", "there is no value for `fixable`"),
        ("scan.age < duration('24h')", "there is no value for `age`"),
        ("1 / (scan.high - 2) == 1", "zero"),
        ("timestamp(tag) < now", "`timestamp` failed"),
        ("9223372036854775807 + scan.high > 0", "verflow"),
    ] {
        let ConditionOutcome::Undetermined(reason) = truth(text) else {
            panic!("{text} is determined");
        };
        assert!(reason.contains(expected), "{text}: {reason}");
    }
}

#[test]
fn every_term_is_reported_with_its_values() {
    let text = "scan.critical == 0 && (scan.high == 0 && !tag.matches(\"a && b\"))\n && (tag == 'x' || repository == 'hub/app') && image.labels['owner'] == 'web' && image.labels['team'] == 'web'";
    let compiled = CompiledCondition::new(text, Scope::Pruning).unwrap();
    let outcome = compiled.evaluate(&facts(Some(&scan()), &image()));
    assert_eq!(outcome.outcome, ConditionOutcome::False);
    let lines: Vec<String> = outcome
        .terms
        .iter()
        .map(|term| {
            format!(
                "{} | {:?} | {}",
                term.text,
                term.passed,
                term.values.join(", ")
            )
        })
        .collect();
    assert_eq!(
        lines,
        [
            "scan.critical == 0 | Some(true) | scan.critical = 0",
            "scan.high == 0 | Some(false) | scan.high = 2",
            "!tag.matches(\"a && b\") | Some(true) | tag = \"1.2.0-rc1\"",
            "tag == 'x' || repository == 'hub/app' | Some(true) | tag = \"1.2.0-rc1\", repository = \"hub/app\"",
            "image.labels['owner'] == 'web' | None | ",
            "image.labels['team'] == 'web' | Some(true) | image.labels[\"team\"] = \"web\"",
        ]
    );
    assert_eq!(
        outcome.terms[4].error.as_deref(),
        Some("there is no value for `owner`")
    );
}

#[test]
fn terms_are_cut_only_at_the_joining_operator() {
    for (text, expected) in [
        ("a && b", vec!["a", "b"]),
        ("(a && b) && c", vec!["a", "b", "c"]),
        ("((a && b))", vec!["a", "b"]),
        ("(a) && (b)", vec!["a", "b"]),
        ("(a && b) || c", vec!["(a && b) || c"]),
        ("a && b || c", vec!["a && b || c"]),
        ("a ? b && c : d", vec!["a ? b && c : d"]),
        ("x.all(y, a && b) && c", vec!["x.all(y, a && b)", "c"]),
        (
            "t == '&&' && r == r'\\' && s == \"\"\"&&\"\"\"",
            vec!["t == '&&'", "r == r'\\'", "s == \"\"\"&&\"\"\""],
        ),
        ("a // && b\n && c", vec!["a // && b", "c"]),
        ("t == '\\'&&' && b", vec!["t == '\\'&&'", "b"]),
    ] {
        assert_eq!(terms::split(text), expected, "{text}");
    }
}

#[test]
fn values_are_shown_as_people_write_them() {
    let compiled = CompiledCondition::new(
        "now - updated_at < duration('24h') && image.platforms == ['a'] && image.labels == {} && image.created == now",
        Scope::Pruning,
    )
    .unwrap();
    let outcome = compiled.evaluate(&facts(None, &image()));
    let values: Vec<&String> = outcome.terms.iter().flat_map(|term| &term.values).collect();
    assert_eq!(
        values,
        [
            "now = 2026-11-24T12:00:00Z",
            "updated_at = 2026-11-23T06:00:00Z",
            "image.platforms = [\"linux/amd64\"]",
            "image.labels = {\"team\": \"web\"}",
            "image.created = 2026-11-20T08:00:00Z",
            "now = 2026-11-24T12:00:00Z",
        ]
    );
}

#[test]
fn a_condition_knows_which_values_it_names() {
    let compiled =
        CompiledCondition::new("scan.high == 0 || has(scan.unknown)", Scope::Pruning).unwrap();
    assert!(
        compiled.names("scan.unknown") && compiled.names("scan") && compiled.names("scan.high")
    );
    assert!(!compiled.names("tag"));
    let quoted = CompiledCondition::new("tag == 'scan.unknown'", Scope::Pruning).unwrap();
    assert!(!quoted.names("scan.unknown") && !quoted.names("scan"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_text_makes_the_compiler_panic(text in ".{0,60}") {
        if let Ok(compiled) = CompiledCondition::new(&text, Scope::Pruning) {
            drop(compiled.evaluate(&facts(None, &image())));
        }
    }

    #[test]
    fn no_expression_makes_the_evaluator_panic(
        parts in proptest::collection::vec(
            proptest::sample::select(vec![
                "scan.high", "tag", "image.labels", "image", "now", "updated_at", "duration('1h')", "'x'", "0", "-1", "1.5",
                "9223372036854775807", "==", "<", "&&", "||", "+", "-", "*", "/", "%", "?", ":", "(", ")", "[", "]", ",", "!",
                ".size()", ".matches('x')", ".exists(k, ", "has(", " in ", "true", "{", "}", "r'", "//", "\"\"\"", "\n",
            ]),
            0..12,
        ),
    ) {
        if let Ok(compiled) = CompiledCondition::new(&parts.concat(), Scope::Pruning) {
            let outcome = compiled.evaluate(&facts(Some(&scan()), &image()));
            prop_assert!(!outcome.terms.is_empty());
            // What every term says together is what the whole says.
            if outcome.terms.iter().all(|term| term.passed == Some(true)) {
                prop_assert_eq!(outcome.outcome, ConditionOutcome::True);
            } else {
                prop_assert_ne!(outcome.outcome, ConditionOutcome::True);
            }
        }
    }
}
