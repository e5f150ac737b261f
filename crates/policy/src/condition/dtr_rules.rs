//! Rules in the form of Docker Trusted Registry, compiled to the CEL text that `when` would hold.
//!
//! Field and operator names are those of DTR's API; all rules of a policy must hold.

use chrono::{DateTime, NaiveDate};
use sluice_domain::resources::Rule;

/// Compiles rules to one condition.
///
/// # Errors
/// Every problem, each with the number of its rule and what to write instead.
pub fn compile(rules: &[Rule]) -> Result<String, Vec<String>> {
    let (mut terms, mut problems) = (Vec::new(), Vec::new());
    for (rule, number) in rules.iter().zip(1..) {
        match compile_rule(rule) {
            Ok(term) => terms.push(term),
            Err(problem) => problems.push(format!("rule {number}: {problem}")),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    if terms.is_empty() {
        return Ok("true".to_owned());
    }
    Ok(terms.join(" && "))
}

fn compile_rule(rule: &Rule) -> Result<String, String> {
    match rule.field.as_str() {
        "tag" => tag_term(rule),
        "vulnerability_all" => count_term("scan.total", rule),
        "vulnerability_critical" => count_term("scan.dtr.critical", rule),
        "vulnerability_major" => count_term("scan.dtr.major", rule),
        "vulnerability_minor" => count_term("scan.dtr.minor", rule),
        "updated_at" => {
            let at = timestamp(one_value(rule)?)?;
            time_term(rule, &format!("timestamp({})", quoted(&at)))
        }
        "updated_at_duration" => {
            let seconds = duration_seconds(one_value(rule)?)?;
            time_term(
                rule,
                &format!("now - duration(\"{}\")", duration_text(seconds)),
            )
        }
        field @ ("component.name" | "license.name") => {
            Err(format!("`{field}` is not supported yet; remove this rule"))
        }
        field => Err(format!(
            "unknown field `{field}`; there are `tag`, `vulnerability_all`, `vulnerability_critical`, `vulnerability_major`, `vulnerability_minor`, `updated_at` and `updated_at_duration`"
        )),
    }
}

fn tag_term(rule: &Rule) -> Result<String, String> {
    let one = |method: &str| Ok(format!("tag.{method}({})", quoted(one_value(rule)?)));
    match rule.operator.as_str() {
        "eq" => Ok(format!("tag == {}", quoted(one_value(rule)?))),
        "neq" => Ok(format!("tag != {}", quoted(one_value(rule)?))),
        "sw" => one("startsWith"),
        "ew" => one("endsWith"),
        "c" => one("contains"),
        "matches" => one("matches"),
        "oo" => Ok(format!("tag in [{}]", list(rule)?)),
        "noo" => Ok(format!("!(tag in [{}])", list(rule)?)),
        other => Err(unknown_operator(
            rule,
            other,
            "`eq`, `neq`, `sw`, `ew`, `c`, `oo`, `noo` or `matches`",
        )),
    }
}

fn count_term(path: &str, rule: &Rule) -> Result<String, String> {
    let sign = match rule.operator.as_str() {
        "eq" => "==",
        "neq" => "!=",
        "gt" => ">",
        "gte" => ">=",
        "lt" => "<",
        "lte" => "<=",
        other => {
            let known = "`eq`, `neq`, `gt`, `gte`, `lt` or `lte`";
            return Err(unknown_operator(rule, other, known));
        }
    };
    let value = one_value(rule)?.trim();
    let number: u32 = value
        .parse()
        .map_err(|_| format!("`{value}` is not a count of vulnerabilities"))?;
    Ok(format!("{path} {sign} {number}"))
}

fn time_term(rule: &Rule, than: &str) -> Result<String, String> {
    match rule.operator.as_str() {
        "bf" => Ok(format!("updated_at < {than}")),
        "af" => Ok(format!("updated_at > {than}")),
        other => Err(unknown_operator(rule, other, "`bf` or `af`")),
    }
}

fn unknown_operator(rule: &Rule, operator: &str, known: &str) -> String {
    format!(
        "unknown operator `{operator}`; `{}` takes {known}",
        rule.field
    )
}

fn one_value(rule: &Rule) -> Result<&str, String> {
    match rule.values.as_slice() {
        [value] => Ok(value),
        values => Err(format!(
            "`{}` with `{}` takes one value and has {}",
            rule.field,
            rule.operator,
            values.len()
        )),
    }
}

fn list(rule: &Rule) -> Result<String, String> {
    if rule.values.is_empty() {
        return Err(format!(
            "`{}` with `{}` has no values",
            rule.field, rule.operator
        ));
    }
    let quoted: Vec<String> = rule.values.iter().map(|value| quoted(value)).collect();
    Ok(quoted.join(", "))
}

/// Writes a CEL string literal.
fn quoted(text: &str) -> String {
    let mut literal = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => literal.extend(['\\', c]),
            c if c.is_control() => literal.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => literal.push(c),
        }
    }
    literal.push('"');
    literal
}

/// Reads a time in RFC 3339, or a date for its first second in UTC.
fn timestamp(text: &str) -> Result<String, String> {
    let text = text.trim();
    if DateTime::parse_from_rfc3339(text).is_ok() {
        return Ok(text.to_owned());
    }
    if NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok() {
        return Ok(format!("{text}T00:00:00Z"));
    }
    Err(format!(
        "`{text}` is not a time; write it as in `2026-01-31T00:00:00Z`"
    ))
}

/// Reads Go's form (`72h30m`) and what DTR's page offers (`3 days`, `2 weeks`, `1 months`).
fn duration_seconds(text: &str) -> Result<u64, String> {
    let invalid = || format!("`{text}` is not a duration; write it as in `72h` or `3 days`");
    let mut rest = text.trim();
    let mut total = 0_u64;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or_else(invalid)?;
        let (number, after) = rest.split_at_checked(digits).ok_or_else(invalid)?;
        let after = after.trim_start();
        let letters = after
            .find(|c: char| !c.is_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(letters).ok_or_else(invalid)?;
        let scale = match unit {
            "s" | "second" | "seconds" => 1,
            "m" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3_600,
            "d" | "day" | "days" => 86_400,
            "w" | "week" | "weeks" => 7 * 86_400,
            "month" | "months" => 30 * 86_400,
            _ => return Err(invalid()),
        };
        total = scaled(number, scale)
            .and_then(|seconds| total.checked_add(seconds))
            .filter(|seconds| *seconds <= 3_650 * 86_400)
            .ok_or_else(invalid)?;
        rest = after.trim_start();
    }
    Ok(total)
}

/// Multiplies a number that may have a fraction, as in Go's `1.5h`; fractions of a second are dropped.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = if whole.is_empty() { "0" } else { whole };
    let mut seconds = whole.parse::<u64>().ok()?.checked_mul(scale)?;
    let digits = fraction.get(..fraction.len().min(9))?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || digits.is_empty() {
        return None;
    }
    let parts = 10_u64.checked_pow(u32::try_from(digits.len()).ok()?)?;
    seconds = seconds.checked_add(digits.parse::<u64>().ok()?.checked_mul(scale)? / parts)?;
    Some(seconds)
}

fn duration_text(seconds: u64) -> String {
    if seconds.is_multiple_of(3_600) {
        format!("{}h", seconds / 3_600)
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::condition::{CompiledCondition, Scope};

    fn rule(field: &str, operator: &str, values: &[&str]) -> Rule {
        Rule {
            field: field.to_owned(),
            operator: operator.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        }
    }

    #[test]
    fn rules_become_the_condition_that_a_person_would_write() {
        for (field, operator, values, expected) in [
            (
                "vulnerability_critical",
                "eq",
                vec!["0"],
                "scan.dtr.critical == 0",
            ),
            (
                "vulnerability_major",
                "lte",
                vec!["3"],
                "scan.dtr.major <= 3",
            ),
            (
                "vulnerability_minor",
                "gte",
                vec!["3"],
                "scan.dtr.minor >= 3",
            ),
            ("vulnerability_all", "lt", vec!["10"], "scan.total < 10"),
            ("tag", "eq", vec!["a"], "tag == \"a\""),
            (
                "tag",
                "sw",
                vec!["v\"\\1"],
                "tag.startsWith(\"v\\\"\\\\1\")",
            ),
            ("tag", "ew", vec!["-alpine"], "tag.endsWith(\"-alpine\")"),
            ("tag", "c", vec!["\n"], "tag.contains(\"\\U0000000a\")"),
            (
                "tag",
                "matches",
                vec!["^v[0-9]+"],
                "tag.matches(\"^v[0-9]+\")",
            ),
            ("tag", "oo", vec!["a", "b"], "tag in [\"a\", \"b\"]"),
            ("tag", "noo", vec!["a"], "!(tag in [\"a\"])"),
            (
                "updated_at",
                "bf",
                vec!["2026-01-31"],
                "updated_at < timestamp(\"2026-01-31T00:00:00Z\")",
            ),
            (
                "updated_at",
                "af",
                vec!["2026-01-31T10:00:00+02:00"],
                "updated_at > timestamp(\"2026-01-31T10:00:00+02:00\")",
            ),
            (
                "updated_at_duration",
                "bf",
                vec!["3 days"],
                "updated_at < now - duration(\"72h\")",
            ),
            (
                "updated_at_duration",
                "af",
                vec!["1h30m"],
                "updated_at > now - duration(\"5400s\")",
            ),
        ] {
            let text = compile(&[rule(field, operator, &values)]).unwrap();
            assert_eq!(text, expected);
            assert!(
                CompiledCondition::new(&text, Scope::Pruning).is_ok(),
                "{text}"
            );
        }
        let both = [
            rule("vulnerability_critical", "eq", &["0"]),
            rule("tag", "neq", &["x"]),
        ];
        assert_eq!(
            compile(&both).unwrap(),
            "scan.dtr.critical == 0 && tag != \"x\""
        );
        assert_eq!(compile(&[]).unwrap(), "true");
    }

    #[test]
    fn what_dtr_takes_is_taken() {
        let values: Vec<String> = (0..300).map(|n| format!("release-2024.{n}")).collect();
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        let text = compile(&[
            rule("tag", "oo", &values),
            rule("tag", "noo", &values[..299]),
        ]);
        let text = text.unwrap();
        assert!(CompiledCondition::new(&text, Scope::Promotion).is_err());
        assert!(CompiledCondition::of_rules(&text, Scope::Promotion).is_ok());
        for (written, seconds) in [
            ("1.5h", 5_400),
            ("72h30m", 261_000),
            ("0.25 days", 21_600),
            ("1h.5m", 3_630),
        ] {
            assert_eq!(duration_seconds(written), Ok(seconds), "{written}");
        }
        for bad in ["1.h", ".", "1..5h", ".5.h", "1.5"] {
            assert!(duration_seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bad_rule_says_which_and_what_to_write() {
        for (field, operator, values, part) in [
            (
                "vulnerability_high",
                "eq",
                vec!["0"],
                "unknown field `vulnerability_high`",
            ),
            (
                "vulnerability_all",
                "sw",
                vec!["0"],
                "`vulnerability_all` takes `eq`",
            ),
            ("vulnerability_all", "eq", vec!["-1"], "not a count"),
            (
                "vulnerability_all",
                "eq",
                vec!["0", "1"],
                "takes one value and has 2",
            ),
            ("tag", "oo", vec![], "has no values"),
            ("tag", "gt", vec!["a"], "unknown operator `gt`"),
            ("component.name", "oo", vec!["openssl"], "not supported yet"),
            ("updated_at", "bf", vec!["yesterday"], "is not a time"),
            (
                "updated_at_duration",
                "bf",
                vec!["3 fortnights"],
                "is not a duration",
            ),
            (
                "updated_at_duration",
                "bf",
                vec!["99999999999999999999d"],
                "is not a duration",
            ),
            ("updated_at_duration", "bf", vec![""], "is not a duration"),
            ("updated_at_duration", "eq", vec!["3h"], "`bf` or `af`"),
        ] {
            let problems =
                compile(&[rule("tag", "eq", &["x"]), rule(field, operator, &values)]).unwrap_err();
            assert!(
                problems[0].starts_with("rule 2: ") && problems[0].contains(part),
                "{problems:?}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn no_value_leaves_its_quotes(value in ".{0,40}") {
            let text = compile(&[rule("tag", "eq", &[&value])]).unwrap();
            let compiled = CompiledCondition::new(&text, Scope::Pruning);
            prop_assert!(compiled.is_ok() || value.matches(['(', '[', '{']).count() > 40, "{:?}", compiled);
            drop(duration_seconds(&value));
        }
    }
}
