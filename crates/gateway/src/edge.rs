//! The listener that the registry and its clients reach: the token endpoint, and the intake of notifications.

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::intake::{self, Intake};
use crate::tokens::{self, Issuer};

/// Returns the routes.
pub(crate) fn routes(issuer: Issuer, intake: Intake) -> Router {
    let tokens = Router::new()
        .route("/token", get(tokens::issue))
        .with_state(Arc::new(issuer));
    let notifications = Router::new()
        .route("/notifications", post(intake::take))
        .with_state(Arc::new(intake));
    tokens.merge(notifications)
}
