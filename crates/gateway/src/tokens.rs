//! The token endpoint: the realm that the internal registry sends its clients to.
//!
//! Only GET: clients that would rather POST, as containerd, take the 405 as a sign to use GET.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use sluice_service::Source;
use sluice_state::Catalog;

use crate::accounts::{Accounts, Refused};
use crate::grants::granted;
use crate::scope::Scope;
use crate::signer::Signer;

/// The longest query that is read.
const LONGEST_QUERY: usize = 16 << 10;

/// Issues tokens.
pub(crate) struct Issuer {
    pub(crate) catalog: Catalog,
    pub(crate) accounts: Accounts,
    pub(crate) signer: Signer,
}

/// What of a query means something here; who asks is told by the password alone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    service: Option<String>,
    scopes: Vec<Scope>,
}

impl Query {
    fn read(text: &str) -> Self {
        let (mut service, mut values) = (None, Vec::new());
        for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
            match name.as_ref() {
                "service" => service = Some(value.into_owned()),
                "scope" => values.push(value),
                _ => {}
            }
        }
        Self {
            service,
            scopes: Scope::read_all(values.iter().map(AsRef::as_ref)),
        }
    }
}

/// Answers with a token for what is both asked for and allowed.
pub(crate) async fn issue(
    State(issuer): State<Arc<Issuer>>,
    Extension(source): Extension<Source>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    if query.len() > LONGEST_QUERY {
        return refuse(
            StatusCode::URI_TOO_LONG,
            "UNSUPPORTED",
            "the query is too long",
        );
    }
    let query = Query::read(&query);
    let service = issuer.signer.service();
    if query
        .service
        .as_deref()
        .is_some_and(|asked| asked != service)
    {
        let told = "tokens for this service are not issued here";
        return refuse(StatusCode::BAD_REQUEST, "UNSUPPORTED", told);
    }
    let snapshot = issuer.catalog.current();
    let identified = issuer.accounts.identify(&snapshot, source, &headers).await;
    let requester = match identified {
        Ok(requester) => requester,
        Err(Refused::Wrong) => {
            let told = "the account or its password is wrong";
            let mut answer = refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", told);
            answer.headers_mut().insert(WWW_AUTHENTICATE, BASIC);
            return answer;
        }
        Err(Refused::Busy) => {
            let told = "too many passwords of this account are being tried";
            let mut answer = refuse(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", told);
            answer.headers_mut().insert(RETRY_AFTER, SOON);
            return answer;
        }
    };
    let access = granted(&snapshot, &requester, &query.scopes);
    let now = Utc::now();
    let token = match issuer.signer.sign(requester.name(), &access, now) {
        Ok(token) => token,
        Err(error) => {
            tracing::error!(%error, "a token could not be written");
            let told = "the token could not be written";
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", told);
        }
    };
    tracing::debug!(account = requester.name(), ?access, "a token was issued");
    answer(
        StatusCode::OK,
        &json!({
            "token": token, "access_token": token, "expires_in": issuer.signer.lifetime_seconds(),
            "issued_at": now.to_rfc3339_opts(SecondsFormat::Secs, true),
        }),
    )
}

const BASIC: axum::http::HeaderValue =
    axum::http::HeaderValue::from_static("Basic realm=\"sluice\"");
const SOON: axum::http::HeaderValue = axum::http::HeaderValue::from_static("10");

/// Refuses in the form of the registry's own errors, which clients show.
fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let body = json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
    answer(status, &body)
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_clients_write_them() {
        let both =
            Scope::read_all(["repository:hub/app:pull,push", "repository:a/b:pull"].into_iter());
        for text in [
            "account=ci&scope=repository%3Ahub%2Fapp%3Apull%2Cpush&scope=repository:a/b:pull&service=s",
            "service=s&scope=repository:hub/app:pull,push+repository:a/b:pull&client_id=docker",
        ] {
            let query = Query::read(text);
            assert_eq!(query.service.as_deref(), Some("s"), "{text}");
            assert_eq!(query.scopes, both, "{text}");
        }
        assert_eq!(Query::read(""), Query::default());
    }
}
