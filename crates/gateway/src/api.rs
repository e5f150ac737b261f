//! The REST API: resources, tags and images as JSON, and a few commands.

pub(crate) mod conflicts;
mod event_stream;
mod findings;
mod guard;
mod images;
mod openapi;
mod operations;
mod problem;
pub(crate) mod queue_metrics;
mod resources;

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Path};
use axum::routing::{get, post};
use axum::{Router, middleware};
use secrecy::SecretString;
use sluice_bus::Bus;
use sluice_state::State;
use tokio_util::sync::CancellationToken;

use self::problem::Problem;

/// The largest body, of a resource.
const MAX_BODY: usize = 4 << 20;
/// The actor of resources that are applied through the API; its one token identifies no person.
const ACTOR: &str = "api";

/// The state of the API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    /// Ends the streams of events when the process is to stop.
    pub(crate) stopping: CancellationToken,
}

/// A path parameter, or why it cannot be decoded.
type PathParameter<T> = Result<Path<T>, PathRejection>;

/// Returns the routes, all of which require the token.
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
        .route("/events", get(event_stream::follow))
        .route("/tags/{*repository}", get(images::tags))
        .route("/images/{*image}", get(images::show))
        .route("/findings", get(findings::search))
        .route("/findings/{*image}", get(findings::show))
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
