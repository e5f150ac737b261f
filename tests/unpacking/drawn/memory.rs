//! A registry in memory, as far as copies within it and readers ask.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Formatter};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use axum::http::{Method, Response};
use bytes::Bytes;
use reqwest::ResponseBuilderExt as _;
use sluice_registry::{Client, Endpoint, SimulatedRegistry, SimulatedResponse, Transport};
use sluice_tests::hostile::Bundle;
use sluice_tests::hostile::image::digest;

/// A manifest: its media type and bytes.
pub type Stored = (String, Bytes);

/// Two repositories that share blobs by mounting them.
#[derive(Default)]
pub struct Memory {
    blobs: BTreeMap<String, Bytes>,
    /// By repository and digest.
    manifests: BTreeMap<(String, String), Stored>,
    mounted: BTreeSet<(String, String)>,
}

/// How the client reaches it.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<Memory>>);

impl Debug for Wire {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    /// Holds an image with all that it reaches, and nothing else.
    pub fn hold(&self, repository: &str, image: &Bundle) {
        let mut memory = Memory::default();
        for blob in &image.blobs {
            let digest = digest(blob);
            memory
                .mounted
                .insert((repository.to_owned(), digest.clone()));
            memory.blobs.insert(digest, Bytes::copy_from_slice(blob));
        }
        for document in &image.documents {
            let stored = (
                document.media_type.to_owned(),
                Bytes::copy_from_slice(&document.bytes),
            );
            let place = (repository.to_owned(), digest(&document.bytes));
            memory.manifests.insert(place, stored);
        }
        *self.0.lock().unwrap() = memory;
    }

    /// Makes a client of its own.
    pub fn client(&self, number: u64) -> Client {
        let endpoint = Endpoint::at(
            "registry.test".parse().unwrap(),
            format!("http://p{number}.test").parse().unwrap(),
        );
        Client::with_transport(Transport::simulated(Arc::new(self.clone())), endpoint).unwrap()
    }

    /// Returns a manifest.
    pub fn manifest(&self, repository: &str, digest: &str) -> Option<Stored> {
        let place = (repository.to_owned(), digest.to_owned());
        self.0.lock().unwrap().manifests.get(&place).cloned()
    }

    /// Returns the digests of all manifests of a repository.
    pub fn manifests(&self, repository: &str) -> Vec<String> {
        let memory = self.0.lock().unwrap();
        let of_it = memory
            .manifests
            .keys()
            .filter(|(name, _)| name == repository);
        of_it.map(|(_, digest)| digest.clone()).collect()
    }

    /// Returns a blob that a repository has.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Bytes> {
        let memory = self.0.lock().unwrap();
        let place = (repository.to_owned(), digest.to_owned());
        memory
            .mounted
            .contains(&place)
            .then(|| memory.blobs[digest].clone())
    }

    fn answer(&self, request: &reqwest::Request) -> Response<Bytes> {
        let path = request
            .url()
            .path()
            .strip_prefix("/v2/")
            .unwrap_or_default();
        let is_head = request.method() == Method::HEAD;
        let body = |bytes: Bytes| if is_head { Bytes::new() } else { bytes };
        let nothing = |status: u16| {
            Response::builder()
                .status(status)
                .body(Bytes::new())
                .unwrap()
        };
        if let Some((repository, reference)) = path.split_once("/manifests/") {
            if request.method() == Method::PUT {
                return self.put(repository, request);
            }
            return match self.manifest(repository, reference) {
                None => nothing(404),
                Some((media_type, bytes)) => Response::builder()
                    .header("content-type", media_type)
                    .header("docker-content-digest", reference)
                    .body(body(bytes))
                    .unwrap(),
            };
        }
        let Some((repository, rest)) = path.split_once("/blobs/") else {
            return nothing(404);
        };
        if rest == "uploads/" {
            let query: BTreeMap<String, String> =
                request.url().query_pairs().into_owned().collect();
            let mut memory = self.0.lock().unwrap();
            let (Some(digest), Some(from)) = (query.get("mount"), query.get("from")) else {
                return nothing(500);
            };
            if !memory.mounted.contains(&(from.clone(), digest.clone())) {
                return nothing(500);
            }
            memory
                .mounted
                .insert((repository.to_owned(), digest.clone()));
            return nothing(201);
        }
        self.blob(repository, rest)
            .map_or_else(|| nothing(404), |bytes| Response::new(body(bytes)))
    }

    fn put(&self, repository: &str, request: &reqwest::Request) -> Response<Bytes> {
        let bytes = request.body().unwrap().as_bytes().unwrap();
        let media_type = request.headers()["content-type"].to_str().unwrap();
        let stored = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        let digest = digest(bytes);
        let place = (repository.to_owned(), digest.clone());
        self.0.lock().unwrap().manifests.insert(place, stored);
        let answer = Response::builder().status(201);
        let answer = answer.header("docker-content-digest", digest);
        answer.body(Bytes::new()).unwrap()
    }
}

/// Makes requests; nothing is ever sent with it.
static MAKER: LazyLock<reqwest::Client> = LazyLock::new(|| {
    let builder = reqwest::Client::builder().timeout(Duration::from_secs(1));
    builder.build().unwrap()
});

impl SimulatedRegistry for Wire {
    fn respond(&self, request: reqwest::Request) -> SimulatedResponse<'_> {
        Box::pin(async move {
            let mut response = self.answer(&request);
            let with_url = Response::builder().url(request.url().clone()).body(());
            let extensions = with_url.unwrap().extensions().clone();
            response.extensions_mut().extend(extensions);
            Ok(response.into())
        })
    }

    fn request_builder(&self) -> reqwest::Client {
        MAKER.clone()
    }
}
