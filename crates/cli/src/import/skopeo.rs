//! Reads the YAML files of `skopeo sync --src yaml`: a map of registries, each with images and how they are chosen.

use sluice_domain::{RegistryHost, RemoteRepository, Tag};

use super::document::{Made, MirrorDocument, Writer, secret_name};
use super::filter::{Selection, whole};
use super::tree::{Entry, Node};

/// Turns such a file into documents.
pub(crate) fn convert(name: &str, text: &str, scoped: bool) -> Result<Made, String> {
    let file = Node::read(text)?;
    let mut writer = Writer::default();
    writer.comments.push(
        "skopeo gets its destination as an argument; give `--to` the same registry and path."
            .to_owned(),
    );
    for entry in file.entries() {
        match entry.key.parse::<RegistryHost>() {
            Ok(host) => registry(&mut writer, &host, entry, scoped),
            Err(error) => writer.warn(entry.line, error.to_string()),
        }
    }
    repeated(&mut writer);
    if writer.mirrors.is_empty() {
        return Err("line 1: it names no images; a registry has `images`, `images-by-tag-regex` or `images-by-semver`".to_owned());
    }
    writer.finish(name, "skopeo sync")
}

fn registry(writer: &mut Writer, host: &RegistryHost, entry: &Entry, scoped: bool) {
    for Entry { key, line, node } in entry.node.entries() {
        match key.as_str() {
            "images" | "images-by-tag-regex" | "images-by-semver" => {
                for image in node.entries() {
                    self::image(writer, host, key, image, scoped);
                }
            }
            "credentials" => {
                let username = node.text_of("username").map(ToOwned::to_owned);
                if username.is_none() {
                    writer.warn(*line, "`credentials` without `username` are left out");
                }
                if username.is_some() {
                    writer.registries.entry(host.clone()).or_default().username = username;
                }
            }
            "tls-verify" if node.text() == Some("false") => {
                writer.registries.entry(host.clone()).or_default();
                writer.warn(
                    *line,
                    format!("`tls-verify: false` has no equivalent, certificates are always checked; give `{host}` a `ca`, or `plain_http: true` if it speaks HTTP"),
                );
            }
            "tls-verify" => {}
            "cert-dir" => cert_dir(writer, host, *line, node.text().unwrap_or_default()),
            other => writer.warn(
                *line,
                format!("the key `{other}` is not known and left out"),
            ),
        }
    }
}

fn cert_dir(writer: &mut Writer, host: &RegistryHost, line: usize, folder: &str) {
    let name = format!("{}-ca", secret_name(host));
    writer.warn(
        line,
        format!("`cert-dir` names a folder, `ca` one secret; put the authorities of `{folder}` into the file `{name}` in the folder of secrets. A client certificate goes into `client_certificate` and `client_key`"),
    );
    writer.registries.entry(host.clone()).or_default().ca = Some(name);
}

fn image(writer: &mut Writer, host: &RegistryHost, kind: &str, entry: &Entry, scoped: bool) {
    let Entry { key, line, node } = entry;
    let from = match format!("{host}/{key}").parse::<RemoteRepository>() {
        Ok(from) => from,
        Err(error) => {
            writer.warn(*line, format!("`{key}` is left out: {error}"));
            return;
        }
    };
    let Some(tags) = selection(writer, kind, &from, entry) else {
        return;
    };
    let last = key.rsplit('/').next().unwrap_or(key);
    let to = if scoped {
        // What begins with a host is no local repository.
        let host = host.as_str().replace(['.', ':'], "-");
        format!("{host}/{}", from.repository)
    } else {
        last.to_owned()
    };
    if scoped && host.as_str().contains(['.', ':']) {
        writer.warn(
            *line,
            format!("where images go begins with no host: `{host}/{key}` is copied to `{to}`"),
        );
    }
    writer.mirrors.push(MirrorDocument {
        line: node.line.min(*line),
        from: from.to_string(),
        to,
        tags,
        ..MirrorDocument::default()
    });
}

/// Returns what is chosen; nothing if there is nothing to choose.
fn selection(
    writer: &mut Writer,
    kind: &str,
    from: &RemoteRepository,
    entry: &Entry,
) -> Option<Selection> {
    let Entry { key, line, node } = entry;
    let mut selection = Selection::default();
    let texts: Vec<(usize, &str)> = node
        .items()
        .into_iter()
        .filter_map(|item| Some((item.line, item.text()?)))
        .collect();
    match kind {
        "images" => {
            for (line, text) in &texts {
                if text.starts_with("sha256:") {
                    writer.warn(
                        *line,
                        format!("a Mirror follows tags; copy the digest with `sluice copy {from}@{text} ...`"),
                    );
                } else if text.parse::<Tag>().is_ok() {
                    selection.include.push((*text).to_owned());
                } else {
                    writer.warn(*line, format!("`{text}` is no tag and left out"));
                }
            }
            // An empty list means every tag, but one of which nothing is left does not.
            let is_left = !selection.include.is_empty() || node.items().is_empty();
            is_left.then_some(selection)
        }
        "images-by-tag-regex" => {
            for (line, text) in &texts {
                if let Err(error) = selection.allow(&whole(text)) {
                    writer.warn(*line, format!("`{key}` is left out: {error}"));
                    return None;
                }
            }
            (!texts.is_empty()).then_some(selection)
        }
        _ => {
            let ranges: Vec<&str> = texts.iter().map(|(_, text)| *text).collect();
            if ranges.is_empty() {
                return None;
            }
            if let Err(error) = selection.ranges(&ranges) {
                writer.warn(*line, format!("`{key}` is left out: {error}"));
                return None;
            }
            writer.warn(
                *line,
                format!("to skopeo a date as `20240115` is a version, which `{}` would take; it is none here", ranges.join(" || ")),
            );
            Some(selection)
        }
    }
}

/// Tells which repositories of several registries would meet in one.
fn repeated(writer: &mut Writer) {
    let mut told = Vec::new();
    for (number, mirror) in writer.mirrors.iter().enumerate() {
        let mut before = writer.mirrors.iter().take(number);
        if let Some(other) = before.find(|other| other.to == mirror.to && other.from != mirror.from)
        {
            told.push((
                mirror.line,
                format!(
                    "`{}` and `{}` both go to `{}`, as skopeo has it without `--scoped`; change one `to`",
                    other.from, mirror.from, mirror.to
                ),
            ));
        }
    }
    for (line, text) in told {
        writer.warn(line, text);
    }
}
