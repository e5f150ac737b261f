//! Which requests go through a proxy: one rule for `no_proxy` of a resource and for the variable `NO_PROXY`.

use std::ffi::OsString;

use reqwest::Proxy;
use sluice_domain::resources::ProxyBypass;
use url::Url;

/// Returns a proxy for all hosts that the bypass does not cover.
pub(crate) fn with_bypass(
    bypass: Vec<ProxyBypass>,
    server: impl Fn(&Url) -> Option<Url> + Send + Sync + 'static,
) -> Proxy {
    Proxy::custom(move |url| {
        let (host, port) = (url.host_str()?, url.port_or_known_default()?);
        let is_direct = bypass.iter().any(|entry| entry.covers(host, port));
        (!is_direct).then(|| server(url)).flatten()
    })
}

/// Returns the proxy that the environment variables name; invalid entries of `NO_PROXY` are ignored.
pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<OsString>) -> Proxy {
    let read = |name: &str| {
        let values = [name.to_ascii_uppercase(), name.to_ascii_lowercase()];
        let mut values = values.iter().filter_map(|name| variable(name));
        values.find_map(|value| value.into_string().ok().filter(|value| !value.is_empty()))
    };
    let entries = read("no_proxy").unwrap_or_default();
    let bypass = entries
        .split([',', ' '])
        .filter_map(|entry| entry.parse().ok());
    let all = read("all_proxy").and_then(|text| parse_server(&text));
    let https = read("https_proxy").and_then(|text| parse_server(&text));
    // In a CGI program `HTTP_PROXY` is a header of the request.
    let is_cgi = variable("REQUEST_METHOD").is_some();
    let http = read("http_proxy").filter(|_| !is_cgi);
    let http = http.and_then(|text| parse_server(&text));
    with_bypass(bypass.collect(), move |url| {
        let own = if url.scheme() == "https" {
            &https
        } else {
            &http
        };
        own.as_ref().or(all.as_ref()).cloned()
    })
}

/// Parses the URL of a proxy, whose scheme may be left out.
fn parse_server(text: &str) -> Option<Url> {
    let url = match text.contains("://") {
        true => Url::parse(text),
        false => Url::parse(&format!("http://{text}")),
    };
    url.ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}
