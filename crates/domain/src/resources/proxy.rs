//! The proxy of a registry, as it is written in its resource.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::name::InvalidName;

/// Which proxy is between here and a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ProxySetting {
    /// What the variables `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` of each service say.
    Environment,
    /// The one at this address.
    Server(Url),
}

/// How the setting is written that leaves it to the environment.
const ENVIRONMENT: &str = "environment";

impl FromStr for ProxySetting {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str = "expected an address, as in `http://proxy.example:3128`, or `environment` for what HTTPS_PROXY and NO_PROXY say";
        const SECRET: &str = "credentials do not belong in an address; use `proxy_username` and `proxy_password_file`";
        if text == ENVIRONMENT {
            return Ok(Self::Environment);
        }
        let url = Url::parse(text).map_err(|_| InvalidName::new("proxy", text, EXPECTED))?;
        if !url.username().is_empty() || url.password().is_some() {
            // What is in the address is a secret, so it is not repeated.
            return Err(InvalidName::new("proxy", url.scheme(), SECRET));
        }
        let is_server = matches!(url.scheme(), "http" | "https") && url.has_host();
        if !is_server || url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(InvalidName::new("proxy", text, EXPECTED));
        }
        Ok(Self::Server(url))
    }
}

impl TryFrom<String> for ProxySetting {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for ProxySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str(ENVIRONMENT),
            Self::Server(url) => f.write_str(url.as_str().trim_end_matches('/')),
        }
    }
}

impl From<ProxySetting> for String {
    fn from(setting: ProxySetting) -> Self {
        setting.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_an_address_or_the_environment() {
        for good in [
            "environment",
            "http://proxy:3128",
            "https://proxy.example",
            "http://[::1]:8080",
        ] {
            let setting: ProxySetting = good.parse().unwrap();
            assert_eq!(setting.to_string(), good);
        }
        for bad in [
            "",
            "proxy:3128",
            "socks5://p:1",
            "http://",
            "http://p/x",
            "http://p?x",
        ] {
            let message = bad.parse::<ProxySetting>().unwrap_err().to_string();
            assert!(message.contains("http://proxy.example:3128"), "{message}");
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let text = "http://user:hunter2@proxy:3128";
        let message = text.parse::<ProxySetting>().unwrap_err().to_string();
        assert!(message.contains("proxy_password_file"), "{message}");
        assert!(
            !message.contains("hunter2") && !message.contains("user:"),
            "{message}"
        );
    }
}
