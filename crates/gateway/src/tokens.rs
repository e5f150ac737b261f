//! The token endpoint: the realm that the internal registry sends its clients to.
//!
//! Only GET: clients that prefer POST, as containerd, use GET after a 405.

pub(crate) mod accounts;
pub(crate) mod bearer;
pub(crate) mod grants;
pub(crate) mod key_folder;
pub(crate) mod scope;
pub(crate) mod signer;

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::header::{CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};
use sluice_service::ClientNetwork;
use sluice_state::Catalog;

use self::accounts::{Accounts, LoginError};
use self::grants::grant;
use self::scope::Scope;
use self::signer::Signer;

/// The longest query that is parsed, in bytes.
const MAX_QUERY: usize = 16 << 10;

/// Issues tokens.
pub(crate) struct Issuer {
    pub(crate) catalog: Catalog,
    pub(crate) accounts: Accounts,
    pub(crate) signer: Signer,
}

/// The parameters of a request; the account is known by its password alone.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    service: Option<String>,
    scopes: Vec<Scope>,
}

impl Query {
    fn parse(text: &str) -> Self {
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
            scopes: Scope::parse_all(values.iter().map(AsRef::as_ref)),
        }
    }
}

/// Issues a token for the actions that are both requested and allowed.
pub(crate) async fn issue(
    State(issuer): State<Arc<Issuer>>,
    Extension(source): Extension<ClientNetwork>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    if query.len() > MAX_QUERY {
        return error_response(
            StatusCode::URI_TOO_LONG,
            "UNSUPPORTED",
            "the query is too long",
        );
    }
    let query = Query::parse(&query);
    let service = issuer.signer.service();
    if query
        .service
        .as_deref()
        .is_some_and(|asked| asked != service)
    {
        let message = "this issuer has no tokens for the requested service";
        return error_response(StatusCode::BAD_REQUEST, "UNSUPPORTED", message);
    }
    let snapshot = issuer.catalog.current();
    let identified = issuer.accounts.identify(&snapshot, source, &headers).await;
    let requester = match identified {
        Ok(requester) => requester,
        Err(LoginError::WrongPassword) => {
            let message = "the account or its password is wrong";
            let mut answer = error_response(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message);
            answer.headers_mut().insert(WWW_AUTHENTICATE, BASIC);
            return answer;
        }
        Err(LoginError::TooManyAttempts) => {
            let message = "too many wrong passwords for this account; try again in 10 s";
            let mut answer =
                error_response(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", message);
            answer
                .headers_mut()
                .insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
            return answer;
        }
    };
    let access = grant(&snapshot, &requester, &query.scopes);
    let now = Utc::now();
    let token = match issuer.signer.sign(requester.name(), &access, now) {
        Ok(token) => token,
        Err(error) => {
            tracing::error!(%error, "failed to encode a token");
            let message = "failed to encode the token";
            return error_response(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", message);
        }
    };
    tracing::debug!(account = requester.name(), ?access, "token issued");
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
const RETRY_AFTER_SECONDS: axum::http::HeaderValue = axum::http::HeaderValue::from_static("10");

/// Returns an error in the format of the distribution specification, which clients show.
fn error_response(status: StatusCode, code: &str, message: &str) -> Response {
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
            Scope::parse_all(["repository:hub/app:pull,push", "repository:a/b:pull"].into_iter());
        for text in [
            "account=ci&scope=repository%3Ahub%2Fapp%3Apull%2Cpush&scope=repository:a/b:pull&service=s",
            "service=s&scope=repository:hub/app:pull,push+repository:a/b:pull&client_id=docker",
        ] {
            let query = Query::parse(text);
            assert_eq!(query.service.as_deref(), Some("s"), "{text}");
            assert_eq!(query.scopes, both, "{text}");
        }
        assert_eq!(Query::parse(""), Query::default());
    }
}
