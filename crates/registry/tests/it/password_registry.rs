//! A registry that lets in who knows its password, which the test may change.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sluice_registry::{Client, CredentialSource, Endpoint, digest_of};

/// How it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asks {
    Basic,
    Token,
}

/// What was asked: method and path, `Authorization`, body.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) line: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: String,
}

struct Inner {
    asks: Asks,
    password: String,
    /// What the issuer answers, with `TOKEN` for the token.
    answer: String,
    /// Whether writing is allowed.
    writable: bool,
    host: String,
    heard: Vec<Heard>,
}

#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) host: String,
    inner: Arc<Mutex<Inner>>,
}

impl Inner {
    fn basic(&self) -> String {
        format!(
            "Basic {}",
            STANDARD.encode(format!("user:{}", self.password))
        )
    }

    /// A token dies with the password that it was got for.
    fn token(&self) -> String {
        format!("token-for-{}", self.password.len())
    }

    fn answer(&self, heard: &Heard) -> (u16, Vec<(&'static str, String)>, String) {
        let authorization = heard.authorization.as_deref().unwrap_or_default();
        if heard.line.contains(" /token") {
            let exchanged = format!("refresh_token={}", self.password);
            let knows = authorization == self.basic()
                || heard.line.starts_with("POST")
                    && heard.body.split('&').any(|pair| pair == exchanged);
            return if knows {
                (200, Vec::new(), self.answer.replace("TOKEN", &self.token()))
            } else {
                (401, Vec::new(), String::new())
            };
        }
        let (right, challenge) = match self.asks {
            Asks::Basic => (self.basic(), "Basic realm=\"here\"".to_owned()),
            Asks::Token => (
                format!("Bearer {}", self.token()),
                format!(
                    "Bearer realm=\"http://{}/token\",service=\"here\"",
                    self.host
                ),
            ),
        };
        if authorization != right {
            return (401, vec![("www-authenticate", challenge)], String::new());
        }
        match heard.line.split_once(' ').unwrap() {
            ("GET", path) if path.contains("/blobs/") => (404, Vec::new(), String::new()),
            ("POST", _) if self.writable => {
                let location = "/v2/a/b/blobs/uploads/1".to_owned();
                (202, vec![("location", location)], String::new())
            }
            ("POST", _) => (403, Vec::new(), String::new()),
            ("DELETE", _) => (204, Vec::new(), String::new()),
            _ => {
                let digest = digest_of(b"x").to_string();
                (200, vec![("docker-content-digest", digest)], String::new())
            }
        }
    }
}

async fn answer(State(inner): State<Arc<Mutex<Inner>>>, request: Request) -> Response<Body> {
    let line = format!(
        "{} {}",
        request.method(),
        request.uri().path_and_query().unwrap()
    );
    let authorization = request.headers().get("authorization");
    let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
    let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let heard = Heard {
        line,
        authorization,
        body: String::from_utf8(body.to_vec()).unwrap(),
    };
    let mut inner = inner.lock().unwrap();
    inner.heard.push(heard.clone());
    let (status, headers, body) = inner.answer(&heard);
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap()
}

impl Gate {
    pub(crate) async fn start(asks: Asks, password: &str) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let inner = Arc::new(Mutex::new(Inner {
            asks,
            password: password.to_owned(),
            answer: r#"{"token":"TOKEN","expires_in":300}"#.to_owned(),
            writable: true,
            host: host.clone(),
            heard: Vec::new(),
        }));
        let app = Router::new().fallback(answer).with_state(inner.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { host, inner }
    }

    pub(crate) fn set_password(&self, password: &str) {
        self.inner.lock().unwrap().password = password.to_owned();
    }

    pub(crate) fn set_answer(&self, answer: &str) {
        self.inner.lock().unwrap().answer = answer.to_owned();
    }

    pub(crate) fn set_writable(&self, writable: bool) {
        self.inner.lock().unwrap().writable = writable;
    }

    /// Returns what was asked since the last time.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        std::mem::take(&mut self.inner.lock().unwrap().heard)
    }

    pub(crate) fn client(&self, source: Option<CredentialSource>) -> Client {
        let mut endpoint = Endpoint::of(&self.host.parse().unwrap(), true).unwrap();
        endpoint.source = source;
        Client::new(endpoint).unwrap()
    }
}
