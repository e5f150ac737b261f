//! Requests to the JetStream API for which the client library has no call.

use std::time::Duration;

use async_nats::Request;
use bytes::Bytes;
use serde_json::Value;
use thiserror::Error as ThisError;

use crate::connection::Bus;
use crate::error::Error;

/// How long the server may take to answer a request.
pub(crate) const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// An error that the server reports in its response.
#[derive(Debug, ThisError)]
#[error("{0}")]
pub(crate) struct ApiError(pub(crate) String);

impl Bus {
    /// Sends a request and returns its response, unless that reports an error.
    pub(crate) async fn api_request(
        &self,
        subject: &str,
        body: Bytes,
        action: &'static str,
        what: &str,
    ) -> Result<Value, Error> {
        let response = self
            .raw_request(subject, body, REQUEST_LIMIT, action, what)
            .await?;
        parse_response(&response).map_err(Error::server(action, what))
    }

    /// Sends a request and returns the bytes of its response.
    pub(crate) async fn raw_request(
        &self,
        subject: &str,
        body: Bytes,
        limit: Duration,
        action: &'static str,
        what: &str,
    ) -> Result<Bytes, Error> {
        let request = Request::new().payload(body).timeout(Some(limit));
        let response = self
            .server()?
            .client()
            .send_request(subject.to_owned(), request)
            .await
            .map_err(Error::server(action, what))?;
        Ok(response.payload)
    }
}

/// Parses a response, unless it reports an error.
pub(crate) fn parse_response(response: &[u8]) -> Result<Value, ApiError> {
    let response: Value =
        serde_json::from_slice(response).map_err(|error| ApiError(error.to_string()))?;
    check_response(&response)?;
    Ok(response)
}

/// Returns the error that a response reports, if any.
pub(crate) fn check_response(response: &Value) -> Result<(), ApiError> {
    let Some(error) = response.get("error") else {
        return Ok(());
    };
    let description = error.get("description").and_then(Value::as_str);
    Err(ApiError(
        description.unwrap_or("the server refused").to_owned(),
    ))
}
