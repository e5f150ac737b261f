//! A registry whose every answer is written by the test.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::Response;
use secrecy::SecretString;
use sluice_registry::{Client, Credential, Endpoint};

/// One answer: status, headers, body.
pub(crate) type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// What was asked: method, path with query, and `Authorization`.
pub(crate) type Asked = (String, String, Option<String>);

#[derive(Clone, Default)]
pub(crate) struct Script {
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    /// What is answered before that, in this order.
    first: Arc<Mutex<HashMap<String, VecDeque<Answer>>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// A listening registry.
pub(crate) struct ScriptedRegistry {
    pub(crate) host: String,
    script: Script,
    /// Made once: to read the authorities that are trusted takes longer than most tests.
    client: OnceLock<Client>,
}

async fn answer(State(script): State<Script>, request: Request) -> Response<Body> {
    let method = request.method().to_string();
    let path = request.uri().path_and_query().unwrap().to_string();
    let authorization = request
        .headers()
        .get("authorization")
        .map(|value| value.to_str().unwrap().to_owned());
    script
        .asked
        .lock()
        .unwrap()
        .push((method.clone(), path.clone(), authorization));
    // As registries do: one that answers before it has read what it is sent breaks the connection.
    axum::body::to_bytes(request.into_body(), usize::MAX)
        .await
        .ok();
    let request = format!("{method} {path}");
    let mut first = script.first.lock().unwrap();
    let first = first.get_mut(&request).and_then(VecDeque::pop_front);
    let found = first.or_else(|| script.answers.lock().unwrap().get(&request).cloned());
    let (status, headers, body) = found.unwrap_or((404, Vec::new(), Vec::new()));
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(body)).unwrap()
}

fn owned(headers: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    let headers = headers.iter();
    headers
        .map(|(name, value)| (*name, (*value).to_owned()))
        .collect()
}

impl ScriptedRegistry {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let script = Script::default();
        let app = Router::new().fallback(answer).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            host,
            script,
            client: OnceLock::new(),
        }
    }

    /// Answers this request so.
    pub(crate) fn on(
        &self,
        request: &str,
        status: u16,
        headers: &[(&'static str, &str)],
        body: impl Into<Vec<u8>>,
    ) {
        let answer = (status, owned(headers), body.into());
        self.script
            .answers
            .lock()
            .unwrap()
            .insert(request.to_owned(), answer);
    }

    /// Answers this request so once, before anything else.
    pub(crate) fn once(&self, request: &str, status: u16, headers: &[(&'static str, &str)]) {
        let answer = (status, owned(headers), Vec::new());
        let mut first = self.script.first.lock().unwrap();
        first
            .entry(request.to_owned())
            .or_default()
            .push_back(answer);
    }

    /// Returns what was asked.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.asked.lock().unwrap().clone()
    }

    /// Returns a client with a credential that must not leave.
    pub(crate) fn client(&self) -> Client {
        let mut endpoint = Endpoint::of(&self.host.parse().unwrap(), true).unwrap();
        let password = SecretString::from("planted-secret".to_owned());
        endpoint.credential = Some(Credential {
            username: "user".to_owned(),
            password,
        });
        let made = || Client::new(endpoint).unwrap();
        self.client.get_or_init(made).clone()
    }
}
