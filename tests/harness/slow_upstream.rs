//! An upstream that takes its time to answer for each tag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, head};
use tokio::runtime::Runtime;

use crate::bus::digest;

/// An upstream with the repository `many`, and what it was asked for.
#[derive(Debug)]
pub struct SlowUpstream {
    host: String,
    asked: Asked,
    _runtime: Runtime,
}

/// How often each tag was asked for.
type Asked = Arc<Mutex<BTreeMap<String, usize>>>;

impl SlowUpstream {
    /// Starts one with so many tags, of which each answer takes so long.
    pub fn start(tags: usize, takes: Duration) -> Self {
        let runtime = Runtime::new().unwrap();
        let asked = Asked::default();
        let tags: Vec<String> = (0..tags).map(|number| format!("1.{number}")).collect();
        let tags = serde_json::json!({ "name": "many", "tags": tags }).to_string();
        let routes = Router::new()
            .route("/v2/", get(|| async { StatusCode::OK }))
            .route("/v2/many/tags/list", get(|| async { tags }))
            .route("/v2/many/manifests/{tag}", head(answer))
            .with_state((Arc::clone(&asked), takes));
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let host = listener.local_addr().unwrap().to_string();
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Self {
            host,
            asked,
            _runtime: runtime,
        }
    }

    /// Returns how often it was asked, for all tags together.
    pub fn asked(&self) -> usize {
        self.asked.lock().unwrap().values().sum()
    }

    /// Returns the resources that mirror it.
    pub fn resources(&self) -> String {
        let host = &self.host;
        format!(
            "kind: Registry\nname: slow\nhost: {host}\nplain_http: true\n---\nkind: Mirror\nname: many\nfrom: {host}/many\nto: hub/many\nevery: 1h\n"
        )
    }
}

async fn answer(
    State((asked, takes)): State<(Asked, Duration)>,
    Path(tag): Path<String>,
) -> impl IntoResponse {
    *asked.lock().unwrap().entry(tag).or_default() += 1;
    tokio::time::sleep(takes).await;
    [
        ("docker-content-digest", digest(7)),
        (
            "content-type",
            "application/vnd.oci.image.manifest.v1+json".to_owned(),
        ),
    ]
}
