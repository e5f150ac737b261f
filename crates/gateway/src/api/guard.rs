//! Who may call the API: whoever sends its token, wherever they are.
//!
//! No browser sends the token by itself, so a page from elsewhere can do nothing, by whatever name it reaches this
//! machine.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::SecretString;

use super::problem::Problem;
use crate::secret::is_bearer;

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
