//! A registry in memory that speaks as Distribution 2.8 does, as far as the client asks.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::{HeaderMap, Method, Response};
use bytes::Bytes;

use crate::images::{self, Image, digest};

/// One repository.
#[derive(Debug, Clone, Default)]
pub struct Repository {
    /// What its tags name.
    pub tags: BTreeMap<String, String>,
    /// Its manifests by digest: media type and bytes.
    pub manifests: BTreeMap<String, (String, Bytes)>,
    /// Its blobs.
    pub blobs: BTreeSet<String>,
}

/// A registry.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    /// Its repositories.
    pub repositories: BTreeMap<String, Repository>,
    blobs: BTreeMap<String, Bytes>,
    uploads: u64,
}

/// A request with its body.
#[derive(Debug)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path.
    pub path: String,
    /// Its query.
    pub query: BTreeMap<String, String>,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The repositories.
    Catalog,
    /// The tags of a repository.
    Tags(String),
    /// A manifest of a repository, by tag or digest.
    Manifest(String, String),
    /// What refers to a manifest, which this registry does not list.
    Referrers,
    /// A blob of a repository.
    Blob(String, String),
    /// The uploads of a repository.
    Uploads(String),
    /// An upload of a repository.
    Upload(String),
}

impl Place {
    /// Reads a path.
    pub fn of(path: &str) -> Self {
        let path = path.strip_prefix("/v2/").unwrap();
        if path == "_catalog" {
            return Self::Catalog;
        }
        if let Some(repository) = path.strip_suffix("/tags/list") {
            return Self::Tags(repository.to_owned());
        }
        if let Some((repository, reference)) = path.split_once("/manifests/") {
            return Self::Manifest(repository.to_owned(), reference.to_owned());
        }
        if path.contains("/referrers/") {
            return Self::Referrers;
        }
        let (repository, rest) = path.split_once("/blobs/").unwrap();
        match rest.strip_prefix("uploads/") {
            Some("") => Self::Uploads(repository.to_owned()),
            Some(_) => Self::Upload(repository.to_owned()),
            None => Self::Blob(repository.to_owned(), rest.to_owned()),
        }
    }
}

impl Registry {
    /// Puts an image with all that it needs, under a tag.
    pub fn push(&mut self, repository: &str, tag: &str, image: &Image) {
        let parts = image.children.iter().filter_map(|d| images::of_digest(d));
        for part in parts.chain([image]) {
            let place = self.repositories.entry(repository.to_owned()).or_default();
            for (digest, bytes) in &part.blobs {
                place.blobs.insert(digest.clone());
                self.blobs.insert(digest.clone(), bytes.clone());
            }
            let manifest = (part.media_type.to_owned(), part.raw.clone());
            place.manifests.insert(part.digest.clone(), manifest);
        }
        let place = self.repositories.entry(repository.to_owned()).or_default();
        place.tags.insert(tag.to_owned(), image.digest.clone());
    }

    /// Answers a request.
    pub fn answer(&mut self, request: &Request) -> Response<Bytes> {
        match Place::of(&request.path) {
            Place::Catalog => self.catalog(),
            Place::Tags(repository) => self.tags(&repository),
            Place::Referrers => refuse(404, "NAME_UNKNOWN"),
            Place::Manifest(repository, reference) => match request.method {
                Method::PUT => self.put(&repository, &reference, request),
                Method::DELETE => self.delete(&repository, &reference),
                _ => self.manifest(&repository, &reference, request),
            },
            Place::Blob(repository, digest) => self.blob(&repository, &digest, request),
            Place::Uploads(repository) => self.start(&repository, request),
            Place::Upload(_) if request.method == Method::DELETE => {
                Response::builder().status(204).body(Bytes::new()).unwrap()
            }
            Place::Upload(repository) => self.finish(&repository, request),
        }
    }

    fn catalog(&self) -> Response<Bytes> {
        let repositories: Vec<&String> = self.repositories.keys().collect();
        let body = serde_json::json!({ "repositories": repositories });
        let answer = Response::builder().status(200);
        answer.body(body.to_string().into()).unwrap()
    }

    fn tags(&self, repository: &str) -> Response<Bytes> {
        let Some(place) = self.repositories.get(repository) else {
            return refuse(404, "NAME_UNKNOWN");
        };
        let tags: Vec<&String> = place.tags.keys().collect();
        let body = serde_json::json!({ "name": repository, "tags": tags });
        let answer = Response::builder().status(200);
        answer.body(body.to_string().into()).unwrap()
    }

    fn resolve(&self, repository: &str, reference: &str) -> Option<(String, &(String, Bytes))> {
        let place = self.repositories.get(repository)?;
        let digest = if reference.starts_with("sha256:") {
            reference
        } else {
            place.tags.get(reference)?
        };
        let manifest = place.manifests.get(digest)?;
        Some((digest.to_owned(), manifest))
    }

    fn manifest(&self, repository: &str, reference: &str, request: &Request) -> Response<Bytes> {
        let Some((digest, (media_type, raw))) = self.resolve(repository, reference) else {
            return refuse(404, "MANIFEST_UNKNOWN");
        };
        let body = if request.method == Method::HEAD {
            Bytes::new()
        } else {
            raw.clone()
        };
        let answer = Response::builder()
            .status(200)
            .header("content-type", media_type)
            .header("docker-content-digest", digest);
        answer.body(body).unwrap()
    }

    fn put(&mut self, repository: &str, reference: &str, request: &Request) -> Response<Bytes> {
        let digest = digest(&request.body);
        if reference.starts_with("sha256:") && reference != digest {
            return refuse(400, "DIGEST_INVALID");
        }
        let document: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let place = self.repositories.entry(repository.to_owned()).or_default();
        let named = |value: &serde_json::Value| value["digest"].as_str().unwrap().to_owned();
        let children = document["manifests"].as_array().into_iter().flatten();
        if children
            .map(named)
            .any(|child| !place.manifests.contains_key(&child))
        {
            return refuse(400, "MANIFEST_BLOB_UNKNOWN");
        }
        let layers = document["layers"].as_array().into_iter().flatten();
        let blobs = document.get("config").into_iter().chain(layers);
        if blobs.map(named).any(|blob| !place.blobs.contains(&blob)) {
            return refuse(400, "MANIFEST_BLOB_UNKNOWN");
        }
        let media_type = request.headers["content-type"].to_str().unwrap().to_owned();
        let manifest = (media_type, request.body.clone());
        place.manifests.insert(digest.clone(), manifest);
        if !reference.starts_with("sha256:") {
            place.tags.insert(reference.to_owned(), digest.clone());
        }
        let answer = Response::builder().status(201);
        let answer = answer.header("docker-content-digest", digest);
        answer.body(Bytes::new()).unwrap()
    }

    fn delete(&mut self, repository: &str, reference: &str) -> Response<Bytes> {
        if !reference.starts_with("sha256:") {
            return refuse(400, "UNSUPPORTED");
        }
        let Some(place) = self.repositories.get_mut(repository) else {
            return refuse(404, "NAME_UNKNOWN");
        };
        if place.manifests.remove(reference).is_none() {
            return refuse(404, "MANIFEST_UNKNOWN");
        }
        place.tags.retain(|_, digest| digest != reference);
        Response::builder().status(202).body(Bytes::new()).unwrap()
    }

    fn blob(&self, repository: &str, digest: &str, request: &Request) -> Response<Bytes> {
        let place = self.repositories.get(repository);
        if !place.is_some_and(|place| place.blobs.contains(digest)) {
            return refuse(404, "BLOB_UNKNOWN");
        }
        let bytes = self.blobs[digest].clone();
        let body = if request.method == Method::HEAD {
            Bytes::new()
        } else {
            bytes
        };
        Response::builder().status(200).body(body).unwrap()
    }

    fn start(&mut self, repository: &str, request: &Request) -> Response<Bytes> {
        let (mount, from) = (request.query.get("mount"), request.query.get("from"));
        if let (Some(digest), Some(from)) = (mount, from) {
            let source = self.repositories.get(from);
            if source.is_some_and(|source| source.blobs.contains(digest)) {
                let place = self.repositories.entry(repository.to_owned()).or_default();
                place.blobs.insert(digest.clone());
                return Response::builder().status(201).body(Bytes::new()).unwrap();
            }
        }
        self.uploads += 1;
        let location = format!("/v2/{repository}/blobs/uploads/{}", self.uploads);
        let answer = Response::builder().status(202).header("location", location);
        answer.body(Bytes::new()).unwrap()
    }

    fn finish(&mut self, repository: &str, request: &Request) -> Response<Bytes> {
        let wanted = &request.query["digest"];
        if digest(&request.body) != *wanted {
            return refuse(400, "DIGEST_INVALID");
        }
        self.blobs.insert(wanted.clone(), request.body.clone());
        let place = self.repositories.entry(repository.to_owned()).or_default();
        place.blobs.insert(wanted.clone());
        Response::builder().status(201).body(Bytes::new()).unwrap()
    }
}

fn refuse(status: u16, code: &str) -> Response<Bytes> {
    let body = format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#);
    Response::builder()
        .status(status)
        .body(body.into())
        .unwrap()
}
