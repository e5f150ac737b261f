//! Turns a response with an unexpected status into an error with an excerpt of its body.

use bytes::Bytes;
use reqwest::{Response, StatusCode};

use crate::error::Error;
use crate::http::connection::Connection;
use crate::http::connection::protocol_mismatch::{is_tls_required, mismatch};
use crate::http::rate_limit::{RateLimit, quota_until, retry_after};
use crate::http::response::body::read_body;

/// How many bytes of the body are read.
const MAX_BODY: usize = 64 << 10;
/// How many characters of the body an error contains.
const MAX_DETAIL: usize = 300;
/// How Distribution reports a full disk, in words or by the number of the error.
const FULL_DISK: [&str; 2] = ["no space left", "\"Err\":28}"];
/// How Docker Hub reports a quota that is used up, should its headers not say it.
const QUOTA_USED_UP: &str = "pull rate limit";
/// What stands in place of a secret.
const REDACTED: &str = "[secret]";

/// Returns the error of a response with an unexpected status; `secrets` are redacted in its detail.
pub(crate) async fn refusal(
    connection: &Connection,
    action: &'static str,
    object: &str,
    response: Response,
    secrets: &[String],
) -> Error {
    let status = response.status();
    let now = sluice_domain::now();
    let retry_after = retry_after(response.headers(), now);
    let limit = RateLimit::read(response.headers());
    // The body of a redirect's target may quote its signed URL.
    let body = if connection.is_own(response.url()) {
        read_body(object, response, MAX_BODY)
            .await
            .unwrap_or_default()
    } else {
        Bytes::new()
    };
    let text = redact(String::from_utf8_lossy(&body).into_owned(), secrets);
    if status == StatusCode::BAD_REQUEST && is_tls_required(&connection.endpoint, &text) {
        return mismatch(&connection.endpoint, action, object);
    }
    let is_full = status.is_server_error() && FULL_DISK.iter().any(|sign| text.contains(sign));
    let hint = if is_full {
        "because its disk is full; free some room there: "
    } else {
        ""
    };
    let detail = hint
        .chars()
        .chain(text.chars())
        .take(MAX_DETAIL)
        .flat_map(char::escape_default)
        .collect();
    let object = object.to_owned();
    if status != StatusCode::TOO_MANY_REQUESTS {
        return Error::UnexpectedStatus {
            action,
            object,
            status,
            detail,
            retry_after,
        };
    }
    let registry = Box::new(connection.host().clone());
    let is_quota = limit.is_some_and(|limit| limit.remaining == 0) || text.contains(QUOTA_USED_UP);
    if is_quota {
        return Error::Quota {
            action,
            object,
            registry,
            until: quota_until(retry_after, limit, now),
            detail,
        };
    }
    Error::TooManyRequests {
        action,
        object,
        registry,
        retry_after,
        detail,
    }
}

fn redact(mut text: String, secrets: &[String]) -> String {
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        text = text.replace(secret, REDACTED);
    }
    text
}
