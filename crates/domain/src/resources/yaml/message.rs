//! Messages of YAML errors in plain words, each with what to do.

use serde_saphyr::{Error, MessageFormatter as _, UserMessageFormatter};

/// The longest message, so that a hostile document cannot fill a log.
const LONGEST: usize = 600;

/// Describes an error, without its place.
pub(super) fn describe(error: &Error) -> String {
    let message = match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => {
            return describe(error);
        }
        Error::SerdeUnknownField {
            field, expected, ..
        } => path_key(field, expected).unwrap_or_else(|| {
            format!(
                "unknown key `{field}`{}; allowed are {}",
                did_you_mean(field, expected),
                list(expected)
            )
        }),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => format!(
            "`{variant}` is not known{}; allowed are {}",
            did_you_mean(variant, expected),
            list(expected)
        ),
        Error::SerdeMissingField { field, .. } => {
            format!("the key `{field}` is missing; add it")
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("the key `{key}` is written twice; keep one of them")
        }
        Error::NullIntoString { .. } => "the value is missing; write one or remove the key".into(),
        Error::InvalidBooleanStrict { .. } => "expected `true` or `false`".into(),
        Error::InvalidScalar { ty: "u32", .. } => {
            "expected a whole number from 0 to 4294967295".into()
        }
        Error::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | Error::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => format!("found {}, expected {expected}", plain(unexpected)),
        Error::Unexpected { expected, .. } => match *expected {
            "mapping start" => "expected keys with values, as in `key: value`".into(),
            "sequence start" => "expected a list, as in `[one, two]`".into(),
            "string scalar" => "expected one text, not a list or keys".into(),
            other => format!("expected {other}"),
        },
        Error::MultipleDocuments { .. } => {
            "another document starts here; put a line `---` before it".into()
        }
        Error::Budget { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasReplayCounterOverflow { .. } => {
            "the document is too large, too deep, or repeats too much; write it plainly or split it"
                .into()
        }
        other => UserMessageFormatter.format_message(other).into_owned(),
    };
    visible(&with_remedy(message)).take(LONGEST).collect()
}

/// Escapes the control characters of a text from a file.
pub(super) fn visible(text: &str) -> impl Iterator<Item = char> {
    text.chars().flat_map(|c| {
        let control = c.is_control().then(|| c.escape_default());
        control
            .into_iter()
            .flatten()
            .chain((!c.is_control()).then_some(c))
    })
}

/// Returns what to write instead of a key that held the path of a secret in earlier versions.
fn path_key(field: &str, expected: &[&str]) -> Option<String> {
    let key = match field {
        "secret_file" => "signing_key",
        _ => field.strip_suffix("_file")?,
    };
    expected.contains(&key).then(|| {
        format!(
            "unknown key `{field}`: resources name secrets and never paths; write `{key}: {{ secret: NAME }}`, and put the secret as the file `NAME` into the folder that the setting `secrets.dir` of the services names (`secrets/` in the data folder of `sluice up`)"
        )
    })
}

/// Adds what to do to the reader's own words for mistakes that people make.
fn with_remedy(message: String) -> String {
    let remedy = if message.starts_with("tabs disallowed") {
        "indent with spaces"
    } else if message.starts_with("unclosed quote") {
        "write the closing quote"
    } else {
        return message;
    };
    format!("{message}; {remedy}")
}

/// Names what was found in the words of YAML.
fn plain(unexpected: &str) -> &str {
    match unexpected {
        "sequence" => "a list",
        "map" => "keys",
        "unit value" => "nothing",
        other => other,
    }
}

/// Returns `, did you mean ...?` if one of the words is close or goes on where the text ends, else nothing.
pub(super) fn did_you_mean(text: &str, words: &[&str]) -> String {
    let text = text.to_ascii_lowercase();
    let near = |word: &&str| {
        let lower = word.to_ascii_lowercase();
        let distance = strsim::osa_distance(&text, &lower);
        let close = distance <= 2 && distance < lower.len().min(text.len());
        (close || text.len() > 2 && lower.starts_with(&text)).then_some(distance)
    };
    words
        .iter()
        .filter_map(|word| Some((near(word)?, word)))
        .min()
        .map(|(_, word)| format!(", did you mean `{word}`?"))
        .unwrap_or_default()
}

fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}
