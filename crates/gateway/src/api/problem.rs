//! Errors of the API as problem details (RFC 9457); their sources are logged and never returned.

use axum::extract::rejection::PathRejection;
use axum::http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sluice_domain::resources;
use thiserror::Error;
use utoipa::ToSchema;

/// Why a request failed.
#[derive(Debug, Error)]
pub(crate) enum Problem {
    #[error("send the token as `Authorization: Bearer`")]
    Unauthorised,
    #[error("no such path; see /api/v1/openapi.json")]
    NoSuchPath,
    #[error("the path does not support the method; see /api/v1/openapi.json")]
    Method,
    #[error("{what} not found")]
    Missing { what: String },
    #[error("{reason}")]
    Invalid { reason: String },
    #[error("the body is not text of at most 4 MiB")]
    Body,
    #[error("the resource is invalid and was not applied")]
    Resource { problems: Vec<resources::Problem> },
    #[error("the body must be exactly the resource that the path names")]
    Mismatch,
    #[error("the resource was changed at the same time; retry")]
    Conflict,
    #[error("the state is unreachable; retry")]
    State { source: sluice_state::Error },
}

/// Problem details of a failed request (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemBody {
    /// Always `about:blank`: the code tells problems apart.
    r#type: &'static str,
    /// The HTTP status, in words.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The code of the problem, for programs; codes are only added.
    code: &'static str,
    /// The problem, for people.
    detail: String,
    /// The problems of a resource, line by line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<ProblemLine>,
}

/// A problem of a resource.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ProblemLine {
    /// The line of the body, from 1.
    line: usize,
    /// The problem and what to do.
    message: String,
}

impl Problem {
    /// Creates a 404.
    pub(super) fn missing(what: impl Into<String>) -> Self {
        Self::Missing { what: what.into() }
    }

    /// Creates a 400 for an invalid parameter.
    pub(super) fn invalid(reason: impl ToString) -> Self {
        Self::Invalid {
            reason: reason.to_string(),
        }
    }

    /// Returns the code for programs.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            Self::Unauthorised => "unauthorised",
            Self::NoSuchPath => "no_such_path",
            Self::Method => "method_not_allowed",
            Self::Missing { .. } => "not_found",
            Self::Invalid { .. } => "invalid_request",
            Self::Body => "invalid_body",
            Self::Resource { .. } => "invalid_resource",
            Self::Mismatch => "resource_mismatch",
            Self::Conflict => "conflict",
            Self::State { .. } => "unavailable",
        }
    }

    const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorised => StatusCode::UNAUTHORIZED,
            Self::NoSuchPath | Self::Missing { .. } => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Invalid { .. } | Self::Body | Self::Mismatch => StatusCode::BAD_REQUEST,
            Self::Resource { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Conflict => StatusCode::CONFLICT,
            Self::State { .. } => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Self::invalid("the path is not text")
    }
}

impl From<sluice_state::Error> for Problem {
    fn from(source: sluice_state::Error) -> Self {
        if source.is_conflict() {
            return Self::Conflict;
        }
        Self::State { source }
    }
}

impl From<sluice_bus::Error> for Problem {
    fn from(source: sluice_bus::Error) -> Self {
        sluice_state::Error::from(source).into()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        if let Self::State { source } = &self {
            let source: &dyn std::error::Error = source;
            tracing::error!(error = source, "a request of the API to the state failed");
        }
        let (status, code, detail) = (self.status(), self.code(), self.to_string());
        let problems = match self {
            Self::Resource { problems } => problems,
            _ => Vec::new(),
        };
        let body = ProblemBody {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            code,
            detail,
            problems: problems
                .into_iter()
                .map(|problem| ProblemLine {
                    line: problem.line,
                    message: problem.message,
                })
                .collect(),
        };
        let mut answer = (status, axum::Json(body)).into_response();
        let headers = answer.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        answer
    }
}
