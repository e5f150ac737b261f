//! Turns what other tools say of tags into a selection: lists, regular expressions, version ranges.

use sluice_domain::resources::TagSelection;
use sluice_domain::{NameRegex, Tag};
use sluice_policy::range::Range;
use sluice_policy::select;

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
    /// Takes version ranges of skopeo, any of which may hold; its library reads them as we do.
    pub(crate) fn ranges(&mut self, ranges: &[&str]) -> Result<(), String> {
        let ranges: Vec<_> = ranges.iter().map(|written| range(written)).collect();
        let joined = self.join(&ranges)?;
        // To it `1.2.3-alpine` is a pre-release, which a range without one does not take.
        if !joined.contains('-') {
            self.exclude.push("*-*".to_owned());
        }
        Ok(())
    }

    /// Takes version ranges of regsync, any of which may hold; returns those that regsync cannot read.
    pub(crate) fn exact_ranges(&mut self, ranges: &[&str]) -> Result<Vec<String>, String> {
        let (mut all, mut unreadable) = (Vec::new(), Vec::new());
        for written in ranges {
            all.push(exact_range(written).unwrap_or_else(|| {
                unreadable.push((*written).to_owned());
                range(written)
            }));
        }
        self.join(&all)?;
        Ok(unreadable)
    }

    fn join(&mut self, ranges: &[String]) -> Result<String, String> {
        let joined = ranges.join(" || ");
        for range in ranges.iter().chain([&joined]) {
            if let Err(error) = range.parse::<Range>() {
                return Err(error.to_string());
            }
        }
        self.semver = Some(joined.clone());
        Ok(joined)
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

/// Tags of every kind, to try selections on.
const SAMPLES: [&str; 8] = [
    "latest",
    "edge",
    "1",
    "1.2.3",
    "v1.2.3",
    "1.2.3-alpine3.20",
    "2.0.0-rc.1",
    "bookworm-20240115-slim",
];

/// Says whether a selection takes no tag, whatever a repository has: what it names or its range and what it excludes
/// contradict each other.
pub(crate) fn takes_nothing(selection: &TagSelection) -> bool {
    if !selection.regex.is_empty() {
        // What an expression matches cannot be listed; but one tag that is not excluded is enough.
        return !SAMPLES.iter().any(|tag| !excludes(selection, tag));
    }
    let named = selection.include.iter().map(|name| name.as_str().parse());
    let named: Result<Vec<Tag>, _> = named.collect();
    let tried = match named {
        Ok(named) if !named.is_empty() => named,
        _ => {
            let open = TagSelection {
                include: Vec::new(),
                ..selection.clone()
            };
            return none_of(&open, &candidates(selection.semver.as_deref()));
        }
    };
    none_of(selection, &tried)
}

fn excludes(selection: &TagSelection, tag: &str) -> bool {
    let (patterns, expressions) = (&selection.exclude, &selection.exclude_regex);
    patterns.iter().any(|pattern| pattern.matches(tag))
        || expressions.iter().any(|regex| regex.matches(tag))
}

fn none_of(selection: &TagSelection, tags: &[Tag]) -> bool {
    select(selection, tags).is_ok_and(|selected| selected.tags.is_empty())
}

/// Returns tags of which at least one is in a range, if anything is: its bounds, and what comes after them.
fn candidates(range: Option<&str>) -> Vec<Tag> {
    let mut tags: Vec<String> = SAMPLES.iter().map(ToString::to_string).collect();
    let bounds = range
        .unwrap_or_default()
        .split(|c: char| " <>=!^~|,".contains(c));
    for bound in bounds.filter(|bound| !bound.is_empty()) {
        let numbers: Vec<u64> = bound
            .split('.')
            .map_while(|n| n.trim_start_matches('v').parse().ok())
            .collect();
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| numbers.get(at).copied().unwrap_or_default());
        let next = |number: u64| number.saturating_add(1);
        tags.push(bound.to_owned());
        for version in [
            format!("{a}.{b}.{c}"),
            format!("{a}.{b}.{c}.{}", next(d)),
            format!("{a}.{b}.{}", next(c)),
            format!("{a}.{}.0", next(b)),
            format!("{}.0.0", next(a)),
        ] {
            tags.push(format!("{version}-alpine"));
            tags.push(format!("v{version}"));
            tags.push(version);
        }
    }
    tags.push("0".to_owned());
    tags.iter().filter_map(|tag| tag.parse().ok()).collect()
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

/// Writes a range of regsync, to which `1.22` is `1.22.0` and nothing else; `None` for one that it cannot read.
fn exact_range(written: &str) -> Option<String> {
    let mut bounds = Vec::new();
    for part in written.split_whitespace() {
        let end = part.find(|c: char| c == 'v' || c.is_ascii_digit())?;
        let (operator, version) = part.split_at_checked(end)?;
        let (numbers, pre_release) = match version.split_once('-') {
            Some((numbers, _)) => (numbers, version.get(numbers.len()..)?),
            None => (version, ""),
        };
        let numbers = numbers.strip_prefix('v').unwrap_or(numbers).split('.');
        let mut numbers = numbers
            .map(str::parse)
            .collect::<Result<Vec<u64>, _>>()
            .ok()?;
        numbers.resize(numbers.len().max(3), 0);
        let text: Vec<_> = numbers.iter().map(ToString::to_string).collect();
        let from = format!("{}{pre_release}", text.join("."));
        let above = match (operator, numbers.as_slice()) {
            ("" | "=", _) => {
                bounds.push(format!("={from}"));
                continue;
            }
            (">=" | "<=" | ">" | "<", _) => {
                bounds.push(format!("{operator}{from}"));
                continue;
            }
            ("~", [major, minor, ..]) => format!("{major}.{}.0", minor.checked_add(1)?),
            ("^", [0, 0, patch, ..]) => format!("0.0.{}", patch.checked_add(1)?),
            ("^", [0, minor, ..]) => format!("0.{}.0", minor.checked_add(1)?),
            ("^", [major, ..]) => format!("{}.0.0", major.checked_add(1)?),
            _ => return None,
        };
        bounds.push(format!(">={from} <{above}"));
    }
    (!bounds.is_empty()).then(|| bounds.join(" "))
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
    use sluice_domain::resources::Resource;
    use sluice_policy::TagVersion;

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
    fn a_range_of_regsync_takes_what_it_takes_there() {
        let tags = [
            "1.20", "1.20.5", "1.21.0", "1.22", "1.22.3", "1.23", "1.23.4", "1.24.0", "2.0",
        ];
        for (written, taken) in [
            ("1.22", &["1.22"][..]),
            ("<=1.20", &["1.20"]),
            (">1.23", &["1.23.4", "1.24.0", "2.0"]),
            (">1.20 <1.22", &["1.20.5", "1.21.0"]),
            ("~1", &[]),
            ("~1.22", &["1.22", "1.22.3"]),
            ("^1.23", &["1.23", "1.23.4", "1.24.0"]),
            ("=v1.21", &["1.21.0"]),
        ] {
            let mut selection = Selection::default();
            assert!(selection.exact_ranges(&[written]).unwrap().is_empty());
            let range: Range = selection.semver.unwrap().parse().unwrap();
            let version = |tag: &&&str| range.contains(&TagVersion::parse(tag).unwrap());
            let taken_here: Vec<_> = tags.iter().filter(version).copied().collect();
            assert_eq!(taken_here, taken, "{written}");
        }
        for (zero, above) in [("^0", "0.0.1"), ("^0.2", "0.3.0"), ("^0.0.3", "0.0.4")] {
            assert!(exact_range(zero).unwrap().ends_with(&format!("<{above}")));
        }
        for unreadable in [">= 1.2", "1.2 || 1.4", "1.x", "1.2 - 1.4", "*", "!=1"] {
            assert_eq!(exact_range(unreadable), None, "{unreadable}");
        }
    }

    #[test]
    fn a_selection_that_contradicts_itself_takes_nothing() {
        for (tags, nothing) in [
            ("semver: '>=2 <1'", true),
            ("semver: '>1.2.3 <1.2.4'", false),
            ("semver: '=1.2.3'", false),
            ("semver: '>=3.21'", false),
            ("semver: '>=1-rc1 <1'", false),
            ("semver: '>=1', include: [latest]", true),
            ("include: [latest], exclude: [latest]", true),
            ("include: [latest, '1'], exclude: [latest]", false),
            ("include: ['*-alpine'], semver: '>=3'", false),
            ("regex: ['.*-alpine'], exclude_regex: ['.*']", true),
            ("exclude: ['*']", true),
            ("exclude: ['*-*'], semver: '>=3.17'", false),
            ("newest: 3", false),
        ] {
            let text =
                format!("kind: Mirror\nname: a\nfrom: a.example/a\nto: a\ntags: {{ {tags} }}\n");
            let documents = sluice_policy::check::load(&text).unwrap();
            let Resource::Mirror(mirror) = &documents[0].resource else {
                panic!("{text}");
            };
            assert_eq!(takes_nothing(&mirror.tags), nothing, "{tags}");
        }
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
