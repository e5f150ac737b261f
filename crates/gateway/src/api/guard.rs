//! Who may call the API: holders of the token, or without one callers on this machine.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::SecretString;

use super::problem::Problem;
use crate::secret::is_bearer;

/// Lets a request through or answers it with a problem.
pub(super) async fn check(
    State(token): State<Arc<Option<SecretString>>>,
    request: Request,
    next: Next,
) -> Response {
    match refused(token.as_ref().as_ref(), request.method(), request.headers()) {
        Some(problem) => problem.into_response(),
        None => next.run(request).await,
    }
}

fn refused(token: Option<&SecretString>, method: &Method, headers: &HeaderMap) -> Option<Problem> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    if let Some(token) = token {
        // No browser sends it by itself, so that nothing else has to be asked.
        return (!is_bearer(headers, token)).then_some(Problem::Unauthorised);
    }
    // A page from elsewhere could reach this machine by a name that leads here, or send what needs no answer.
    let host = text(HOST.as_str());
    if !host.is_some_and(is_this_machine) {
        return Some(Problem::Foreign);
    }
    let same_site = match (text("sec-fetch-site"), text(ORIGIN.as_str())) {
        (Some(site), _) => matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => origin.split_once("://").map(|(_, origin)| origin) == host,
        (None, None) => true,
    };
    (!method.is_safe() && !same_site).then_some(Problem::Foreign)
}

fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(token: Option<&str>, method: &Method, headers: &[(&'static str, &str)]) -> String {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        let token = token.map(SecretString::from);
        refused(token.as_ref(), method, &headers)
            .map_or_else(String::new, |problem| problem.code().to_owned())
    }

    #[test]
    fn with_a_token_only_its_holder_is_served() {
        for (headers, expected) in [
            (vec![("authorization", "Bearer hunter2")], ""),
            (vec![("authorization", "Bearer hunter3")], "unauthorised"),
            (vec![("host", "127.0.0.1")], "unauthorised"),
            (vec![], "unauthorised"),
        ] {
            for method in [Method::GET, Method::PUT] {
                assert_eq!(code(Some("hunter2"), &method, &headers), expected);
            }
        }
    }

    #[test]
    fn without_a_token_only_this_machine_is_served() {
        for (host, expected) in [
            ("127.0.0.1:8480", ""),
            ("127.0.0.1", ""),
            ("[::1]:8480", ""),
            ("[::1]", ""),
            ("localhost:1", ""),
            ("LocalHost", ""),
            ("gateway.example:8480", "foreign_request"),
            ("127.0.0.1.example", "foreign_request"),
            ("192.0.2.1:8480", "foreign_request"),
            ("", "foreign_request"),
        ] {
            let headers = [("host", host)];
            assert_eq!(code(None, &Method::GET, &headers), expected, "{host}");
        }
        assert_eq!(code(None, &Method::GET, &[]), "foreign_request");
    }

    #[test]
    fn a_page_from_elsewhere_changes_nothing() {
        let host = ("host", "127.0.0.1:8480");
        for (header, expected) in [
            (("sec-fetch-site", "same-origin"), ""),
            (("sec-fetch-site", "none"), ""),
            (("sec-fetch-site", "cross-site"), "foreign_request"),
            (("sec-fetch-site", "same-site"), "foreign_request"),
            (("origin", "http://127.0.0.1:8480"), ""),
            (("origin", "http://127.0.0.1:8481"), "foreign_request"),
            (("origin", "null"), "foreign_request"),
            (("accept", "*/*"), ""),
        ] {
            let headers = [host, header];
            assert_eq!(code(None, &Method::POST, &headers), expected, "{header:?}");
            assert_eq!(code(None, &Method::GET, &headers), "", "{header:?}");
        }
    }
}
