//! A registry with one tag that answers deletions by tag and by digest as a test says.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, Response};
use sluice_registry::{Client, Endpoint, digest_of};

#[derive(Clone)]
struct Script {
    by_tag: u16,
    /// What is answered for a digest that is not there.
    by_digest: u16,
    written: Arc<Mutex<Option<String>>>,
    deleted: Arc<Mutex<bool>>,
}

pub(crate) struct Deleting {
    host: String,
    script: Script,
}

async fn answer(State(script): State<Script>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let reference = head.uri.path().rsplit('/').next().unwrap().to_owned();
    let is_tag = !reference.starts_with("sha256:");
    let written = script.written.lock().unwrap().clone();
    let status = match head.method {
        Method::PUT => {
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            *script.written.lock().unwrap() = Some(digest_of(&bytes).to_string());
            201
        }
        Method::DELETE if is_tag => script.by_tag,
        Method::DELETE if written.as_ref() == Some(&reference) => {
            *script.deleted.lock().unwrap() = true;
            202
        }
        Method::DELETE => script.by_digest,
        _ => 200,
    };
    let mut answer = Response::builder().status(status);
    if matches!(head.method, Method::GET | Method::HEAD) {
        let digest = written.unwrap_or_else(|| digest_of(b"image").to_string());
        answer = answer.header("docker-content-digest", digest);
    }
    answer.body(Body::empty()).unwrap()
}

impl Deleting {
    pub(crate) async fn start(by_tag: u16, by_digest: u16) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let script = Script {
            by_tag,
            by_digest,
            written: Arc::default(),
            deleted: Arc::default(),
        };
        let app = Router::new().fallback(answer).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { host, script }
    }

    pub(crate) fn client(&self) -> Client {
        let endpoint = Endpoint::of(&self.host.parse().unwrap(), true).unwrap();
        Client::new(endpoint).unwrap()
    }

    /// Says whether something was written over the tag.
    pub(crate) fn wrote(&self) -> bool {
        self.script.written.lock().unwrap().is_some()
    }

    pub(crate) fn deleted(&self) -> bool {
        *self.script.deleted.lock().unwrap()
    }
}
