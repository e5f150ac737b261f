//! The REST API: resources, tags and images as JSON, and a few commands.

mod guard;
mod images;
mod openapi;
mod operations;
mod problem;
mod resources;

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path};
use axum::routing::{get, post};
use axum::{Router, middleware};
use secrecy::SecretString;
use sluice_bus::Bus;
use sluice_state::State;

use self::problem::Problem;

/// The largest body; that of a file of resources.
const MAX_BODY: usize = 4 << 20;
/// Who applies a resource through the API; its one token does not tell people apart.
const ACTOR: &str = "api";

/// What the API works with.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) bus: Bus,
    pub(crate) state: State,
}

/// A path parameter, or why it is none.
type Given<T> = Result<Path<T>, PathRejection>;

/// Returns the routes, every one of which needs the token.
pub(crate) fn routes(api: Api, token: SecretString) -> Router {
    let base = Router::new()
        .route("/resources/{kind}", get(resources::list))
        .route(
            "/resources/{kind}/{*name}",
            get(resources::show)
                .put(resources::apply)
                .delete(resources::remove),
        )
        .route("/status", get(operations::status))
        .route("/tags/{*repository}", get(images::tags))
        .route("/images/{*image}", get(images::show))
        .route("/mirrors/{name}/poll", post(operations::poll))
        .route("/openapi.json", get(openapi::show))
        .with_state(api);
    Router::new()
        .nest("/api/v1", base)
        .fallback(|| async { Problem::NoSuchPath })
        .method_not_allowed_fallback(|| async { Problem::Method })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(
            Arc::new(token),
            guard::check,
        ))
}
