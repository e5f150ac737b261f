//! The listener that the registry and its clients reach: the token endpoint.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;

use crate::tokens::{self, Issuer};

/// Returns the routes.
pub(crate) fn routes(issuer: Issuer) -> Router {
    Router::new()
        .route("/token", get(tokens::issue))
        .with_state(Arc::new(issuer))
}
