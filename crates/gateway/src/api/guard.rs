//! Requires the token of the API for every call.
//!
//! No browser sends the token by itself, so a page of another site can do nothing, whatever name it uses for this
//! machine.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::SecretString;

use super::problem::Problem;
use crate::tokens::bearer::is_bearer;

/// Lets a request through or answers it with a problem.
pub(super) async fn check(
    State(token): State<Arc<SecretString>>,
    request: Request,
    next: Next,
) -> Response {
    if is_bearer(request.headers(), &token) {
        next.run(request).await
    } else {
        Problem::Unauthorised.into_response()
    }
}
