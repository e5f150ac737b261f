//! The precedence of sources, the reports of problems, and the masking of secrets.

use std::fmt::Debug;
use std::fs;

use serde::Deserialize;
use tempfile::TempDir;

use super::*;
use crate::settings::{BusSettings, HttpSettings};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    bus: BusSettings,
    http: HttpSettings,
    work: Work,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Work {
    concurrency: u32,
    #[serde(default)]
    tags: Vec<String>,
}

impl Settings for Sample {
    const NAME: &'static str = "sample";
    const DEFAULTS: &'static str = r#"
        [bus]
        url = "nats://127.0.0.1:4222"
        [http]
        listen = "127.0.0.1:0"
        grace_seconds = 25
        [work]
        concurrency = 4
    "#;

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.work.concurrency == 0 {
            problems.push("`work.concurrency` must be at least 1".to_owned());
        }
        if self.http.grace_seconds > 600 {
            problems.push("a drain of more than ten minutes is too long".to_owned());
        }
        problems
    }

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}

/// A service whose defaults lack a key, so that an installation has to give it.
#[derive(Debug, Deserialize)]
struct Demanding {
    http: HttpSettings,
}

impl Settings for Demanding {
    const NAME: &'static str = "demanding";
    const DEFAULTS: &'static str = "[http]\nlisten = \"127.0.0.1:0\"\n";

    fn http(&self) -> &HttpSettings {
        &self.http
    }
}

type Variables = &'static [(&'static str, &'static str)];

fn variables(pairs: &[(&str, &str)]) -> SettingsSources {
    SettingsSources::default().with_variables(
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )
}

fn loaded(pairs: &[(&str, &str)]) -> Sample {
    variables(pairs).load().unwrap()
}

fn refused<S: Settings + Debug>(sources: &SettingsSources) -> Vec<String> {
    sources.load::<S>().unwrap_err().list
}

/// Adds a file with this text; it is there as long as the folder.
fn with_file(sources: SettingsSources, text: &str) -> (SettingsSources, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sample.toml");
    fs::write(&file, text).unwrap();
    (sources.with_file(file), folder)
}

#[test]
fn defaults_are_enough() {
    let sample = loaded(&[]);
    assert_eq!(sample.bus.url, "nats://127.0.0.1:4222");
    assert_eq!(sample.bus.user, "");
    assert_eq!(sample.http().grace_seconds, 25);
    assert!(sample.work.tags.is_empty());
}

#[test]
fn the_file_wins_over_the_defaults_and_the_environment_over_the_file() {
    let sources = variables(&[("SLUICE__WORK__CONCURRENCY", "9")]);
    let (sources, _folder) = with_file(
        sources,
        "[bus]\nurl = \"nats://127.0.0.2\"\n[work]\nconcurrency = 8\n",
    );
    let sample: Sample = sources.load().unwrap();
    assert_eq!(sample.work.concurrency, 9);
    assert_eq!(sample.bus.url, "nats://127.0.0.2");
    assert_eq!(sample.http.grace_seconds, 25);
}

#[test]
fn variables_are_read_as_the_type_that_is_wanted() {
    let sample = loaded(&[
        ("SLUICE__HTTP__GRACE_SECONDS", "7"),
        ("SLUICE__BUS__USER", "007"),
        ("SLUICE__WORK__TAGS", "[latest, \"1.2\"]"),
    ]);
    assert_eq!(sample.http.grace_seconds, 7);
    assert_eq!(sample.bus.user, "007");
    assert_eq!(sample.work.tags, ["latest", "1.2"]);
    for user in ["true", "1e3", "0x10", " spaced ", "[x]", "{a=1}", "a,b"] {
        assert_eq!(loaded(&[("SLUICE__BUS__USER", user)]).bus.user, user);
    }
}

#[test]
fn an_emptied_variable_counts_as_absent_where_the_key_may_be() {
    let sample = loaded(&[
        ("SLUICE__BUS__PASSWORD_FILE", ""),
        ("SLUICE__HTTP__ADDRESS_FILE", ""),
    ]);
    assert_eq!(sample.bus.password_file, None);
    assert_eq!(sample.http.address_file, None);
}

#[test]
fn what_kubernetes_puts_into_the_environment_is_no_setting() {
    loaded(&[
        ("SLUICE_POLLER_SERVICE_HOST", "10.0.0.1"),
        ("SLUICE_CONFIG", "/nowhere"),
        ("sluice__bus__url", "nonsense"),
        ("PATH", "/bin"),
    ]);
}

#[test]
fn each_problem_names_its_key_its_variable_and_its_source() {
    let cases: [(Variables, &str, &[&str]); 6] = [
        (
            &[("SLUICE__BUS__URLL", "x")],
            "",
            &[
                "`bus.urll` (SLUICE__BUS__URLL) in the environment: is unknown",
                "`url`",
            ],
        ),
        (
            &[],
            "[bus]\nurll = \"x\"\n",
            &[
                "`bus.urll` (SLUICE__BUS__URLL) in `",
                "sample.toml`: is unknown",
            ],
        ),
        (
            &[("SLUICE__HTTP__GRACE_SECONDS", "soon")],
            "",
            &["`http.grace_seconds` (SLUICE__HTTP__GRACE_SECONDS) in the environment: "],
        ),
        (
            &[("SLUICE__WORK__TAGS", "[a, {b=1}]")],
            "",
            &["`work.tags", "in the environment: "],
        ),
        (
            &[("SLUICE__BUS", "x")],
            "",
            &["`bus` (SLUICE__BUS) in the environment: "],
        ),
        (
            &[("SLUICE__WORK__CONCURRENCY", "0")],
            "",
            &["`work.concurrency` (SLUICE__WORK__CONCURRENCY) must be at least 1"],
        ),
    ];
    for (pairs, file, expected) in cases {
        let (sources, _folder) = with_file(variables(pairs), file);
        let problems = refused::<Sample>(&sources);
        assert_eq!(problems.len(), 1, "{problems:?}");
        for part in expected {
            assert!(problems[0].contains(part), "{problems:?} lacks {part}");
        }
    }
}

#[test]
fn all_problems_are_reported_at_once_those_behind_an_invalid_value_too() {
    let sources = variables(&[
        ("SLUICE__BUS__URL", "http://a"),
        ("SLUICE__HTTP__GRACE_SECONDS", "soon"),
        ("SLUICE__UNHEARD__OF", "x"),
    ]);
    let (sources, _folder) = with_file(
        sources,
        "[http]\ngrace_seconds = 9000\n[work]\nconcurrency = 0\ntagz = []\n",
    );
    let error = sources.load::<Sample>().unwrap_err().to_string();
    for part in [
        "the settings of sluice-sample are not valid:\n  ",
        "`bus.url` (SLUICE__BUS__URL) in the environment: ",
        "`http.grace_seconds` (SLUICE__HTTP__GRACE_SECONDS) in the environment: ",
        "SLUICE__UNHEARD",
        "`work.tagz` (SLUICE__WORK__TAGZ) in `",
        "`work.concurrency` (SLUICE__WORK__CONCURRENCY) must be at least 1",
        "\n  a drain of more than ten minutes is too long",
    ] {
        assert!(error.contains(part), "{error}\nlacks {part}");
    }
}

#[test]
fn a_key_without_default_has_to_be_given() {
    let problems = refused::<Demanding>(&SettingsSources::default());
    assert_eq!(
        problems,
        ["`http.grace_seconds` (SLUICE__HTTP__GRACE_SECONDS): is not set"]
    );
    variables(&[("SLUICE__HTTP__GRACE_SECONDS", "1")])
        .load::<Demanding>()
        .unwrap();
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let missing = SettingsSources::default().with_file("/nowhere/sample.toml".into());
    let problems = refused::<Sample>(&missing);
    assert!(
        problems[0].starts_with("`/nowhere/sample.toml`: cannot be read: "),
        "{problems:?}"
    );
    let (broken, folder) = with_file(SettingsSources::default(), "[bus\nurl = 1\n");
    let problems = refused::<Sample>(&broken);
    let path = folder.path().display().to_string();
    assert!(
        problems.len() == 1 && problems[0].contains(&path),
        "{problems:?}"
    );
}

#[test]
fn the_values_in_effect_read_back_as_the_same_settings() {
    let pairs = [("SLUICE__WORK__CONCURRENCY", "9")];
    let (_, effective) = variables(&pairs).read::<Sample>().unwrap();
    let (sources, _folder) = with_file(SettingsSources::default(), &effective);
    let (again, same) = sources.read::<Sample>().unwrap();
    assert_eq!(again.work.concurrency, 9);
    assert_eq!(effective, same);
}

#[test]
fn secrets_are_masked_and_the_names_of_their_files_are_not() {
    let cases = [
        ("password = \"hunter2\"", "password = \"***\""),
        ("password = 1234", "password = \"***\""),
        ("api_token = \"hunter2\"", "api_token = \"***\""),
        (
            "url = \"https://me:hunter2@a/\"",
            "url = \"https://me:***@a/\"",
        ),
        ("all = [\"https://me:hunter2@a/\"]", "https://me:***@a/"),
        ("[deep.er]\nsecret = \"hunter2\"", "secret = \"***\""),
        (
            "password_file = \"/run/secrets/nats\"",
            "password_file = \"/run/secrets/nats\"",
        ),
        ("url = \"https://a/\"", "url = \"https://a/\""),
        ("user = \"monkeys\"", "user = \"monkeys\""),
    ];
    for (given, shown) in cases {
        let mut dict: Dict = Figment::from(Toml::string(given)).extract().unwrap();
        mask(&mut dict);
        let text = toml::to_string(&dict).unwrap();
        assert!(text.contains(shown), "{text}");
        assert!(
            !text.contains("hunter2") && !text.contains("1234"),
            "{text}"
        );
    }
}
