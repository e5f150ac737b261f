//! The forms of attachments: statements, signatures, SBOMs. Pure.
//!
//! A blob must have its form to the end, so that no client can unpack a part of it.

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::content::attachment::magic::detect_unpackable;

/// The prefix of the types of in-toto statements of all versions.
const IN_TOTO: &str = "https://in-toto.io/Statement/";
/// The prefix of the media types of sigstore's bundles of all versions.
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle";
/// How far arrays and maps of CBOR may be nested.
const MOST_NESTED: usize = 32;

/// The form of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The payload that cosign signs, "simple signing".
    SimpleSigning,
    /// An envelope of the dead simple signing envelope specification.
    Dsse,
    /// An in-toto statement, alone or in an envelope.
    InToto,
    /// A bundle of sigstore.
    Bundle,
    /// SPDX as JSON.
    SpdxJson,
    /// SPDX as tags with values, or as JSON.
    Spdx,
    /// `CycloneDX` as JSON.
    CycloneDxJson,
    /// `CycloneDX` as XML.
    CycloneDxXml,
    /// `CycloneDX` as JSON or XML.
    CycloneDx,
    /// A JSON web signature.
    Jws,
    /// A signature in CBOR (RFC 9052).
    Cose,
    /// The empty object.
    Empty,
}

impl Form {
    /// Returns why some bytes do not have this form, or could be unpacked.
    pub(crate) fn fault(self, bytes: &[u8]) -> Option<String> {
        if let Some(name) = detect_unpackable(bytes) {
            return Some(format!("it begins as {name}"));
        }
        let text = std::str::from_utf8(bytes).ok();
        let holds = match self {
            Self::Cose => is_cose(bytes),
            Self::Empty => bytes == b"{}",
            _ => text.is_some_and(|text| self.is_text(text)),
        };
        (!holds).then(|| format!("it is no {}", self.name()))
    }

    fn is_text(self, text: &str) -> bool {
        match self {
            Self::SimpleSigning => parse::<SimpleSigning>(text).is_some(),
            Self::Dsse => is_envelope(text),
            Self::InToto => is_statement(text),
            Self::Bundle => {
                parse(text).is_some_and(|parsed: Bundle| parsed.media_type.starts_with(BUNDLE))
            }
            Self::SpdxJson => is_spdx_json(text),
            Self::Spdx => is_spdx_tags(text) || is_spdx_json(text),
            Self::CycloneDxJson => is_cyclone_json(text),
            Self::CycloneDxXml => is_cyclone_xml(text),
            Self::CycloneDx => is_cyclone_json(text) || is_cyclone_xml(text),
            Self::Jws => parse::<WebSignature>(text).is_some(),
            Self::Cose | Self::Empty => false,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::SimpleSigning => "payload of cosign",
            Self::Dsse => "DSSE envelope",
            Self::InToto => "in-toto statement",
            Self::Bundle => "bundle of sigstore",
            Self::SpdxJson | Self::Spdx => "SPDX document",
            Self::CycloneDxJson | Self::CycloneDxXml | Self::CycloneDx => "CycloneDX document",
            Self::Jws => "JSON web signature",
            Self::Cose => "COSE signature",
            Self::Empty => "empty object",
        }
    }
}

/// Parses an object with some members; bytes after it are a fault.
fn parse<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

#[derive(Deserialize)]
struct SimpleSigning {
    #[serde(rename = "critical")]
    _critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    _kind: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
}

#[derive(Deserialize)]
struct WebSignature {
    #[serde(rename = "payload")]
    _payload: String,
    #[serde(rename = "protected")]
    _protected: String,
    #[serde(rename = "signature")]
    _signature: String,
}

/// SPDX 2 says its version; version 3 is JSON-LD and names its context.
#[derive(Deserialize)]
struct Spdx {
    #[serde(rename = "spdxVersion")]
    version: Option<String>,
    #[serde(rename = "@context")]
    context: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CycloneDx {
    bom_format: String,
}

/// What is read of a statement or an envelope; a member that is there twice is refused.
#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    kind: Option<String>,
    #[serde(rename = "payloadType")]
    payload_type: Option<String>,
    payload: Option<String>,
    signatures: Option<Vec<IgnoredAny>>,
}

impl Statement {
    fn is_envelope(&self) -> bool {
        let members = (&self.payload_type, &self.payload, &self.signatures);
        matches!(members, (Some(_), Some(_), Some(_)))
    }
}

fn is_envelope(text: &str) -> bool {
    parse(text).is_some_and(|parsed: Statement| parsed.is_envelope())
}

fn is_statement(text: &str) -> bool {
    parse(text).is_some_and(|parsed: Statement| {
        let payload = parsed.payload_type.as_deref();
        let is_wrapped = parsed.is_envelope() && payload == Some("application/vnd.in-toto+json");
        is_wrapped || parsed.kind.is_some_and(|kind| kind.starts_with(IN_TOTO))
    })
}

fn is_spdx_json(text: &str) -> bool {
    let begins = |text: Option<String>, with| text.is_some_and(|text| text.starts_with(with));
    parse(text).is_some_and(|parsed: Spdx| {
        begins(parsed.version, "SPDX-") || begins(parsed.context, "https://spdx.org/")
    })
}

/// The first tag of a document is its version (SPDX 2.3, 6.1); comments may stand before it.
fn is_spdx_tags(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| line.starts_with("SPDXVersion:")) && is_plain(text)
}

fn is_cyclone_json(text: &str) -> bool {
    parse(text).is_some_and(|parsed: CycloneDx| parsed.bom_format == "CycloneDX")
}

/// The element `bom` of the namespace of `CycloneDX` and nothing after it.
fn is_cyclone_xml(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}').trim();
    let body = match text.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").map(|(_, body)| body.trim_start()),
        None => Some(text),
    };
    let is_root = |body: &str| {
        let element = body.split_once('>').map(|(element, _)| element);
        body.starts_with("<bom")
            && element.is_some_and(|element| element.contains("http://cyclonedx.org/schema/bom/"))
            && body.ends_with("</bom>")
    };
    body.is_some_and(is_root) && is_plain(text)
}

fn is_plain(text: &str) -> bool {
    text.chars()
        .all(|c| !c.is_control() || matches!(c, '\t' | '\n' | '\r'))
}

/// `COSE_Sign1`: tag 18 over an array of four, and nothing after it.
fn is_cose(bytes: &[u8]) -> bool {
    matches!(bytes, [0xd2, 0x84, ..]) && item(bytes, MOST_NESTED) == Some(&[])
}

/// Passes over one item of CBOR of a definite length (RFC 8949), and returns what follows it.
fn item(bytes: &[u8], depth: usize) -> Option<&[u8]> {
    let depth = depth.checked_sub(1)?;
    let (first, rest) = bytes.split_first()?;
    let width = match first & 0x1f {
        0..=23 => 0,
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return None,
    };
    let (argument, mut rest) = rest.split_at_checked(width)?;
    let count = argument
        .iter()
        .fold(0_u64, |count, byte| (count << 8) | u64::from(*byte));
    let count = if width == 0 {
        u64::from(first & 0x1f)
    } else {
        count
    };
    let items = match first >> 5 {
        0 | 1 | 7 => 0,
        2 | 3 => return rest.get(usize::try_from(count).ok()?..),
        4 => count,
        5 => count.checked_mul(2)?,
        _ => 1,
    };
    for _ in 0..items {
        rest = item(rest, depth)?;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::content::attachment::magic::json_that_is_a_tar;

    const STATEMENT: &str =
        r#"{"_type":"https://in-toto.io/Statement/v0.1","subject":[],"predicate":{}}"#;
    const ENVELOPE: &str = r#"{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"sig":"x"}]}"#;

    fn all() -> Vec<(Form, Vec<u8>)> {
        let xml = r#"<?xml version="1.0"?><bom xmlns="http://cyclonedx.org/schema/bom/1.4"></bom>"#;
        let bundle = r#"{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"}"#;
        let cose = b"\xd2\x84\x43\xa1\x01\x26\xa0\x44abcd\x42xy";
        [
            (
                Form::SimpleSigning,
                &br#"{"critical":{"type":"cosign container image signature"}}"#[..],
            ),
            (Form::Dsse, ENVELOPE.as_bytes()),
            (Form::InToto, STATEMENT.as_bytes()),
            (Form::InToto, ENVELOPE.as_bytes()),
            (Form::Bundle, bundle.as_bytes()),
            (Form::SpdxJson, br#"{"spdxVersion":"SPDX-2.3"}"#),
            (
                Form::SpdxJson,
                br#"{"@context":"https://spdx.org/rdf/3.0.1/spdx-context.jsonld"}"#,
            ),
            (
                Form::Spdx,
                b"# made by hand\nSPDXVersion: SPDX-2.3\nDataLicense: CC0-1.0\n",
            ),
            (
                Form::CycloneDxJson,
                br#"{"bomFormat":"CycloneDX","specVersion":"1.5"}"#,
            ),
            (Form::CycloneDxXml, xml.as_bytes()),
            (Form::CycloneDx, xml.as_bytes()),
            (
                Form::Jws,
                br#"{"payload":"e","protected":"e","header":{},"signature":"s"}"#,
            ),
            (Form::Cose, cose),
            (Form::Empty, b"{}"),
        ]
        .map(|(form, bytes)| (form, bytes.to_vec()))
        .into()
    }

    #[test]
    fn each_form_is_read_as_itself_to_its_end() {
        for (form, bytes) in all() {
            assert_eq!(form.fault(&bytes), None, "{form:?}");
            let mut more = bytes.clone();
            more.extend(b"\0more");
            assert!(form.fault(&more).is_some(), "{form:?}");
            let half = bytes.len() / 2;
            let cut = form.fault(&bytes[..half]);
            assert!(form == Form::Spdx || cut.is_some(), "{form:?}");
        }
    }

    #[test]
    fn a_statement_that_is_also_a_tar_is_none() {
        let members = r#""_type":"https://in-toto.io/Statement/v1""#;
        let both = json_that_is_a_tar(members);
        assert_eq!(Form::InToto.fault(&both).unwrap(), "it begins as tar");
        assert_eq!(
            Form::InToto.fault(format!("{{{members}}}").as_bytes()),
            None
        );
    }

    #[test]
    fn what_says_two_things_or_is_none_of_it_is_refused() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"_type":"https://example/Statement/v1"}"#,
            r#"{"_type":"https://in-toto.io/Statement/v1","_type":"https://in-toto.io/Statement/v1"}"#,
            r#"{"payloadType":"text/plain","payload":"","signatures":[]}"#,
            r#"{"_type":"https://in-toto.io/Statement/v1"}{}"#,
            "{\"_type\":\"https://in-toto.io/Statement/v1\",\"x\":\"\0\"}",
        ] {
            assert!(Form::InToto.fault(text.as_bytes()).is_some(), "{text}");
        }
        let invalid = b"{\"_type\":\"https://in-toto.io/Statement/v1\",\"x\":\"\xff\"}";
        assert!(Form::InToto.fault(invalid).is_some());
    }

    proptest! {
        #[test]
        fn nothing_behind_a_magic_is_ever_a_statement(which in any::<prop::sample::Index>(), magic in prop::sample::select(vec![&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd", b"\x52\x2a\x4d\x18", b"BZh", b"\xfd7zXZ\0", b"PK\x03\x04", b"hsqs"])) {
            let all = all();
            let (form, bytes) = which.get(&all);
            let mut packed = magic.to_vec();
            packed.extend(bytes);
            prop_assert!(form.fault(&packed).is_some());
        }

        #[test]
        fn no_bytes_make_a_reader_panic(which in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let all = all();
            let (form, _) = which.get(&all);
            form.fault(&bytes);
            is_cose(&[&[0xd2, 0x84], &bytes[..]].concat());
        }
    }
}
