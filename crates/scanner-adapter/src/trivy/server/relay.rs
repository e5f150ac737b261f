//! A relay between runs of Trivy and its server, which keeps the analysis of each layer.
//!
//! Trivy's own cache believes whatever an image states of its layers, and whoever has the server's token can write any
//! entry of it. So a run of Trivy talks to the relay only, with a token of its own: it learns the layers of one image,
//! stores analyses of those alone, and the server gets them under unguessable names, for as long as one match takes.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use secrecy::SecretString;
use serde_json::json;
use sluice_registry::digest_of;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::scanner::LayerAnalysis;
use crate::trivy::program::Variables;
use crate::trivy::server::client::{PROTOBUF, ServerClient, TOKEN_HEADER};

mod twirp;

/// The largest message of a run: the analysis of one layer.
const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// The most bytes of the analyses of one run.
const MAX_RUN_BYTES: usize = 256 << 20;
const CACHE: &str = "/twirp/trivy.cache.v1.Cache";
const SCAN: &str = "/twirp/trivy.scanner.v1.Scanner/Scan";

/// The listener; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: String,
    sessions: Sessions,
    _listening: AbortOnDropHandle<std::io::Result<()>>,
}

/// The session of one run of Trivy. The analyses that it stored are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    address: String,
    token: String,
    run: Arc<Run>,
    sessions: Sessions,
}

type Sessions = Arc<Mutex<HashMap<String, Arc<Run>>>>;

/// What one run may read, and what it has stored.
#[derive(Debug)]
struct Run {
    server: ServerClient,
    /// How long one answer of the server may take.
    limit: Duration,
    /// The earlier analyses of the image's layers, in their order.
    earlier: Vec<Option<LayerAnalysis>>,
    /// Cancelled when all layers are verified, and not before.
    are_verified: CancellationToken,
    /// Makes the names at the server.
    secret: String,
    received: Mutex<Received>,
}

/// The messages of one run.
#[derive(Debug, Default)]
struct Received {
    /// The keys of the layers in their order, once Trivy has asked for them.
    keys: Vec<String>,
    analyses: HashMap<String, Bytes>,
    artifact: Option<Bytes>,
    bytes: usize,
    is_stale: bool,
}

/// The answer to a message that failed.
enum ErrorAnswer {
    /// One of the relay: status, code and reason in Trivy's protocol.
    Relay(StatusCode, &'static str, String),
    /// The answer of the server.
    Server(Box<Response>),
}

impl Relay {
    /// Listens at a free port of the loopback interface.
    pub(crate) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let sessions = Sessions::default();
        let app = Router::new().fallback(handle).with_state(sessions.clone());
        #[expect(clippy::disallowed_methods, reason = "its handle ends it")]
        let listening: JoinHandle<_> =
            tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self {
            address,
            sessions,
            _listening: AbortOnDropHandle::new(listening),
        })
    }

    /// Opens a session for a run of Trivy on an image, of whose layers some were analysed before.
    ///
    /// Until `are_verified` is cancelled the run learns of no layer, and so can neither store nor match anything.
    pub(crate) fn open(
        &self,
        server: ServerClient,
        limit: Duration,
        earlier: Vec<Option<LayerAnalysis>>,
        are_verified: CancellationToken,
    ) -> Session {
        let random = || uuid::Uuid::new_v4().simple().to_string();
        let token = random() + &random();
        let run = Arc::new(Run {
            server,
            limit,
            earlier,
            are_verified,
            secret: random() + &random(),
            received: Mutex::default(),
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
    /// Returns the arguments with which a run of Trivy uses the relay.
    pub(crate) fn arguments(&self) -> [String; 2] {
        ["--server".to_owned(), format!("http://{}", self.address)]
    }

    /// Returns the variables with which a run of Trivy uses the relay.
    pub(crate) fn variables(&self) -> Variables {
        let token = SecretString::from(self.token.as_str());
        Variables::default().with("TRIVY_TOKEN", &token)
    }

    /// Says whether Trivy asked for other analyses than the earlier ones, as another version of it would.
    pub(crate) fn is_stale(&self) -> bool {
        lock(&self.run.received).is_stale
    }

    /// Returns the analyses of the layers in their order.
    pub(crate) fn analyses(&self) -> Vec<Option<LayerAnalysis>> {
        let received = lock(&self.run.received);
        let analyses = received.keys.iter().map(|key| {
            // Another layer with the same files may have an earlier analysis.
            let message = received.analyses.get(key);
            let message = message.or_else(|| self.run.earlier(key))?.clone();
            let key = key.clone();
            Some(LayerAnalysis { key, message })
        });
        analyses.collect()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        lock(&self.sessions).remove(&self.token);
    }
}

async fn handle(State(sessions): State<Sessions>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let token = head.headers.get(TOKEN_HEADER);
    let run = token.and_then(|token| lock(&sessions).get(token.to_str().ok()?).cloned());
    let answer = async {
        let denied =
            || ErrorAnswer::Relay(StatusCode::UNAUTHORIZED, "unauthenticated", String::new());
        let run = run.ok_or_else(denied)?;
        let body = axum::body::to_bytes(body, MAX_MESSAGE_BYTES)
            .await
            .map_err(|error| ErrorAnswer::invalid(format!("failed to read a message: {error}")))?;
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
                lock(&run.received).artifact = Some(body);
                Ok(message(Vec::new()))
            }
            // What a run stored is removed with its session.
            "/DeleteBlobs" => Ok(message(Vec::new())),
            _ => {
                let reason = format!("the relay does not know `{}`", path.escape_default());
                Err(ErrorAnswer::Relay(
                    StatusCode::NOT_FOUND,
                    "bad_route",
                    reason,
                ))
            }
        }
    };
    answer.await.unwrap_or_else(ErrorAnswer::into_response)
}

impl Run {
    /// Answers which layers are to be analysed; the image itself always is.
    fn missing(&self, asked: &[u8]) -> Result<Response, ErrorAnswer> {
        let keys = twirp::texts(asked, 2)?;
        if keys.len() != self.earlier.len() {
            let reason = format!(
                "{} layers are requested, the image has {}",
                keys.len(),
                self.earlier.len()
            );
            return Err(ErrorAnswer::invalid(reason));
        }
        let mut answer = Vec::new();
        twirp::put_flag(&mut answer, 1, true);
        let (mut missing, mut is_stale) = (BTreeSet::new(), false);
        for (key, earlier) in keys.iter().zip(&self.earlier) {
            if earlier.as_ref().is_some_and(|earlier| earlier.key == *key) {
                continue;
            }
            is_stale |= earlier.is_some();
            if missing.insert(key) {
                twirp::put_text(&mut answer, 2, key);
            }
        }
        let mut received = lock(&self.received);
        received.is_stale = is_stale;
        received.keys = keys;
        Ok(message(answer))
    }

    /// Keeps the analysis of a layer of this image; one that is there already stays as it is.
    fn store(&self, body: Bytes) -> Result<Response, ErrorAnswer> {
        let key = twirp::text(&body, 1)?;
        let mut received = lock(&self.received);
        if !received.keys.contains(&key) {
            return Err(ErrorAnswer::invalid("the image has no such layer"));
        }
        if self.earlier(&key).is_none() && !received.analyses.contains_key(&key) {
            received.bytes = received.bytes.saturating_add(body.len());
            if received.bytes > MAX_RUN_BYTES {
                let reason = format!("the analyses have more than {MAX_RUN_BYTES} bytes");
                return Err(ErrorAnswer::invalid(reason));
            }
            received.analyses.insert(key, body);
        }
        Ok(message(Vec::new()))
    }

    /// Lends the analyses of the layers to the server for one match.
    async fn scan(&self, asked: &[u8]) -> Result<Response, ErrorAnswer> {
        let (artifact, keys) = (twirp::text(asked, 2)?, twirp::texts(asked, 3)?);
        let mut lent = Vec::new();
        let artifact_message = {
            let received = lock(&self.received);
            if keys != received.keys {
                let reason = "a scan must be of all layers of the image";
                return Err(ErrorAnswer::invalid(reason));
            }
            for key in keys.iter().collect::<BTreeSet<_>>() {
                let message = received.analyses.get(key).or_else(|| self.earlier(key));
                let message = message
                    .ok_or_else(|| ErrorAnswer::invalid("a layer of the image was not analysed"))?;
                lent.push((self.alias(key), message.clone()));
            }
            received.artifact.clone()
        };
        let names: Vec<String> = lent.iter().map(|(name, _)| name.clone()).collect();
        let answer =
            self.scan_with_stored_analyses(asked, &artifact, artifact_message, &keys, lent);
        let answer = answer.await;
        let mut delete = Vec::new();
        for name in &names {
            twirp::put_text(&mut delete, 1, name);
        }
        // Where this fails, the server has them until it ends.
        if self
            .call(&format!("{CACHE}/DeleteBlobs"), delete)
            .await
            .is_err()
        {
            tracing::debug!("failed to delete lent analyses from the Trivy server");
        }
        answer
    }

    async fn scan_with_stored_analyses(
        &self,
        asked: &[u8],
        artifact: &str,
        artifact_message: Option<Bytes>,
        keys: &[String],
        lent: Vec<(String, Bytes)>,
    ) -> Result<Response, ErrorAnswer> {
        for (name, message) in lent {
            let message = twirp::replace_texts(&message, &[(1, vec![name])])?;
            self.call(&format!("{CACHE}/PutBlob"), message).await?;
        }
        let artifact = vec![self.alias(artifact)];
        if let Some(message) = artifact_message {
            let message = twirp::replace_texts(&message, &[(1, artifact.clone())])?;
            self.call(&format!("{CACHE}/PutArtifact"), message).await?;
        }
        let names = keys.iter().map(|key| self.alias(key)).collect();
        let asked = twirp::replace_texts(asked, &[(2, artifact), (3, names)])?;
        self.call(SCAN, asked).await
    }

    fn earlier(&self, key: &str) -> Option<&Bytes> {
        let mut earlier = self.earlier.iter().flatten();
        let found = earlier.find(|earlier| earlier.key == key);
        found.map(|earlier| &earlier.message)
    }

    fn alias(&self, key: &str) -> String {
        digest_of(format!("{} {key}", self.secret).as_bytes()).to_string()
    }

    /// Sends a message to the server; an answer that it failed is passed on as it is.
    async fn call(&self, path: &str, body: Vec<u8>) -> Result<Response, ErrorAnswer> {
        let unreachable = |error: reqwest::Error| {
            let reason = error.without_url().to_string();
            ErrorAnswer::Relay(StatusCode::SERVICE_UNAVAILABLE, "unavailable", reason)
        };
        let answer = self.server.call(path, body, self.limit).await;
        let answer = answer.map_err(unreachable)?;
        let status = answer.status();
        let kind = answer.headers().get(CONTENT_TYPE).cloned();
        let body = answer.bytes().await.map_err(unreachable)?;
        let mut response = (status, body).into_response();
        if let Some(kind) = kind {
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        if status.is_success() {
            Ok(response)
        } else {
            Err(ErrorAnswer::Server(Box::new(response)))
        }
    }
}

impl ErrorAnswer {
    fn invalid(reason: impl Into<String>) -> Self {
        Self::Relay(StatusCode::BAD_REQUEST, "invalid_argument", reason.into())
    }

    fn into_response(self) -> Response {
        match self {
            Self::Relay(status, code, reason) => {
                (status, json!({ "code": code, "msg": reason }).to_string()).into_response()
            }
            Self::Server(answer) => *answer,
        }
    }
}

impl From<twirp::Malformed> for ErrorAnswer {
    fn from(malformed: twirp::Malformed) -> Self {
        Self::invalid(malformed.to_string())
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
