//! Converts the tag filters of other tools to a tag selection: lists, regular expressions, version ranges.

use sluice_domain::resources::TagSelection;
use sluice_domain::{NameRegex, Tag};
use sluice_policy::{Range, select};

/// The tag selection of a `Mirror` document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selection {
    pub(crate) semver: Option<String>,
    pub(crate) include: Vec<String>,
    pub(crate) regex: Vec<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) exclude_regex: Vec<String>,
}

impl Selection {
    /// Adds version ranges of skopeo, which match if any of them does; its library has the syntax of ours.
    pub(crate) fn ranges(&mut self, ranges: &[&str]) -> Result<(), String> {
        let ranges: Vec<_> = ranges
            .iter()
            .map(|written| convert_range(written))
            .collect();
        let joined = self.join(&ranges)?;
        // skopeo reads `1.2.3-alpine` as a pre-release, which a range without a pre-release does not match.
        if !joined.contains('-') {
            self.exclude.push("*-*".to_owned());
        }
        Ok(())
    }

    /// Adds version ranges of regsync, which match if any of them does; returns those that regsync cannot parse.
    pub(crate) fn exact_ranges(&mut self, ranges: &[&str]) -> Result<Vec<String>, String> {
        let (mut all, mut unreadable) = (Vec::new(), Vec::new());
        for written in ranges {
            all.push(convert_exact_range(written).unwrap_or_else(|| {
                unreadable.push((*written).to_owned());
                convert_range(written)
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

    /// Includes tags that match an expression as a whole.
    pub(crate) fn allow(&mut self, expression: &str) -> Result<(), String> {
        add_expression(expression, &mut self.include, &mut self.regex)
    }

    /// Excludes tags that match an expression as a whole.
    pub(crate) fn deny(&mut self, expression: &str) -> Result<(), String> {
        add_expression(expression, &mut self.exclude, &mut self.exclude_regex)
    }
}

/// Tags of every kind, to test selections with.
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

/// Tells whether a selection can match no tag at all, because its includes or its range contradict its excludes.
pub(crate) fn matches_no_tag(selection: &TagSelection) -> bool {
    if !selection.regex.is_empty() {
        // The matches of an expression cannot be enumerated; one tag that is not excluded is enough.
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
            return none_of(&open, &sample_tags(selection.semver.as_deref()));
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

/// Returns tags of which at least one is in a range unless the range is empty: its bounds and the versions after them.
fn sample_tags(range: Option<&str>) -> Vec<Tag> {
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

/// Adds an expression to the tags if it matches one tag only, else to the regular expressions.
fn add_expression(
    expression: &str,
    tags: &mut Vec<String>,
    regex: &mut Vec<String>,
) -> Result<(), String> {
    match literal_tag(expression) {
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

/// Returns the only tag that an expression matches, if it has no wildcard.
fn literal_tag(expression: &str) -> Option<String> {
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

/// Converts an expression that may match anywhere in a tag to one that matches the whole tag.
pub(crate) fn anchored(expression: &str) -> String {
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

/// Converts a range of regsync, in which `1.22` means exactly `1.22.0`; `None` if regsync cannot parse it.
fn convert_exact_range(written: &str) -> Option<String> {
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

/// Converts a range to our syntax: `>= 3.17` without the space, `3.12 - 3.13` as two bounds.
fn convert_range(written: &str) -> String {
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
    fn ranges_are_converted_to_our_syntax() {
        for (written, meant) in [
            (">= 3.17", ">=3.17"),
            ("3.12 - 3.13", ">=3.12 <=3.13"),
            (">= 1.2, < 2.0 || ^3", ">=1.2, <2.0 || ^3"),
            ("~> 1.2", "~1.2"),
            (">= v25.3.0", ">=v25.3.0"),
        ] {
            assert_eq!(convert_range(written), meant);
            convert_range(written).parse::<Range>().unwrap();
        }
        let mut selection = Selection::default();
        selection.ranges(&["3.12 - 3.13", ">= 3.17"]).unwrap();
        assert_eq!(selection.semver.as_deref(), Some(">=3.12 <=3.13 || >=3.17"));
        assert_eq!(selection.exclude, ["*-*"]);
        assert!(Selection::default().ranges(&["newest"]).is_err());
    }

    #[test]
    fn a_range_of_regsync_matches_the_same_tags() {
        let tags = [
            "1.20", "1.20.5", "1.21.0", "1.22", "1.22.3", "1.23", "1.23.4", "1.24.0", "2.0",
        ];
        for (written, matched) in [
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
            let matched_here: Vec<_> = tags.iter().filter(version).copied().collect();
            assert_eq!(matched_here, matched, "{written}");
        }
        for (zero, above) in [("^0", "0.0.1"), ("^0.2", "0.3.0"), ("^0.0.3", "0.0.4")] {
            assert!(
                convert_exact_range(zero)
                    .unwrap()
                    .ends_with(&format!("<{above}"))
            );
        }
        for unreadable in [">= 1.2", "1.2 || 1.4", "1.x", "1.2 - 1.4", "*", "!=1"] {
            assert_eq!(convert_exact_range(unreadable), None, "{unreadable}");
        }
    }

    #[test]
    fn a_selection_that_contradicts_itself_matches_no_tag() {
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
            assert_eq!(matches_no_tag(&mirror.tags), nothing, "{tags}");
        }
    }

    #[test]
    fn expressions_match_the_same_tags() {
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
    fn an_expression_that_may_match_anywhere_is_anchored() {
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
            let anchored: NameRegex = anchored(expression).parse().unwrap();
            assert_eq!(anchored.matches(name), matches, "{expression} {name}");
        }
    }
}
