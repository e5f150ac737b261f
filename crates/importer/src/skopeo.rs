//! Converts the YAML files of `skopeo sync --src yaml`: a map of registries, each with images and their tag filters.

use sluice_domain::{RegistryHost, RemoteRepository, Tag};

use crate::Error;
use crate::documents::{Conversion, DocumentWriter, MirrorDocument, secret_name};
use crate::selection::{Selection, anchored};
use crate::yaml::{Entry, Node};

/// Converts a skopeo file to resources; `scoped` keeps registry and path in the destination, as `skopeo sync --scoped` does.
pub fn convert(name: &str, text: &str, scoped: bool) -> Result<Conversion, Error> {
    let file = Node::parse(text)?;
    let mut writer = DocumentWriter::default();
    writer.comments.push(
        "skopeo takes its destination as an argument; pass the same registry and path to `--to`."
            .to_owned(),
    );
    for entry in file.entries() {
        match entry.key.parse::<RegistryHost>() {
            Ok(host) => convert_registry(&mut writer, &host, entry, scoped),
            Err(error) => writer.warn(entry.line, error.to_string()),
        }
    }
    warn_about_shared_destinations(&mut writer);
    if writer.mirrors.is_empty() {
        return Err(Error::new(
            1,
            "no images; a registry has `images`, `images-by-tag-regex` or `images-by-semver`",
        ));
    }
    writer.finish(name, "skopeo sync")
}

fn convert_registry(writer: &mut DocumentWriter, host: &RegistryHost, entry: &Entry, scoped: bool) {
    for Entry { key, line, node } in entry.node.entries() {
        match key.as_str() {
            "images" | "images-by-tag-regex" | "images-by-semver" => {
                for image in node.entries() {
                    convert_image(writer, host, key, image, scoped);
                }
            }
            "credentials" => {
                let username = node.text_of("username").map(ToOwned::to_owned);
                if username.is_none() {
                    writer.warn(*line, "`credentials` without `username`, ignored");
                }
                if username.is_some() {
                    writer.registries.entry(host.clone()).or_default().username = username;
                }
            }
            "tls-verify" if node.text() == Some("false") => {
                writer.registries.entry(host.clone()).or_default();
                writer.warn(
                    *line,
                    format!("`tls-verify: false` has no equivalent: certificates are always verified; set `ca` for `{host}`, or `plain_http: true` if it speaks HTTP"),
                );
            }
            "tls-verify" => {}
            "cert-dir" => convert_cert_dir(writer, host, *line, node.text().unwrap_or_default()),
            other => writer.warn(*line, format!("unknown key `{other}`, ignored")),
        }
    }
}

fn convert_cert_dir(writer: &mut DocumentWriter, host: &RegistryHost, line: usize, folder: &str) {
    let name = format!("{}-ca", secret_name(host));
    writer.warn(
        line,
        format!("`cert-dir` becomes the secret `{name}`: store the authorities of `{folder}` in that file in the folder of secrets; a client certificate goes into `client_certificate` and `client_key`"),
    );
    writer.registries.entry(host.clone()).or_default().ca = Some(name);
}

fn convert_image(
    writer: &mut DocumentWriter,
    host: &RegistryHost,
    kind: &str,
    entry: &Entry,
    scoped: bool,
) {
    let Entry { key, line, node } = entry;
    let from = match format!("{host}/{key}").parse::<RemoteRepository>() {
        Ok(from) => from,
        Err(error) => {
            writer.warn(*line, format!("`{key}` ignored: {error}"));
            return;
        }
    };
    let Some(tags) = convert_tags(writer, kind, &from, entry) else {
        return;
    };
    let last = key.rsplit('/').next().unwrap_or(key);
    let to = if scoped {
        // The first component of a local repository is no host.
        let host = host.as_str().replace(['.', ':'], "-");
        format!("{host}/{}", from.repository)
    } else {
        last.to_owned()
    };
    if scoped && host.as_str().contains(['.', ':']) {
        writer.warn(
            *line,
            format!("a destination does not start with a host: `{host}/{key}` is copied to `{to}`"),
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

/// Converts a tag filter; `None` if it selects nothing.
fn convert_tags(
    writer: &mut DocumentWriter,
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
                        format!("a Mirror follows tags; copy a digest with `sluice copy {from}@{text} ...`"),
                    );
                } else if text.parse::<Tag>().is_ok() {
                    selection.include.push((*text).to_owned());
                } else {
                    writer.warn(*line, format!("`{text}` is not a tag, ignored"));
                }
            }
            // An empty list means every tag; a list without a valid tag means none.
            let is_selecting = !selection.include.is_empty() || node.items().is_empty();
            is_selecting.then_some(selection)
        }
        "images-by-tag-regex" => {
            for (line, text) in &texts {
                if let Err(error) = selection.allow(&anchored(text)) {
                    writer.warn(*line, format!("`{key}` ignored: {error}"));
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
                writer.warn(*line, format!("`{key}` ignored: {error}"));
                return None;
            }
            writer.warn(
                *line,
                format!("skopeo reads a date such as `20240115` as a version, which `{}` would match; a Mirror does not", ranges.join(" || ")),
            );
            Some(selection)
        }
    }
}

/// Warns about repositories of several registries that have the same destination.
fn warn_about_shared_destinations(writer: &mut DocumentWriter) {
    let mut warnings = Vec::new();
    for (number, mirror) in writer.mirrors.iter().enumerate() {
        let mut before = writer.mirrors.iter().take(number);
        if let Some(other) = before.find(|other| other.to == mirror.to && other.from != mirror.from)
        {
            warnings.push((
                mirror.line,
                format!(
                    "`{}` and `{}` have the same destination `{}`, as with skopeo without `--scoped`; change one `to`",
                    other.from, mirror.from, mirror.to
                ),
            ));
        }
    }
    for (line, text) in warnings {
        writer.warn(line, text);
    }
}
