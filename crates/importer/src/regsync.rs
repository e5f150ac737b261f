//! Converts a regsync configuration: credentials, defaults, and entries for repositories or images.

use sluice_domain::{DurationText, RegistryHost};
use sluice_registry::RemoteImage;

use crate::Error;
use crate::documents::{Conversion, DocumentWriter, MirrorDocument, secret_name};
use crate::selection::Selection;
use crate::yaml::{Entry, Node};

/// Keys of entries and defaults without an equivalent, and what to do instead.
const NO_EQUIVALENT: [(&str, &str); 12] = [
    (
        "schedule",
        "mirrors are polled at an interval; set `every`, or run `sluice sync` from cron",
    ),
    (
        "backup",
        "an old image is not kept under another tag; a running Sluice records what a tag pointed to before",
    ),
    (
        "hooks",
        "regsync does not run them either; a running Sluice has webhooks",
    ),
    (
        "mediaTypes",
        "images and indexes of OCI and Docker are copied, whatever this says",
    ),
    (
        "referrerFilters",
        "referrers are not chosen by type or annotation",
    ),
    (
        "referrerSource",
        "referrers come from the repository of the image",
    ),
    (
        "referrerTarget",
        "referrers go to the repository of the image",
    ),
    ("includeExternal", "foreign layers are never copied"),
    (
        "forceRecursive",
        "blobs of a manifest that exists are not checked again",
    ),
    (
        "skipDockerConfig",
        "name every account in a Registry document instead",
    ),
    ("userAgent", "the user agent is always that of Sluice"),
    (
        "blobLimit",
        "blobs are streamed, so their size needs no limit",
    ),
];
/// Keys that do not affect the result of a copy.
const WITHOUT_EFFECT: [&str; 4] = ["fastCheck", "cacheCount", "cacheTime", "version"];
/// Keys of credentials without an equivalent.
const NO_EQUIVALENT_CREDENTIALS: [(&str, &str); 11] = [
    (
        "token",
        "name a secret with the token in `password`, beside a `username`",
    ),
    (
        "credHelper",
        "name a secret with Docker's `config.json` and that helper in `docker_config`",
    ),
    (
        "hostname",
        "a registry is reached by the name that it has in references",
    ),
    ("pathPrefix", "write the whole path into `from` or `to`"),
    ("mirrors", "there is one address for each registry"),
    ("priority", "there is one address for each registry"),
    (
        "api",
        "only the API of the OCI distribution specification is supported",
    ),
    (
        "apiOpts",
        "only the API of the OCI distribution specification is supported",
    ),
    ("blobChunk", "blobs are sent as one stream"),
    ("blobMax", "blobs are sent as one stream"),
    (
        "reqPerSec",
        "limit connections with `--max-connections`, or bandwidth with `--bandwidth`",
    ),
];

/// Converts a regsync configuration to resources; with a target, only the entries for that registry.
pub fn convert(name: &str, text: &str, target: Option<&RegistryHost>) -> Result<Conversion, Error> {
    let file = Node::parse(text)?;
    let mut writer = DocumentWriter::default();
    let empty = Node::parse("~")?;
    let defaults = file.get("defaults").unwrap_or(&empty);
    for Entry { key, line, node } in file.entries() {
        match key.as_str() {
            "version" if node.text() != Some("1") => {
                writer.warn(*line, "only version 1 is supported");
            }
            "version" | "defaults" | "sync" => {}
            "creds" => {
                for account in node.items() {
                    convert_credentials(&mut writer, account);
                }
            }
            // Keys for YAML anchors.
            other if other.starts_with("x-") => {}
            other => writer.warn(*line, format!("unknown key `{other}`, ignored")),
        }
    }
    report_defaults(&mut writer, defaults);
    for step in file.get("sync").map(Node::items).unwrap_or_default() {
        convert_entry(&mut writer, step, defaults);
    }
    let targets = writer.targets();
    let hosts: Vec<_> = targets.iter().map(ToString::to_string).collect();
    if let Some(target) = target {
        if !targets.contains(target) {
            let hosts = hosts.join(", ");
            let reason = format!("no supported entry has the target `{target}`; targets: {hosts}");
            return Err(Error::new(1, reason));
        }
        writer
            .mirrors
            .retain(|mirror| mirror.target.as_ref() == Some(target));
    } else if targets.len() > 1 {
        writer.warn(
            1,
            format!(
                "several targets: {}; `sluice sync` takes one, so import the file once for each with `--target`",
                hosts.join(", ")
            ),
        );
    }
    if writer.mirrors.is_empty() {
        return Err(Error::new(1, "no supported entry under `sync`"));
    }
    writer.finish(name, "regsync")
}

fn convert_credentials(writer: &mut DocumentWriter, account: &Node) {
    let Some(Ok(host)) = account.text_of("registry").map(str::parse::<RegistryHost>) else {
        writer.warn(
            account.line,
            "credentials without a valid `registry`, ignored",
        );
        return;
    };
    writer.registries.entry(host.clone()).or_default();
    for Entry { key, line, node } in account.entries() {
        let value = node.text().unwrap_or_default();
        let unknown = NO_EQUIVALENT_CREDENTIALS
            .iter()
            .find(|(name, _)| name == key);
        if let Some((name, instead)) = unknown {
            if !(*name == "hostname" && value == host.as_str()) {
                writer.warn(*line, format!("`{name}` has no equivalent: {instead}"));
            }
            continue;
        }
        let Some(registry) = writer.registries.get_mut(&host) else {
            continue;
        };
        match key.as_str() {
            "registry" | "pass" | "repoAuth" | "credExpire" => {}
            "user" if is_template(value) => {
                registry.username = Some("USERNAME".to_owned());
                writer.warn(*line, "`user` is a template; replace `USERNAME` with the name");
            }
            "user" => registry.username = Some(value.to_owned()),
            "tls" => match value {
                "disabled" => registry.plain_http = true,
                "insecure" => writer.warn(
                    *line,
                    format!("`tls: insecure` has no equivalent: certificates are always verified; set `ca` for `{host}`"),
                ),
                _ => {}
            },
            "regcert" => {
                let name = format!("{}-ca", secret_name(&host));
                registry.ca = Some(name.clone());
                writer.warn(*line, format!("store the certificate of `regcert` as `{name}` in the folder of secrets"));
            }
            "clientCert" | "clientKey" => registry.client_certificate = true,
            "reqConcurrent" => writer
                .comments
                .push(format!("regsync made {value} requests at a time to {host}: `--max-connections`.")),
            other => writer.warn(*line, format!("unknown key `{other}`, ignored")),
        }
    }
}

/// Reports the defaults that belong to no entry.
fn report_defaults(writer: &mut DocumentWriter, defaults: &Node) {
    for entry in defaults.entries() {
        match entry.key.as_str() {
            "parallel" => {
                let parallel = entry.node.text().unwrap_or_default();
                writer
                    .comments
                    .push(format!("regsync copied {parallel} images at a time: `sluice sync --parallel {parallel}`."));
            }
            "interval" => {}
            _ => report_key(writer, entry),
        }
    }
}

/// Reports a key of an entry or of the defaults that is not converted.
fn report_key(writer: &mut DocumentWriter, entry: &Entry) {
    let Entry { key, line, node } = entry;
    if let Some((_, instead)) = NO_EQUIVALENT.iter().find(|(name, _)| name == key) {
        writer.warn(*line, format!("`{key}` has no equivalent: {instead}"));
        return;
    }
    match key.as_str() {
        "ratelimit" => {
            for inner in node.entries() {
                match inner.key.as_str() {
                    "min" => {}
                    "retry" => writer.comments.push(
                        "After an exhausted quota the registry says how long to wait; `retry` is not needed.".to_owned(),
                    ),
                    other => writer.warn(inner.line, format!("unknown key `{other}`, ignored")),
                }
            }
        }
        "digestTags" | "referrers" if node.text() == Some("true") => {
            let hint = "Copy signatures and other referrers too: `sluice sync --referrers`.";
            if !writer.comments.iter().any(|comment| comment == hint) {
                writer.comments.push(hint.to_owned());
            }
        }
        "digestTags" | "referrers" => {}
        known if WITHOUT_EFFECT.contains(&known) => {}
        other => writer.warn(*line, format!("unknown key `{other}`, ignored")),
    }
}

fn convert_entry(writer: &mut DocumentWriter, step: &Node, defaults: &Node) {
    for entry in step.entries() {
        match entry.key.as_str() {
            "source" | "target" | "type" | "tags" | "tagSets" | "repos" | "platform"
            | "platforms" | "interval" => {}
            _ => report_key(writer, entry),
        }
    }
    let Some((source, target)) = parse_endpoints(writer, step) else {
        return;
    };
    let mut mirror = MirrorDocument {
        line: step.line,
        from: source.repository.to_string(),
        to: target.repository.repository.to_string(),
        target: Some(target.repository.host.clone()),
        every: convert_interval(writer, step, defaults),
        ..MirrorDocument::default()
    };
    convert_platforms(writer, step, &mut mirror);
    convert_reserve(writer, step, defaults, &source);
    if step.text_of("type") == Some("image") {
        if convert_image(writer, step, (&source, &target), &mut mirror) {
            writer.mirrors.push(mirror);
        }
        return;
    }
    let sets = step.get("tagSets").map(Node::items).unwrap_or_default();
    let sets: Vec<&Node> = step.get("tags").into_iter().chain(sets).collect();
    if sets.len() > 1 {
        writer.warn(
            step.line,
            "several tag sets become several mirrors; a running Sluice requires each tag to be in one of them only",
        );
    }
    if sets.is_empty() {
        writer.mirrors.push(mirror);
        return;
    }
    for set in sets {
        if let Some(tags) = convert_tags(writer, set) {
            writer.mirrors.push(MirrorDocument {
                tags,
                ..mirror.clone()
            });
        }
    }
}

/// Returns source and target, if both are supported.
fn parse_endpoints(writer: &mut DocumentWriter, step: &Node) -> Option<(RemoteImage, RemoteImage)> {
    let kind = step.text_of("type").unwrap_or_default();
    if !matches!(kind, "repository" | "image") {
        writer.warn(
            step.line,
            format!("entries of type `{kind}` have no equivalent, ignored; write one Mirror for each repository"),
        );
        return None;
    }
    let mut read = |key: &str| {
        let Some(node) = step.get(key) else {
            writer.warn(step.line, format!("entry without `{key}`, ignored"));
            return None;
        };
        let text = node.text().unwrap_or_default();
        if is_template(text) {
            writer.warn(
                node.line,
                format!("`{key}` is a template, which is not supported; write out its value"),
            );
            return None;
        }
        if text.starts_with("ocidir://") || text.starts_with("ocifile://") {
            writer.warn(
                node.line,
                format!("`{key}` is a folder; only registries are supported"),
            );
            return None;
        }
        match text.parse::<RemoteImage>() {
            Ok(image) => Some(image),
            Err(error) => {
                writer.warn(node.line, error.to_string());
                None
            }
        }
    };
    let (source, target) = (read("source"), read("target"));
    Some((source?, target?))
}

/// Adds the tag of an image entry to a mirror; false if a mirror cannot express the entry.
fn convert_image(
    writer: &mut DocumentWriter,
    step: &Node,
    (source, target): (&RemoteImage, &RemoteImage),
    mirror: &mut MirrorDocument,
) -> bool {
    let latest = || "latest".to_owned();
    let tag = source.tag.clone().map_or_else(latest, String::from);
    let renamed = target.tag.clone().map_or_else(latest, String::from);
    if source.digest.is_some() || tag != renamed {
        writer.warn(
            step.line,
            format!("a Mirror keeps tag names and follows no digest; use `sluice copy {source} {target}`"),
        );
        return false;
    }
    mirror.tags.include.push(tag);
    true
}

fn convert_tags(writer: &mut DocumentWriter, set: &Node) -> Option<Selection> {
    let mut selection = Selection::default();
    for Entry { key, line, node } in set.entries() {
        let texts: Vec<&str> = node.items().into_iter().filter_map(Node::text).collect();
        let added = match key.as_str() {
            "allow" => texts.iter().try_for_each(|text| selection.allow(text)),
            "deny" => texts.iter().try_for_each(|text| selection.deny(text)),
            "semverRange" if texts.is_empty() => Ok(()),
            "semverRange" => convert_ranges(writer, *line, &mut selection, &texts),
            other => {
                writer.warn(*line, format!("unknown key `{other}`, ignored"));
                Ok(())
            }
        };
        if let Err(error) = added {
            writer.warn(*line, format!("entry ignored because of `{key}`: {error}"));
            return None;
        }
    }
    Some(selection)
}

/// Adds version ranges, and reports how regsync reads them differently.
fn convert_ranges(
    writer: &mut DocumentWriter,
    line: usize,
    selection: &mut Selection,
    texts: &[&str],
) -> Result<(), String> {
    let unreadable = selection.exact_ranges(texts)?;
    for range in unreadable {
        writer.warn(
            line,
            format!("`semverRange`: regsync cannot parse `{range}`; it is converted to its usual meaning"),
        );
    }
    let semver = selection.semver.as_deref().unwrap_or_default();
    writer.warn(
        line,
        format!("`semverRange` becomes `{semver}`, which matches versions and their variants; regsync also matches pre-releases (`1.2-rc1`) and dates (`20240115`), and sorts `1.2-alpine` below `1.2`: check the selected tags with `sluice tags`"),
    );
    Ok(())
}

fn convert_platforms(writer: &mut DocumentWriter, step: &Node, mirror: &mut MirrorDocument) {
    if let Some(platform) = step.get("platform") {
        writer.warn(
            platform.line,
            "`platform` extracts a single image from an index; a Mirror copies the index, filtered to this platform",
        );
    }
    for key in ["platform", "platforms"] {
        for item in step.get(key).map(Node::items).unwrap_or_default() {
            mirror.platforms.extend(item.text().map(ToOwned::to_owned));
        }
    }
}

/// Converts the minimum of the rate limit to a reserve of pulls.
fn convert_reserve(
    writer: &mut DocumentWriter,
    step: &Node,
    defaults: &Node,
    source: &RemoteImage,
) {
    let minimum = |node: &Node| node.get("ratelimit")?.text_of("min")?.parse::<u32>().ok();
    if let Some(minimum) = minimum(step).or_else(|| minimum(defaults)) {
        let host = source.repository.host.clone();
        let reserve = &mut writer.registries.entry(host).or_default().reserve;
        *reserve = Some(reserve.unwrap_or_default().max(minimum));
    }
}

fn convert_interval(
    writer: &mut DocumentWriter,
    step: &Node,
    defaults: &Node,
) -> Option<DurationText> {
    // A schedule of the entry overrides an interval of the defaults.
    let own = step.get("interval");
    let node = match (own, step.get("schedule")) {
        (Some(own), _) => own,
        (None, Some(_)) => return None,
        (None, None) => defaults.get("interval")?,
    };
    let seconds = parse_duration(node.text().unwrap_or_default());
    if seconds.is_none() {
        writer.warn(node.line, "invalid `interval`, ignored");
    }
    if seconds.is_some_and(|seconds| seconds < 2) {
        writer.warn(node.line, "`interval` becomes `2s`, the minimum");
    }
    seconds.map(|seconds| DurationText::from_secs(seconds.max(2)))
}

/// Parses a Go duration such as `1h30m` to whole seconds.
fn parse_duration(text: &str) -> Option<u64> {
    let (mut total, mut number) = (0_u64, String::new());
    for c in text.chars() {
        let scale = match c {
            '0'..='9' => {
                number.push(c);
                continue;
            }
            'h' => 3_600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        let count: u64 = std::mem::take(&mut number).parse().ok()?;
        total = total.checked_add(count.checked_mul(scale)?)?;
    }
    (number.is_empty() && total > 0).then_some(total)
}

fn is_template(text: &str) -> bool {
    text.contains("{{")
}
