//! A registry in memory that counts what it is asked for and can be told to fail in the middle of a blob.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, Response};
use futures_util::{StreamExt as _, stream};
use sluice_domain::{Digest, Repository};
use sluice_registry::{Client, Endpoint, digest_of};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CHUNK: usize = 16 << 10;

/// How it answers a request for the rest of a blob.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ranges {
    /// As it should.
    #[default]
    Kept,
    /// With the whole.
    Ignored,
    /// With a part that begins elsewhere.
    Wrong,
}

/// What it does otherwise than a good registry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Manner {
    /// After how many bytes the next answers with a large blob are cut, the first one last.
    pub(crate) cuts: Vec<usize>,
    pub(crate) ranges: Ranges,
    /// It mounts nothing.
    pub(crate) mounts_nothing: bool,
    /// How long each answer takes.
    pub(crate) latency: Duration,
    /// Blobs come without an end after this many bytes.
    pub(crate) stalls_after: Option<usize>,
}

#[derive(Debug, Default)]
struct Content {
    manifests: HashMap<(String, String), (String, Bytes)>,
    blobs: HashMap<String, Bytes>,
    holds: HashSet<(String, String)>,
    uploads: HashSet<String>,
}

#[derive(Debug, Default)]
struct Shared {
    content: Mutex<Content>,
    manner: Mutex<Manner>,
    asked: Mutex<Vec<String>>,
    sent: AtomicUsize,
    /// What is being answered, and the most of it at a time.
    open: AtomicUsize,
    most: AtomicUsize,
    uploads: AtomicUsize,
}

/// A listening registry.
pub(crate) struct Peer {
    pub(crate) host: String,
    shared: Arc<Shared>,
}

/// Counts an answer for as long as it lasts.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        let now = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(shared))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn status(code: u16) -> Response<Body> {
    let answer = Response::builder().status(code);
    answer.body(Body::empty()).unwrap()
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let open = Open::new(&shared);
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let range = parts.headers.get("range");
    let range = range.map(|range| format!(" {}", range.to_str().unwrap()));
    let query = parts.uri.query().map(|query| format!("?{query}"));
    shared.asked.lock().unwrap().push(format!(
        "{} {path}{}{}",
        parts.method,
        query.as_deref().unwrap_or_default(),
        range.as_deref().unwrap_or_default()
    ));
    let latency = shared.manner.lock().unwrap().latency;
    tokio::time::sleep(latency).await;
    let rest = path.strip_prefix("/v2/").unwrap();
    if let Some((repository, reference)) = rest.split_once("/manifests/") {
        let key = (repository.to_owned(), reference.to_owned());
        if parts.method == Method::PUT {
            let kind = parts.headers["content-type"].to_str().unwrap().to_owned();
            let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
            return shared.put(key, kind, bytes);
        }
        return shared.manifest(&key);
    }
    let (repository, rest) = rest.split_once("/blobs/").unwrap();
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    match (parts.method, rest.strip_prefix("uploads/")) {
        (Method::POST, Some(_)) => shared.start(repository, &query),
        (Method::PUT, Some(upload)) => {
            let Ok(bytes) = axum::body::to_bytes(body, usize::MAX).await else {
                return status(400);
            };
            let digest = digest_of(&bytes).to_string();
            assert_eq!(digest, query["digest"], "wrong bytes came to their end");
            let mut content = shared.content.lock().unwrap();
            content.uploads.remove(upload);
            content.blobs.insert(digest.clone(), bytes);
            content.holds.insert((repository.to_owned(), digest));
            status(201)
        }
        (_, Some(upload)) => {
            shared.content.lock().unwrap().uploads.remove(upload);
            status(204)
        }
        (method, None) => shared.blob(method, repository, rest, range.as_deref(), open),
    }
}

impl Shared {
    fn put(&self, key: (String, String), kind: String, bytes: Bytes) -> Response<Body> {
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        let layers = document["layers"].as_array().into_iter().flatten();
        let mut content = self.content.lock().unwrap();
        for blob in document.get("config").into_iter().chain(layers) {
            let digest = blob["digest"].as_str().unwrap().to_owned();
            if !content.holds.contains(&(key.0.clone(), digest)) {
                return status(400);
            }
        }
        let by_digest = (key.0.clone(), digest_of(&bytes).to_string());
        let manifest = (kind, bytes);
        content.manifests.insert(by_digest, manifest.clone());
        content.manifests.insert(key, manifest);
        status(201)
    }

    fn manifest(&self, key: &(String, String)) -> Response<Body> {
        let content = self.content.lock().unwrap();
        let Some((kind, bytes)) = content.manifests.get(key) else {
            return status(404);
        };
        let answer = Response::builder()
            .header("content-type", kind)
            .header("docker-content-digest", digest_of(bytes).as_str());
        answer.body(Body::from(bytes.clone())).unwrap()
    }

    fn start(&self, repository: &str, query: &HashMap<String, String>) -> Response<Body> {
        let mut content = self.content.lock().unwrap();
        if let (Some(digest), Some(from)) = (query.get("mount"), query.get("from"))
            && !self.manner.lock().unwrap().mounts_nothing
            && content.holds.contains(&(from.clone(), digest.clone()))
        {
            content
                .holds
                .insert((repository.to_owned(), digest.clone()));
            return status(201);
        }
        let number = self.uploads.fetch_add(1, Ordering::SeqCst).to_string();
        let location = format!("/v2/{repository}/blobs/uploads/{number}");
        content.uploads.insert(number);
        let answer = Response::builder().status(202).header("location", location);
        answer.body(Body::empty()).unwrap()
    }

    fn blob(
        self: &Arc<Self>,
        method: Method,
        repository: &str,
        digest: &str,
        range: Option<&str>,
        open: Open,
    ) -> Response<Body> {
        let content = self.content.lock().unwrap();
        let key = (repository.to_owned(), digest.to_owned());
        if !content.holds.contains(&key) {
            return status(404);
        }
        let bytes = content.blobs[digest].clone();
        if method == Method::HEAD {
            return status(200);
        }
        let mut manner = self.manner.lock().unwrap();
        let first = range.map_or(0, |range| {
            let text = range.trim().strip_prefix("bytes=").unwrap();
            text.strip_suffix('-').unwrap().parse().unwrap()
        });
        let (code, first) = match (range, manner.ranges) {
            (None, _) | (Some(_), Ranges::Ignored) => (200, 0),
            (Some(_), Ranges::Kept) => (206, first),
            (Some(_), Ranges::Wrong) => (206, first + 1),
        };
        let body = bytes.slice(first..);
        let cut = (bytes.len() > CHUNK).then(|| manner.cuts.pop()).flatten();
        let limit = cut.or(manner.stalls_after).unwrap_or(body.len());
        let chunks: Vec<Bytes> = (0..limit.min(body.len()))
            .step_by(CHUNK)
            .map(|at| body.slice(at..(at + CHUNK).min(limit).min(body.len())))
            .collect();
        let shared = Arc::clone(self);
        let good = stream::iter(chunks).map(move |chunk| {
            shared.sent.fetch_add(chunk.len(), Ordering::SeqCst);
            Ok(chunk)
        });
        let end = if cut.is_some() {
            stream::iter([Err(std::io::Error::other("cut"))]).boxed()
        } else if manner.stalls_after.is_some() {
            stream::pending().boxed()
        } else {
            stream::empty().boxed()
        };
        let mut answer = Response::builder()
            .status(code)
            .header("content-length", body.len());
        if code == 206 {
            let range = format!("bytes {first}-{}/{}", bytes.len() - 1, bytes.len());
            answer = answer.header("content-range", range);
        }
        let counted = good.chain(end).map(move |chunk| {
            let _open = &open;
            chunk
        });
        answer.body(Body::from_stream(counted)).unwrap()
    }
}

impl Peer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let shared = Arc::<Shared>::default();
        let app = Router::new()
            .fallback(answer)
            .with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { host, shared }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.endpoint()).unwrap()
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::of(&self.host.parse().unwrap(), true).unwrap()
    }

    pub(crate) fn behave(&self, manner: Manner) {
        *self.shared.manner.lock().unwrap() = manner;
    }

    /// Puts an image of these layers into a repository.
    pub(crate) fn push(&self, repository: &Repository, layers: &[Vec<u8>]) -> Digest {
        let config = format!("{{\"layers\":{}}}", layers.len()).into_bytes();
        let blobs: Vec<&Vec<u8>> = [&config].into_iter().chain(layers).collect();
        let mut content = self.shared.content.lock().unwrap();
        let mut described = Vec::new();
        for blob in blobs {
            let digest = digest_of(blob).to_string();
            let key = (repository.to_string(), digest.clone());
            content.holds.insert(key);
            content.blobs.insert(digest.clone(), blob.clone().into());
            described.push(format!(
                r#"{{"mediaType":"x","digest":"{digest}","size":{}}}"#,
                blob.len()
            ));
        }
        let (config, layers) = described.split_first().unwrap();
        let body = format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{}]}}"#,
            layers.join(",")
        );
        let digest = digest_of(body.as_bytes());
        let key = (repository.to_string(), digest.to_string());
        let manifest = (MANIFEST.to_owned(), body.into());
        content.manifests.insert(key, manifest);
        digest
    }

    /// Puts an index of images that are there into a repository.
    pub(crate) fn index(&self, repository: &Repository, children: &[Digest]) -> Digest {
        let mut content = self.shared.content.lock().unwrap();
        let children: Vec<String> = children
            .iter()
            .map(|child| {
                let key = (repository.to_string(), child.to_string());
                let size = content.manifests[&key].1.len();
                format!(r#"{{"mediaType":"{MANIFEST}","digest":"{child}","size":{size}}}"#)
            })
            .collect();
        let body = format!(
            r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
            children.join(",")
        );
        let digest = digest_of(body.as_bytes());
        let key = (repository.to_string(), digest.to_string());
        content
            .manifests
            .insert(key, (INDEX.to_owned(), body.into()));
        digest
    }

    /// Puts a blob into a repository under a digest, whether or not that is its own.
    pub(crate) fn hold(&self, repository: &Repository, digest: &Digest, blob: &[u8]) {
        let mut content = self.shared.content.lock().unwrap();
        let key = (repository.to_string(), digest.to_string());
        content.holds.insert(key);
        let blob = Bytes::copy_from_slice(blob);
        content.blobs.insert(digest.to_string(), blob);
    }

    /// Takes a blob away from a repository.
    pub(crate) fn lose(&self, repository: &Repository, digest: &Digest) {
        let key = (repository.to_string(), digest.to_string());
        assert!(self.shared.content.lock().unwrap().holds.remove(&key));
    }

    pub(crate) fn holds(&self, repository: &Repository, digest: &Digest) -> bool {
        let key = (repository.to_string(), digest.to_string());
        let content = self.shared.content.lock().unwrap();
        content.holds.contains(&key) || content.manifests.contains_key(&key)
    }

    /// Returns what was asked that begins with this and contains that.
    pub(crate) fn asked(&self, method: &str, part: &str) -> Vec<String> {
        let asked = self.shared.asked.lock().unwrap();
        let wanted = asked
            .iter()
            .filter(|asked| asked.split(' ').next() == Some(method) && asked.contains(part));
        wanted.cloned().collect()
    }

    pub(crate) fn all_asked(&self) -> usize {
        self.shared.asked.lock().unwrap().len()
    }

    /// Returns how many bytes of blobs it has sent.
    pub(crate) fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Returns how many answers are under way, and how many there were at most.
    pub(crate) fn open(&self) -> (usize, usize) {
        let shared = &self.shared;
        let most = shared.most.load(Ordering::SeqCst);
        (shared.open.load(Ordering::SeqCst), most)
    }

    /// Returns how many uploads were begun and neither ended nor given up.
    pub(crate) fn uploads(&self) -> usize {
        self.shared.content.lock().unwrap().uploads.len()
    }
}
