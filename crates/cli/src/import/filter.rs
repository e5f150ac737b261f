//! Turns what other tools say of tags into a selection: lists, regular expressions, version ranges.

use sluice_domain::{NameRegex, Tag};
use sluice_policy::range::Range;

/// A selection of tags as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) semver: Option<String>,
    pub(crate) include: Vec<String>,
    pub(crate) regex: Vec<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) exclude_regex: Vec<String>,
}

impl Selection {
    /// Takes version ranges, any of which may hold, as the semver libraries of other tools read them.
    pub(crate) fn ranges(&mut self, ranges: &[&str]) -> Result<(), String> {
        let mut all = Vec::new();
        for written in ranges {
            let range = range(written);
            if let Err(error) = range.parse::<Range>() {
                return Err(error.to_string());
            }
            all.push(range);
        }
        let joined = all.join(" || ");
        if let Err(error) = joined.parse::<Range>() {
            return Err(error.to_string());
        }
        // To them `1.2.3-alpine` is a pre-release, which a range without one does not take.
        if !joined.contains('-') {
            self.exclude.push("*-*".to_owned());
        }
        self.semver = Some(joined);
        Ok(())
    }

    /// Takes an expression that the whole tag matches.
    pub(crate) fn allow(&mut self, expression: &str) -> Result<(), String> {
        sort(expression, &mut self.include, &mut self.regex)
    }

    /// Leaves out what an expression matches as a whole.
    pub(crate) fn deny(&mut self, expression: &str) -> Result<(), String> {
        sort(expression, &mut self.exclude, &mut self.exclude_regex)
    }
}

/// Sorts an expression that is a plain tag among the tags.
fn sort(expression: &str, tags: &mut Vec<String>, regex: &mut Vec<String>) -> Result<(), String> {
    let plain = literal(expression);
    match plain {
        Some(tag) => tags.push(tag),
        None => {
            let read: NameRegex = expression
                .parse()
                .map_err(|error: sluice_domain::InvalidName| error.to_string())?;
            regex.push(read.as_str().to_owned());
        }
    }
    Ok(())
}

/// Returns the one tag that an expression matches, if it is so simple.
fn literal(expression: &str) -> Option<String> {
    let text = expression.strip_prefix('^').unwrap_or(expression);
    let text = text.strip_suffix('$').unwrap_or(text);
    let mut tag = String::new();
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next()? {
                c @ ('.' | '-') => tag.push(c),
                _ => return None,
            },
            c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') => tag.push(c),
            _ => return None,
        }
    }
    tag.parse::<Tag>().ok().map(String::from)
}

/// Makes an expression for the whole tag of one that may match anywhere in it.
pub(crate) fn whole(expression: &str) -> String {
    if expression.contains('|') {
        return format!(".*(?:{expression}).*");
    }
    let (begin, rest) = match expression.strip_prefix('^') {
        Some(rest) => ("", rest),
        None => (".*", expression),
    };
    let ends = rest.ends_with('$') && !rest.ends_with("\\$");
    let (rest, end) = match rest.strip_suffix('$') {
        Some(rest) if ends => (rest, ""),
        _ => (rest, ".*"),
    };
    format!("{begin}{rest}{end}")
}

/// Writes a range in our words: `>= 3.17` without the space, `3.12 - 3.13` with its bounds.
fn range(written: &str) -> String {
    let alternatives = written.split("||").map(|alternative| {
        let alternative = alternative.trim();
        if let Some((from, to)) = alternative.split_once(" - ") {
            return format!(">={} <={}", from.trim(), to.trim());
        }
        let mut out = String::new();
        for c in alternative.chars() {
            let after_operator = out.ends_with(['>', '<', '=', '~', '^', '!']);
            if !(c == ' ' && after_operator) {
                out.push(c);
            }
        }
        // What some call `~>` is `~`, and `=>` is `>=`.
        out.replace("~>", "~")
            .replace("=>", ">=")
            .replace("=<", "<=")
    });
    alternatives.collect::<Vec<_>>().join(" || ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_written_in_our_words() {
        for (written, meant) in [
            (">= 3.17", ">=3.17"),
            ("3.12 - 3.13", ">=3.12 <=3.13"),
            (">= 1.2, < 2.0 || ^3", ">=1.2, <2.0 || ^3"),
            ("~> 1.2", "~1.2"),
            (">= v25.3.0", ">=v25.3.0"),
        ] {
            assert_eq!(range(written), meant);
            range(written).parse::<Range>().unwrap();
        }
        let mut selection = Selection::default();
        selection.ranges(&["3.12 - 3.13", ">= 3.17"]).unwrap();
        assert_eq!(selection.semver.as_deref(), Some(">=3.12 <=3.13 || >=3.17"));
        assert_eq!(selection.exclude, ["*-*"]);
        assert!(Selection::default().ranges(&["newest"]).is_err());
    }

    #[test]
    fn expressions_keep_what_they_match() {
        let mut selection = Selection::default();
        for expression in ["latest", "^1\\.2$", "v[0-9]+"] {
            selection.allow(expression).unwrap();
        }
        assert_eq!(selection.include, ["latest", "1.2"]);
        assert_eq!(selection.regex, ["v[0-9]+"]);
        assert!(selection.allow("(?!x)").is_err());
        // An unescaped dot matches any character.
        selection.deny("1.2").unwrap();
        assert_eq!(selection.exclude_regex, ["1.2"]);
    }

    #[test]
    fn an_expression_that_may_match_anywhere_is_completed() {
        for (expression, name, matches) in [
            ("^1\\.13\\.[12]-alpine-perl$", "1.13.2-alpine-perl", true),
            ("^1\\.13\\.[12]-alpine-perl$", "x1.13.2-alpine-perl", false),
            ("alpine", "3-alpine-1", true),
            ("^3", "3.1", true),
            ("^3", "13", false),
            ("3$", "1.3", true),
            ("^a|b$", "ax", true),
            ("^a|b$", "xb", true),
            ("^a|b$", "xbx", false),
        ] {
            let whole: NameRegex = whole(expression).parse().unwrap();
            assert_eq!(whole.matches(name), matches, "{expression} {name}");
        }
    }
}
