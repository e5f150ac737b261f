//! Stands between runs of Trivy and its server, and keeps what Trivy found in each layer.
//!
//! Trivy's own cache believes whatever an image states of its layers, and whoever has the server's token can write any
//! entry of it. So a run of Trivy speaks to the relay only, with a token of its own: it learns of the layers of one
//! image, stores findings for those alone, and the server gets them under names that nobody can guess, for as long as
//! one match takes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sluice_registry::digest_of;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::server::{Address, Token};
use crate::trivy::Variables;
use crate::twirp;

/// The largest message of a run: what was found in one layer.
const MOST_OF_MESSAGE: usize = 64 << 20;
/// The most that is kept of one run.
const MOST_OF_RUN: usize = 256 << 20;
const TOKEN_HEADER: &str = "trivy-token";
const PROTOBUF: &str = "application/protobuf";
const CACHE: &str = "/twirp/trivy.cache.v1.Cache";
const SCAN: &str = "/twirp/trivy.scanner.v1.Scanner/Scan";

/// What Trivy found in a layer, as its client tells its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Analysis {
    /// The key under which Trivy asks for it, made of the layer's `diff_id` and of how Trivy analyses.
    pub(crate) key: String,
    /// The message; it is never looked into.
    pub(crate) message: Bytes,
}

/// The server that matches, and how it is asked.
#[derive(Debug, Clone)]
pub(crate) struct Matcher {
    pub(crate) address: Address,
    pub(crate) http: reqwest::Client,
    /// How long one answer may take.
    pub(crate) limit: Duration,
}

/// The listener; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: String,
    sessions: Sessions,
    _listening: AbortOnDropHandle<std::io::Result<()>>,
}

/// One run of Trivy; what it stored is gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    address: String,
    token: String,
    run: Arc<Run>,
    sessions: Sessions,
}

type Sessions = Arc<Mutex<HashMap<String, Arc<Run>>>>;

/// What one run may see and has stored.
#[derive(Debug)]
struct Run {
    matcher: Matcher,
    /// What is known of the image's layers, in their order.
    known: Vec<Option<Analysis>>,
    /// Cancelled when all layers are verified, and not before.
    are_verified: CancellationToken,
    /// Makes the names at the server.
    secret: String,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    /// The keys of the layers in their order, once Trivy has asked for them.
    keys: Vec<String>,
    found: HashMap<String, Bytes>,
    artifact: Option<Bytes>,
    bytes: usize,
    stale: bool,
}

/// Why a message is not answered.
enum Refusal {
    /// In the words of Trivy's protocol: status, code and reason.
    Own(StatusCode, &'static str, String),
    /// As the server answered.
    Server(Box<Response>),
}

impl Relay {
    /// Listens at a free port of the loopback interface.
    ///
    /// # Errors
    /// A system that has none.
    pub(crate) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let sessions = Sessions::default();
        let app = Router::new().fallback(answer).with_state(sessions.clone());
        #[expect(clippy::disallowed_methods, reason = "its handle ends it")]
        let listening: JoinHandle<_> =
            tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self {
            address,
            sessions,
            _listening: AbortOnDropHandle::new(listening),
        })
    }

    /// Lets one run of Trivy speak to a server about an image of whose layers these are known.
    ///
    /// Until `are_verified` is cancelled it learns of no layer, and so can neither store nor match anything.
    pub(crate) fn open(
        &self,
        matcher: Matcher,
        known: Vec<Option<Analysis>>,
        are_verified: CancellationToken,
    ) -> Session {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let token = random() + &random();
        let run = Arc::new(Run {
            matcher,
            known,
            are_verified,
            secret: random() + &random(),
            told: Mutex::default(),
        });
        lock(&self.sessions).insert(token.clone(), run.clone());
        Session {
            address: self.address.clone(),
            token,
            run,
            sessions: self.sessions.clone(),
        }
    }
}

impl Session {
    /// Returns the arguments that make a run of Trivy speak to the relay.
    pub(crate) fn arguments(&self) -> [String; 2] {
        ["--server".to_owned(), format!("http://{}", self.address)]
    }

    /// Returns the variables that the run needs for that.
    pub(crate) fn variables(&self) -> Variables {
        let token = SecretString::from(self.token.as_str());
        Variables::default().with("TRIVY_TOKEN", &token)
    }

    /// Says whether Trivy asked for something else than what is known, as another version of it would.
    pub(crate) fn is_stale(&self) -> bool {
        lock(&self.run.told).stale
    }

    /// Returns what the run found in the layers that were not known, in their order.
    pub(crate) fn found(&self) -> Vec<Option<Analysis>> {
        let told = lock(&self.run.told);
        let found = told.keys.iter().map(|key| {
            // The same files may be in another layer that was known.
            let message = told.found.get(key).or_else(|| self.run.known(key))?.clone();
            let key = key.clone();
            Some(Analysis { key, message })
        });
        found.collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        lock(&self.sessions).remove(&self.token);
    }
}

async fn answer(State(sessions): State<Sessions>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let token = head.headers.get(TOKEN_HEADER);
    let run = token.and_then(|token| lock(&sessions).get(token.to_str().ok()?).cloned());
    let answered = async {
        let denied = || Refusal::Own(StatusCode::UNAUTHORIZED, "unauthenticated", String::new());
        let run = run.ok_or_else(denied)?;
        let body = axum::body::to_bytes(body, MOST_OF_MESSAGE)
            .await
            .map_err(|error| Refusal::of_message(format!("a message cannot be read: {error}")))?;
        let path = head.uri.path();
        if path == SCAN {
            return run.scan(&body).await;
        }
        match path.strip_prefix(CACHE).unwrap_or_default() {
            "/MissingBlobs" => {
                run.are_verified.cancelled().await;
                run.missing(&body)
            }
            "/PutBlob" => run.store(body),
            "/PutArtifact" => {
                lock(&run.told).artifact = Some(body);
                Ok(message(Vec::new()))
            }
            // What a run stored is gone with it.
            "/DeleteBlobs" => Ok(message(Vec::new())),
            _ => {
                let told = format!("the relay does not know `{}`", path.escape_default());
                Err(Refusal::Own(StatusCode::NOT_FOUND, "bad_route", told))
            }
        }
    };
    answered.await.unwrap_or_else(Refusal::into_response)
}

impl Run {
    /// Says which layers are to be read; the image itself always is.
    fn missing(&self, asked: &[u8]) -> Result<Response, Refusal> {
        let keys = twirp::texts(asked, 2)?;
        if keys.len() != self.known.len() {
            let told = format!(
                "{} layers are asked for, the image has {}",
                keys.len(),
                self.known.len()
            );
            return Err(Refusal::of_message(told));
        }
        let mut answer = Vec::new();
        twirp::put_flag(&mut answer, 1, true);
        let (mut missing, mut stale) = (BTreeSet::new(), false);
        for (key, known) in keys.iter().zip(&self.known) {
            if known.as_ref().is_some_and(|known| known.key == *key) {
                continue;
            }
            stale |= known.is_some();
            if missing.insert(key) {
                twirp::put_text(&mut answer, 2, key);
            }
        }
        let mut told = lock(&self.told);
        told.stale = stale;
        told.keys = keys;
        Ok(message(answer))
    }

    /// Keeps what was found in a layer of this image; what is known already stays as it is.
    fn store(&self, body: Bytes) -> Result<Response, Refusal> {
        let key = twirp::text(&body, 1)?;
        let mut told = lock(&self.told);
        if !told.keys.contains(&key) {
            return Err(Refusal::of_message("the image has no such layer"));
        }
        if self.known(&key).is_none() && !told.found.contains_key(&key) {
            told.bytes = told.bytes.saturating_add(body.len());
            if told.bytes > MOST_OF_RUN {
                let reason = format!("more than {MOST_OF_RUN} bytes were found in the layers");
                return Err(Refusal::of_message(reason));
            }
            told.found.insert(key, body);
        }
        Ok(message(Vec::new()))
    }

    /// Lends the server what was found in the layers, lets it match that, and takes it back.
    async fn scan(&self, asked: &[u8]) -> Result<Response, Refusal> {
        let (artifact, keys) = (twirp::text(asked, 2)?, twirp::texts(asked, 3)?);
        let mut lent = Vec::new();
        let artifact_message = {
            let told = lock(&self.told);
            if keys != told.keys {
                let reason = "a scan must be of all layers of the image";
                return Err(Refusal::of_message(reason));
            }
            for key in keys.iter().collect::<BTreeSet<_>>() {
                let message = told.found.get(key).or_else(|| self.known(key));
                let message = message
                    .ok_or_else(|| Refusal::of_message("a layer of the image was not analysed"))?;
                lent.push((self.alias(key), message.clone()));
            }
            told.artifact.clone()
        };
        let names: Vec<String> = lent.iter().map(|(name, _)| name.clone()).collect();
        let matched = self.matched(asked, &artifact, artifact_message, &keys, lent);
        let matched = matched.await;
        let mut back = Vec::new();
        for name in &names {
            twirp::put_text(&mut back, 1, name);
        }
        // A server that does not hear this has them until it ends.
        if self
            .call(&format!("{CACHE}/DeleteBlobs"), back)
            .await
            .is_err()
        {
            tracing::debug!("the Trivy server keeps what it was lent");
        }
        matched
    }

    async fn matched(
        &self,
        asked: &[u8],
        artifact: &str,
        artifact_message: Option<Bytes>,
        keys: &[String],
        lent: Vec<(String, Bytes)>,
    ) -> Result<Response, Refusal> {
        for (name, message) in lent {
            let message = twirp::replaced(&message, &[(1, vec![name])])?;
            self.call(&format!("{CACHE}/PutBlob"), message).await?;
        }
        let artifact = vec![self.alias(artifact)];
        if let Some(message) = artifact_message {
            let message = twirp::replaced(&message, &[(1, artifact.clone())])?;
            self.call(&format!("{CACHE}/PutArtifact"), message).await?;
        }
        let names = keys.iter().map(|key| self.alias(key)).collect();
        let asked = twirp::replaced(asked, &[(2, artifact), (3, names)])?;
        self.call(SCAN, asked).await
    }

    fn known(&self, key: &str) -> Option<&Bytes> {
        let known = self.known.iter().flatten().find(|known| known.key == key);
        known.map(|known| &known.message)
    }

    fn alias(&self, key: &str) -> String {
        digest_of(format!("{} {key}", self.secret).as_bytes()).to_string()
    }

    /// Asks the server; what it refuses is handed on as it is.
    async fn call(&self, path: &str, body: Vec<u8>) -> Result<Response, Refusal> {
        let gone = |error: reqwest::Error| {
            let told = error.without_url().to_string();
            Refusal::Own(StatusCode::SERVICE_UNAVAILABLE, "unavailable", told)
        };
        let matcher = &self.matcher;
        let base = matcher.address.url.as_str().trim_end_matches('/');
        let mut request = matcher.http.post(format!("{base}{path}"));
        if let Some(token) = matcher.address.token.as_ref().and_then(Token::text) {
            request = request.header(TOKEN_HEADER, token.expose_secret());
        }
        let request = request.header(CONTENT_TYPE, PROTOBUF).body(body);
        let answer = request.timeout(matcher.limit).send().await.map_err(gone)?;
        let status = answer.status();
        let kind = answer.headers().get(CONTENT_TYPE).cloned();
        let body = answer.bytes().await.map_err(gone)?;
        let mut answered = (status, body).into_response();
        if let Some(kind) = kind {
            answered.headers_mut().insert(CONTENT_TYPE, kind);
        }
        if status.is_success() {
            Ok(answered)
        } else {
            Err(Refusal::Server(Box::new(answered)))
        }
    }
}

impl Refusal {
    fn of_message(told: impl Into<String>) -> Self {
        Self::Own(StatusCode::BAD_REQUEST, "invalid_argument", told.into())
    }

    fn into_response(self) -> Response {
        match self {
            Self::Own(status, code, told) => {
                (status, json!({ "code": code, "msg": told }).to_string()).into_response()
            }
            Self::Server(answer) => *answer,
        }
    }
}

impl From<twirp::Malformed> for Refusal {
    fn from(malformed: twirp::Malformed) -> Self {
        Self::of_message(malformed.to_string())
    }
}

fn message(bytes: Vec<u8>) -> Response {
    ([(CONTENT_TYPE, PROTOBUF)], bytes).into_response()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
