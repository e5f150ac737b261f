//! Makes images and pushes them to an upstream registry, as a publisher would.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use reqwest::blocking::{Body, Client, RequestBuilder, Response};
use serde_json::json;
use sha2::{Digest as _, Sha256};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// A manifest that was pushed.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its digest.
    pub digest: String,
    /// Its bytes.
    pub raw: Vec<u8>,
    /// Its media type.
    pub media_type: &'static str,
}

impl Image {
    /// Makes an index of its document, without pushing it.
    pub fn index(document: &serde_json::Value) -> Self {
        Self::of(document, INDEX)
    }

    /// Makes another image of the same configuration and layers, which differs in an annotation; it is not pushed.
    pub fn annotated(&self, annotation: &str) -> Self {
        let mut document: serde_json::Value = serde_json::from_slice(&self.raw).unwrap();
        document["annotations"] = json!({ "of": annotation });
        Self::of(&document, self.media_type)
    }

    /// Makes one that ends as no serialiser would end it, so that a copy that re-serialises is found out.
    fn of(document: &serde_json::Value, media_type: &'static str) -> Self {
        let raw = format!("{document} \n").into_bytes();
        Self {
            digest: digest(&raw),
            raw,
            media_type,
        }
    }
}

/// Returns the tag of something that is attached to an image: `.sig`, `.att`, `.sbom`, or nothing for a list of referrers.
pub fn tag_of(image: &Image, kind: &str) -> String {
    format!("{}{kind}", image.digest.replace(':', "-"))
}

/// Returns the digests that an index or a list of referrers names, sorted.
pub fn digests_in(list: &[u8]) -> Vec<String> {
    let list: serde_json::Value = serde_json::from_slice(list).unwrap();
    let listed = list["manifests"].as_array().unwrap().iter();
    let mut digests: Vec<String> = listed
        .map(|entry| entry["digest"].as_str().unwrap().to_owned())
        .collect();
    digests.sort();
    digests
}

/// A registry as a client with or without an account sees it.
#[derive(Debug)]
pub struct Upstream {
    client: Client,
    base: String,
    account: Option<(String, String)>,
}

/// Returns the digest of bytes.
pub fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Packs bytes as layers are packed.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// Makes an archive of files, in the oldest form that everybody reads.
pub fn tar<T: AsRef<[u8]>>(files: &[(&str, T)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in files {
        let content = content.as_ref();
        let mut header = [0; 512];
        let mut field = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        field(0, path);
        field(100, "0000644");
        field(108, "0000000");
        field(116, "0000000");
        field(124, &format!("{:011o}", content.len()));
        field(136, "00000000000");
        // The sum is made as if its own field were blank.
        field(148, "        ");
        field(156, "0");
        field(257, "ustar");
        field(263, "00");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend(header);
        archive.extend(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

impl Upstream {
    /// Speaks plain HTTP to this host, without an account.
    pub fn new(host: &str) -> Self {
        Self {
            client: Client::new(),
            base: format!("http://{host}/v2"),
            account: None,
        }
    }

    /// Speaks plain HTTP to this host with an account.
    pub fn with_account(host: &str, name: &str, password: &str) -> Self {
        Self {
            account: Some((name.to_owned(), password.to_owned())),
            ..Self::new(host)
        }
    }

    /// Sends a request; where a token is asked for, gets one and sends it again.
    pub fn send(&self, request: impl Fn(&Client) -> RequestBuilder) -> Response {
        let answer = request(&self.client).send().unwrap();
        let Some(challenge) = answer.headers().get("www-authenticate") else {
            return answer;
        };
        let challenge = challenge.to_str().unwrap();
        if challenge.starts_with("Basic ") {
            let Some((name, password)) = &self.account else {
                return answer;
            };
            return request(&self.client)
                .basic_auth(name, Some(password))
                .send()
                .unwrap();
        }
        let parameter = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let mut ask = self.client.get(parameter("realm").unwrap());
        for name in ["service", "scope"] {
            ask = ask.query(&parameter(name).map(|value| (name, value)).as_slice());
        }
        if let Some((name, password)) = &self.account {
            ask = ask.basic_auth(name, Some(password));
        }
        let answer = ask.send().unwrap();
        if !answer.status().is_success() {
            return answer;
        }
        let answer: serde_json::Value = serde_json::from_slice(&answer.bytes().unwrap()).unwrap();
        let token = answer["token"].as_str().unwrap();
        request(&self.client).bearer_auth(token).send().unwrap()
    }

    /// Asks for something under `/v2/` and returns the status, as in `hub/app/tags/list`.
    pub fn status(&self, path: &str) -> u16 {
        let url = format!("{}/{path}", self.base);
        let answer = self.send(|client| client.get(&url).header("accept", ACCEPT));
        answer.status().as_u16()
    }

    /// Asks to begin an upload, as every push does, and returns the status: 202 where a push is allowed.
    pub fn try_upload(&self, repository: &str) -> u16 {
        let uploads = format!("{}/{repository}/blobs/uploads/", self.base);
        self.send(|client| client.post(&uploads)).status().as_u16()
    }

    /// Tries to delete a blob, and returns the status.
    pub fn try_delete_blob(&self, repository: &str, digest: &str) -> u16 {
        let url = format!("{}/{repository}/blobs/{digest}", self.base);
        self.send(|client| client.delete(&url)).status().as_u16()
    }

    /// Returns the bytes of a blob, if it is there.
    pub fn get_blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        let url = format!("{}/{repository}/blobs/{digest}", self.base);
        let answer = self.send(|client| client.get(&url));
        let is_there = answer.status().is_success();
        is_there.then(|| answer.bytes().unwrap().to_vec())
    }

    /// Pushes a blob and returns its descriptor.
    pub fn blob(&self, repository: &str, media_type: &str, bytes: &[u8]) -> serde_json::Value {
        self.upload(repository, &digest(bytes), || bytes.to_vec().into());
        json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
    }

    /// Pushes a layer that is never in memory as a whole and returns its descriptor.
    pub fn large_layer(&self, repository: &str, size: u64) -> serde_json::Value {
        let content = || std::io::repeat(b'x').take(size);
        let (mut hash, mut chunk, mut reader) = (Sha256::new(), vec![0; 1 << 20], content());
        loop {
            let read = reader.read(&mut chunk).unwrap();
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
        }
        let digest = format!("sha256:{}", hex::encode(hash.finalize()));
        self.upload(repository, &digest, || Body::sized(content(), size));
        json!({ "mediaType": LAYER, "digest": digest, "size": size })
    }

    fn upload(&self, repository: &str, digest: &str, body: impl Fn() -> Body) {
        let uploads = format!("{}/{repository}/blobs/uploads/", self.base);
        let start = self.send(|client| client.post(&uploads));
        assert_eq!(start.status(), 202, "an upload to {repository} is refused");
        let at = start.headers()["location"].to_str().unwrap().to_owned();
        let origin = self.base.strip_suffix("/v2").unwrap();
        let at = if at.starts_with('/') {
            format!("{origin}{at}")
        } else {
            at
        };
        let done = self.send(|client| {
            let request = client.put(&at).query(&[("digest", digest)]);
            request.timeout(Duration::from_secs(300)).body(body())
        });
        assert_eq!(done.status(), 201);
    }

    /// Pushes an image of one small layer for a platform and returns it, without a tag.
    pub fn image(&self, repository: &str, architecture: &str, content: &str) -> Image {
        self.files(repository, architecture, &[("content", content)])
    }

    /// Pushes an image of one layer with these files and returns it, without a tag.
    pub fn files(&self, repository: &str, architecture: &str, files: &[(&str, &str)]) -> Image {
        self.claiming(repository, architecture, files, files)
    }

    /// Pushes an image whose configuration claims other files than its layer has, and returns it, without a tag.
    pub fn claiming(
        &self,
        repository: &str,
        architecture: &str,
        claimed: &[(&str, &str)],
        files: &[(&str, &str)],
    ) -> Image {
        let layer = self.blob(repository, LAYER, &gzip(&tar(files)));
        self.manifest(repository, architecture, layer, &digest(&tar(claimed)))
    }

    /// Pushes some files as a layer that is called something else, and returns its descriptor.
    pub fn packed(
        &self,
        repository: &str,
        kind: &str,
        files: &[(&str, &str)],
    ) -> serde_json::Value {
        self.blob(repository, kind, &gzip(&tar(files)))
    }

    /// Pushes an image over a layer that is there and returns it, without a tag.
    pub fn image_of(&self, repository: &str, layer: serde_json::Value) -> Image {
        let diff_id = layer["digest"].as_str().unwrap().to_owned();
        self.manifest(repository, "amd64", layer, &diff_id)
    }

    fn manifest(
        &self,
        repository: &str,
        architecture: &str,
        layer: serde_json::Value,
        diff_id: &str,
    ) -> Image {
        let config = json!({
            "architecture": architecture, "os": "linux", "created": "2026-01-01T00:00:00Z", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [diff_id] }
        });
        let config = self.blob(
            repository,
            "application/vnd.oci.image.config.v1+json",
            config.to_string().as_bytes(),
        );
        self.artifact(repository, config, layer)
    }

    /// Pushes an image of these layers, whose configuration says that they unpack to these, and returns it, without a tag.
    pub fn layered(
        &self,
        repository: &str,
        layers: &[serde_json::Value],
        diff_ids: &[String],
    ) -> Image {
        let config = json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": diff_ids }
        });
        let kind = "application/vnd.oci.image.config.v1+json";
        let config = self.blob(repository, kind, config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.push(repository, Image::of(&manifest, MANIFEST))
    }

    /// Pushes a layer of files and returns its descriptor and what it unpacks to.
    pub fn layer<T: AsRef<[u8]>>(
        &self,
        repository: &str,
        files: &[(&str, T)],
    ) -> (serde_json::Value, String) {
        let tar = tar(files);
        (self.blob(repository, LAYER, &gzip(&tar)), digest(&tar))
    }

    /// Pushes a manifest over blobs that are there and returns it, without a tag.
    pub fn artifact(
        &self,
        repository: &str,
        config: serde_json::Value,
        layer: serde_json::Value,
    ) -> Image {
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        self.push(repository, Image::of(&manifest, MANIFEST))
    }

    /// Pushes what cosign would: a manifest with a layer for each signature; returns it, without a tag.
    pub fn signatures(&self, repository: &str, contents: &[&str]) -> Image {
        let config = self.blob(
            repository,
            "application/vnd.oci.image.config.v1+json",
            b"{}",
        );
        let kind = "application/vnd.dev.cosign.simplesigning.v1+json";
        let layers: Vec<_> = contents
            .iter()
            .map(|content| self.blob(repository, kind, content_of(kind, content).as_bytes()))
            .collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        self.push(repository, Image::of(&manifest, MANIFEST))
    }

    /// Pushes something of a kind that refers to a manifest and returns it, without a tag.
    pub fn referrer(&self, repository: &str, subject: &Image, kind: &str, content: &str) -> Image {
        let layer = self.blob(repository, kind, content_of(kind, content).as_bytes());
        self.refer(repository, subject, kind, layer)
    }

    /// Pushes something of a kind that refers to a manifest, over a blob that is there; returns it, without a tag.
    pub fn refer(
        &self,
        repository: &str,
        subject: &Image,
        kind: &str,
        layer: serde_json::Value,
    ) -> Image {
        let config = self.blob(repository, "application/vnd.oci.empty.v1+json", b"{}");
        let subject = json!({
            "mediaType": subject.media_type, "digest": subject.digest, "size": subject.raw.len(),
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind, "config": config,
            "layers": [layer], "subject": subject,
        });
        self.push(repository, Image::of(&manifest, MANIFEST))
    }

    /// Pushes an index over images and returns it, without a tag.
    pub fn index(&self, repository: &str, children: &[(&str, &Image)]) -> Image {
        let children: Vec<_> = children
            .iter()
            .map(|(architecture, image)| {
                json!({
                    "mediaType": image.media_type, "digest": image.digest, "size": image.raw.len(),
                    "platform": { "os": "linux", "architecture": architecture }
                })
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
        self.push(repository, Image::index(&index))
    }

    fn push(&self, repository: &str, image: Image) -> Image {
        self.put(repository, &image.digest, &image);
        image
    }

    /// Points a tag, or the digest itself, to a manifest.
    pub fn put(&self, repository: &str, reference: &str, image: &Image) {
        assert_eq!(self.try_put(repository, reference, image), 201);
    }

    /// Tries to point a tag, or the digest itself, to a manifest, and returns the status.
    pub fn try_put(&self, repository: &str, reference: &str, image: &Image) -> u16 {
        self.try_put_document(repository, reference, image.media_type, &image.raw)
    }

    /// Tries to point a tag, or the digest itself, to a document of a type, and returns the status.
    pub fn try_put_document(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        document: &[u8],
    ) -> u16 {
        let url = format!("{}/{repository}/manifests/{reference}", self.base);
        let answer = self.send(|client| {
            let request = client.put(&url).header("content-type", media_type);
            request.body(document.to_vec())
        });
        answer.status().as_u16()
    }

    /// Returns the bytes behind a tag or digest, if there are any.
    pub fn get(&self, repository: &str, reference: &str) -> Option<Vec<u8>> {
        let url = format!("{}/{repository}/manifests/{reference}", self.base);
        let answer = self.send(|client| client.get(&url).header("accept", ACCEPT));
        answer
            .status()
            .is_success()
            .then(|| answer.bytes().unwrap().to_vec())
    }

    /// Deletes a digest with every tag that points to it.
    pub fn delete(&self, repository: &str, digest: &str) {
        assert_eq!(self.try_delete(repository, digest), 202);
    }

    /// Tries to delete a digest, and returns the status.
    pub fn try_delete(&self, repository: &str, digest: &str) -> u16 {
        let url = format!("{}/{repository}/manifests/{digest}", self.base);
        self.send(|client| client.delete(&url)).status().as_u16()
    }
}

/// What cosign calls the payload of a signature.
pub const SIGNATURE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// Returns a document of a kind that says something; of a kind that is not known here, that alone.
fn content_of(kind: &str, content: &str) -> String {
    match kind {
        SIGNATURE => json!({ "critical": { "type": "cosign container image signature" }, "optional": { "note": content } }).to_string(),
        "text/spdx" => format!("SPDXVersion: SPDX-2.3\nDocumentName: {content}\n"),
        "application/vnd.in-toto+json" => json!({ "_type": "https://in-toto.io/Statement/v0.1", "subject": [], "predicate": content }).to_string(),
        _ => content.to_owned(),
    }
}
