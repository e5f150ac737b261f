//! A registry that lies: it passes questions on to a real one, and answers some of them otherwise.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Response, StatusCode, header};
use serde_json::json;
use tokio::runtime::Runtime;

/// The header that names a digest.
const DIGEST: &str = "docker-content-digest";

/// What is told instead of the truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// The header names another digest than that of the bytes.
    WrongDigestHeader,
    /// One byte differs from what the digest says.
    WrongBytes,
    /// The connection breaks off in the middle of the body.
    Truncated,
    /// A status, with how long to wait if given.
    Status(u16, Option<u64>),
    /// It is elsewhere.
    Redirect(String),
    /// A token is asked for, which is to be had at this address.
    Realm(String),
    /// The list of tags has another page, and another, without end.
    EndlessTags,
    /// There is something of this media type.
    Found(&'static str, String),
    /// The list of tags has these, and another page if so said.
    Tags(Vec<&'static str>, bool),
    /// No answer comes, and the connection stays open.
    Silence,
}

impl Lie {
    /// A list of referrers.
    pub fn listing(digests: &[&str]) -> Self {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let listed = digests
            .iter()
            .map(|digest| json!({ "mediaType": media_type, "digest": digest, "size": 2 }));
        let listed: Vec<_> = listed.collect();
        let index = "application/vnd.oci.image.index.v1+json";
        let list = json!({ "schemaVersion": 2, "mediaType": index, "manifests": listed });
        Self::Found(index, list.to_string())
    }
}

/// A lie about requests whose path has this part.
#[derive(Debug, Clone)]
struct Told {
    part: String,
    lie: Lie,
    /// How often it is still told.
    left: usize,
}

/// What was asked: the path with its query, and the value of `Authorization`.
pub type Asked = (String, Option<String>);
/// What was asked: the method, and the path with its query.
pub type Requested = (String, String);

#[derive(Debug)]
struct Shared {
    client: reqwest::Client,
    behind: String,
    lies: Mutex<Vec<Told>>,
    asked: Mutex<Vec<Asked>>,
    requested: Mutex<Vec<Requested>>,
}

/// A registry in front of a real one.
#[derive(Debug)]
pub struct Liar {
    /// Its host and port.
    pub host: String,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl Liar {
    /// Starts one that tells the truth so far.
    pub fn before(host: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let shared = Arc::new(Shared {
            client: reqwest::Client::new(),
            behind: host.to_owned(),
            lies: Mutex::default(),
            asked: Mutex::default(),
            requested: Mutex::default(),
        });
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let app = Router::new().fallback(answer).with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            host,
            shared,
            runtime: Some(runtime),
        }
    }

    /// Lies from now on to whoever asks for a path with this part.
    pub fn lie(&self, part: &str, lie: Lie) {
        self.lie_times(part, lie, usize::MAX);
    }

    /// Lies so often to whoever asks for a path with this part.
    pub fn lie_times(&self, part: &str, lie: Lie, times: usize) {
        self.shared.lies.lock().unwrap().push(Told {
            part: part.to_owned(),
            lie,
            left: times,
        });
    }

    /// Tells the truth again.
    pub fn confess(&self) {
        self.shared.lies.lock().unwrap().clear();
    }

    /// Returns what was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Returns what was requested since this was called last.
    pub fn requested(&self) -> Vec<Requested> {
        std::mem::take(&mut *self.shared.requested.lock().unwrap())
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    /// Takes the first lie that is meant for a path.
    fn lie_about(&self, path: &str) -> Option<Lie> {
        let mut lies = self.lies.lock().unwrap();
        let told = lies
            .iter_mut()
            .find(|told| told.left > 0 && path.contains(&told.part))?;
        told.left -= 1;
        Some(told.lie.clone())
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let path = request.uri().path_and_query().unwrap().to_string();
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.map(|value| value.to_str().unwrap().to_owned());
    shared
        .asked
        .lock()
        .unwrap()
        .push((path.clone(), authorization));
    let requested = (request.method().to_string(), path.clone());
    shared.requested.lock().unwrap().push(requested);
    let lie = shared.lie_about(&path);
    let plain = |status: u16| Response::builder().status(status);
    match &lie {
        Some(Lie::Status(status, wait)) => {
            let mut answer = plain(*status);
            if let Some(wait) = wait {
                answer = answer.header(header::RETRY_AFTER, *wait);
            }
            return answer.body(Body::from("as the test wants it")).unwrap();
        }
        Some(Lie::Redirect(to)) => {
            let answer = plain(307).header(header::LOCATION, format!("{to}{path}"));
            return answer.body(Body::empty()).unwrap();
        }
        Some(Lie::Realm(realm)) => {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"liar\"");
            let answer = plain(401).header(header::WWW_AUTHENTICATE, challenge);
            return answer.body(Body::empty()).unwrap();
        }
        Some(Lie::EndlessTags) => {
            let page = path
                .rsplit_once("last=")
                .map_or(0, |(_, page)| page.parse().unwrap());
            let (path, _) = path.split_once('?').unwrap_or((&path, ""));
            let link = format!("<{path}?n=1&last={}>; rel=\"next\"", page + 1);
            let body = format!("{{\"name\":\"x\",\"tags\":[\"page{page}\"]}}");
            let answer = plain(200).header(header::LINK, link);
            return answer.body(Body::from(body)).unwrap();
        }
        Some(Lie::Found(media_type, body)) => {
            let answer = plain(200).header(header::CONTENT_TYPE, *media_type);
            return answer.body(Body::from(body.clone())).unwrap();
        }
        Some(Lie::Tags(tags, more)) => {
            let mut answer = plain(200);
            if *more {
                let (path, _) = path.split_once('?').unwrap_or((&path, ""));
                answer = answer.header(header::LINK, format!("<{path}?last=x>; rel=\"next\""));
            }
            let body = format!("{{\"name\":\"x\",\"tags\":{tags:?}}}");
            return answer.body(Body::from(body)).unwrap();
        }
        Some(Lie::Silence) => std::future::pending::<()>().await,
        _ => {}
    }
    let (status, headers, body) = truth(&shared, request, &path).await;
    let mut answer = Response::builder().status(status);
    for (name, value) in &headers {
        let skipped = [header::TRANSFER_ENCODING, header::CONNECTION].contains(name);
        if !(skipped || lie == Some(Lie::WrongDigestHeader) && name == DIGEST) {
            answer = answer.header(name, value);
        }
    }
    match lie {
        Some(Lie::WrongDigestHeader) => {
            let wrong = format!("sha256:{}", "e".repeat(64));
            answer.header(DIGEST, wrong).body(Body::from(body)).unwrap()
        }
        Some(Lie::WrongBytes) => {
            let mut wrong = body.to_vec();
            if let Some(byte) = wrong.last_mut() {
                *byte ^= 1;
            }
            answer.body(Body::from(wrong)).unwrap()
        }
        Some(Lie::Truncated) => {
            let half = body.slice(..body.len() / 2);
            let pieces = futures_util::stream::iter([Ok(half), Err("as the test wants it")]);
            answer.body(Body::from_stream(pieces)).unwrap()
        }
        _ => answer.body(Body::from(body)).unwrap(),
    }
}

/// Asks the registry behind.
async fn truth(shared: &Shared, request: Request, path: &str) -> (StatusCode, HeaderMap, Bytes) {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let mut asked = shared
        .client
        .request(parts.method, format!("http://{}{path}", shared.behind))
        .body(body);
    for (name, value) in &parts.headers {
        if ![header::HOST, header::CONTENT_LENGTH].contains(name) {
            asked = asked.header(name, value);
        }
    }
    let answer = asked.send().await.unwrap();
    let (status, headers) = (answer.status(), answer.headers().clone());
    (status, headers, answer.bytes().await.unwrap())
}
