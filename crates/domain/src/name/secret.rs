//! Secrets as resources name them, and the origins that a secret may be sent to.
//!
//! A resource never names a path: a name is resolved in one folder, which the settings of the services name.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use url::Url;

use crate::name::{InvalidName, RegistryHost, text_newtype};

/// The longest name of a secret.
const LONGEST_NAME: usize = 63;

text_newtype!(
    /// Names a secret: the name of its file in the folder of secrets. It has no dot, so that no file beside a secret
    /// (`docker-hub.hosts`), no hidden file and no other folder can be named.
    SecretName,
    "secret name",
    check_secret_name
);

/// A value of a resource that is in the folder of secrets, as in `password: { secret: docker-hub }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, title = "secret")]
pub struct SecretRef {
    /// Name of the file in the folder of secrets.
    pub secret: SecretName,
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        source.deserialize_any(SecretRefVisitor)
    }
}

/// Reads a reference; a secret that was written in its place is not repeated.
struct SecretRefVisitor;

impl SecretRefVisitor {
    fn scalar<E: Error>() -> Result<SecretRef, E> {
        Err(E::custom(
            "expected `{ secret: NAME }`, the name of a secret; a secret itself does not belong into a resource",
        ))
    }
}

impl<'de> Visitor<'de> for SecretRefVisitor {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`{ secret: NAME }`, the name of a secret")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<SecretRef, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            secret: SecretName,
        }
        let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
        Ok(SecretRef {
            secret: fields.secret,
        })
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<SecretRef, E> {
        Self::scalar()
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<SecretRef, E> {
        Self::scalar()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<SecretRef, E> {
        Self::scalar()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<SecretRef, E> {
        Self::scalar()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<SecretRef, E> {
        Self::scalar()
    }
}

/// Where a secret may be sent to: scheme, host and port, written `registry.example:5000`, or
/// `http://registry.example:5000` where nothing is encrypted.
///
/// The names of Docker Hub are one origin, `docker.io`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    is_plain: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// Returns the origin of a registry, or of a token issuer, by its name.
    ///
    /// # Errors
    /// A name that makes no address, which nothing may be sent to.
    pub fn of_registry(host: &RegistryHost, plain_http: bool) -> Result<Self, InvalidName> {
        let scheme = if plain_http { "http" } else { "https" };
        format!("{scheme}://{host}").parse()
    }

    /// Returns the origin of an address; none if it is not one of HTTP.
    #[must_use]
    pub fn of_url(url: &Url) -> Option<Self> {
        let is_plain = match url.scheme() {
            "https" => false,
            "http" => true,
            _ => return None,
        };
        let host = url.host_str()?;
        let host = host
            .parse::<RegistryHost>()
            .map_or_else(|_| host.to_ascii_lowercase(), String::from);
        Some(Self {
            is_plain,
            host,
            port: url.port_or_known_default()?,
        })
    }
}

impl FromStr for Origin {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "write a host with an optional port, as in `registry.example:5000`, or `http://registry.example:5000` for one without TLS";
        let invalid = || InvalidName::new("host of a secret", text, EXPECTED);
        let url = if text.contains("://") {
            Url::parse(text)
        } else {
            Url::parse(&format!("https://{text}"))
        };
        let url = url.map_err(|_| invalid())?;
        let is_bare = url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none();
        // The parser of addresses takes `\` for `/`, and leaves white space and the end of a path out.
        let is_plainly_written = !text.contains(['\\', '@', '*'])
            && !text.contains(char::is_whitespace)
            && !text.ends_with('/');
        if !(is_bare && is_plainly_written) {
            return Err(invalid());
        }
        Self::of_url(&url).ok_or_else(invalid)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = if self.is_plain {
            f.write_str("http://")?;
            80
        } else {
            443
        };
        f.write_str(&self.host)?;
        if self.port == default {
            return Ok(());
        }
        write!(f, ":{}", self.port)
    }
}

fn check_secret_name(text: &str) -> Result<String, &'static str> {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
    let is_outer = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(is_outer)
        || !text.ends_with(is_outer)
        || text.len() > LONGEST_NAME
        || !text.bytes().all(is_inner)
    {
        return Err(
            "expected up to 63 lower-case letters, digits, `-` or `_`: the name of a file in the folder of secrets, never a path",
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_a_secret_leads_nowhere() {
        for good in [
            "docker-hub",
            "a",
            "0",
            "slack_hook",
            "x".repeat(63).as_str(),
        ] {
            assert_eq!(good.parse::<SecretName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            "../keys/nats/admin",
            "/etc/passwd",
            "a/b",
            "a.hosts",
            "signing-key.pem",
            "..data",
            "-a",
            "a-",
            "A",
            "ä",
            "a b",
            "a\n",
            "a\0",
            "x".repeat(64).as_str(),
        ] {
            let refused = bad.parse::<SecretName>().unwrap_err().to_string();
            assert!(refused.contains("never a path"), "{bad}: {refused}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        for (one, other) in [
            ("registry.example", "https://registry.example"),
            ("registry.example", "registry.example:443"),
            ("Registry.Example", "registry.example"),
            ("http://127.0.0.1", "http://127.0.0.1:80"),
            ("docker.io", "registry-1.docker.io"),
            ("[::1]:5000", "https://[::1]:5000"),
        ] {
            let (one, other): (Origin, Origin) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!(one, other);
            assert_eq!(one.to_string().parse::<Origin>().unwrap(), one);
        }
        let all = [
            "registry.example",
            "registry.example:5000",
            "http://registry.example",
            "http://registry.example:443",
            "registry.example.evil.example",
            "evil.example",
        ];
        for (place, one) in all.iter().enumerate() {
            for other in &all[place + 1..] {
                assert_ne!(
                    one.parse::<Origin>().unwrap(),
                    other.parse::<Origin>().unwrap()
                );
            }
        }
    }

    #[test]
    fn what_is_no_origin_alone_is_refused() {
        for bad in [
            "",
            "*",
            "*.example",
            "registry.example/",
            "registry.example/team",
            "https://",
            "ftp://registry.example",
            "https://user@registry.example",
            "user:pw@registry.example",
            "registry.example?x",
            "registry.example#x",
            "registry.example:99999",
            "evil.example\\@registry.example",
            "a b",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
