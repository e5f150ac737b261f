//! A registry with the pull limit of Docker Hub: GETs of manifests are counted in windows, HEADs only say what is left.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use tokio::runtime::Runtime;

/// A limit in front of a registry.
#[derive(Debug)]
pub struct Limited {
    /// The host and port to use instead of the registry's.
    pub host: String,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

/// What was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// GETs of manifests that were answered, by window.
    pub pulls: Vec<u64>,
    /// GETs of manifests that were refused.
    pub refused: u64,
    /// HEADs of manifests.
    pub heads: u64,
}

#[derive(Debug)]
struct Shared {
    target: String,
    http: reqwest::Client,
    limit: u64,
    window: Duration,
    began: Mutex<Instant>,
    counted: Mutex<Counted>,
}

impl Limited {
    /// Begins to count, in front of a host and port.
    pub fn between(target: &str, limit: u64, window: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            target: target.to_owned(),
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            limit,
            window,
            began: Mutex::new(Instant::now()),
            counted: Mutex::new(Counted {
                pulls: vec![0],
                ..Counted::default()
            }),
        });
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let routes = Router::new().fallback(pass_on).with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, routes).await });
        Self {
            host,
            shared,
            _runtime: runtime,
        }
    }

    /// Returns what was asked for so far.
    pub fn counted(&self) -> Counted {
        self.shared.turn_over();
        let counted = self.shared.counted.lock();
        counted.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Shared {
    fn turn_over(&self) {
        let mut began = self.began.lock().unwrap();
        let mut counted = self.counted.lock().unwrap();
        while began.elapsed() >= self.window {
            *began += self.window;
            counted.pulls.push(0);
        }
    }

    /// Counts a request, and says how many pulls are left after it; nothing if it is one too many.
    fn count(&self, method: &Method) -> Option<u64> {
        self.turn_over();
        let mut counted = self.counted.lock().unwrap();
        let mut pulls = *counted.pulls.last().unwrap();
        if *method == Method::HEAD {
            counted.heads += 1;
        } else if pulls == self.limit {
            counted.refused += 1;
            return None;
        } else {
            pulls += 1;
            *counted.pulls.last_mut().unwrap() = pulls;
        }
        Some(self.limit - pulls)
    }
}

async fn pass_on(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let is_counted = parts.uri.path().contains("/manifests/")
        && matches!(parts.method, Method::GET | Method::HEAD);
    let left = is_counted.then(|| shared.count(&parts.method));
    if left == Some(None) {
        let told = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}"#;
        return (StatusCode::TOO_MANY_REQUESTS, limits(&shared, 0), told).into_response();
    }
    let url = format!("http://{}{}", shared.target, parts.uri);
    let mut headers = parts.headers;
    headers.remove("host");
    let sent = shared
        .http
        .request(parts.method, url)
        .headers(headers)
        .body(reqwest::Body::wrap_stream(body.into_data_stream()))
        .send();
    let Ok(answer) = sent.await else {
        return StatusCode::BAD_GATEWAY.into_response();
    };
    let status = answer.status();
    let mut headers = answer.headers().clone();
    headers.remove("transfer-encoding");
    if let Some(Some(left)) = left {
        headers.extend(limits(&shared, left));
    }
    (status, headers, Body::from_stream(answer.bytes_stream())).into_response()
}

fn limits(shared: &Shared, left: u64) -> HeaderMap {
    let seconds = shared.window.as_secs();
    let header = |name: &'static str, count: u64| {
        let value = format!("{count};w={seconds}").parse().unwrap();
        (HeaderName::from_static(name), value)
    };
    HeaderMap::from_iter([
        header("ratelimit-limit", shared.limit),
        header("ratelimit-remaining", left),
    ])
}
