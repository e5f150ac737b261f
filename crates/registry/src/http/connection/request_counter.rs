//! Counts the requests to a registry by kind, so that tests and dry runs can show what they cost.

use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Method;

/// Counts requests by kind; shared with the client that sends them.
#[derive(Debug, Default)]
pub struct RequestCounter {
    manifest_heads: AtomicU64,
    manifest_gets: AtomicU64,
    manifest_writes: AtomicU64,
    tag_lists: AtomicU64,
    blob_heads: AtomicU64,
    blob_gets: AtomicU64,
    uploads: AtomicU64,
    others: AtomicU64,
}

/// The number of requests of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// HEADs of manifests, which no registry counts as pulls.
    pub manifest_heads: u64,
    /// GETs of manifests: what Docker Hub counts as pulls.
    pub manifest_gets: u64,
    /// Manifests that were written or deleted.
    pub manifest_writes: u64,
    /// Pages of lists of tags.
    pub tag_lists: u64,
    /// HEADs of blobs.
    pub blob_heads: u64,
    /// GETs of blobs.
    pub blob_gets: u64,
    /// Requests of uploads and mounts.
    pub uploads: u64,
    /// Tokens, redirects and the rest.
    pub others: u64,
}

impl RequestCounts {
    /// Returns the number of all requests.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.manifest_heads
            + self.manifest_gets
            + self.manifest_writes
            + self.tag_lists
            + self.blob_heads
            + self.blob_gets
            + self.uploads
            + self.others
    }
}

impl Add for RequestCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            manifest_heads: self.manifest_heads + other.manifest_heads,
            manifest_gets: self.manifest_gets + other.manifest_gets,
            manifest_writes: self.manifest_writes + other.manifest_writes,
            tag_lists: self.tag_lists + other.tag_lists,
            blob_heads: self.blob_heads + other.blob_heads,
            blob_gets: self.blob_gets + other.blob_gets,
            uploads: self.uploads + other.uploads,
            others: self.others + other.others,
        }
    }
}

impl RequestCounter {
    /// Returns the current counts.
    #[must_use]
    pub fn counts(&self) -> RequestCounts {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        RequestCounts {
            manifest_heads: read(&self.manifest_heads),
            manifest_gets: read(&self.manifest_gets),
            manifest_writes: read(&self.manifest_writes),
            tag_lists: read(&self.tag_lists),
            blob_heads: read(&self.blob_heads),
            blob_gets: read(&self.blob_gets),
            uploads: read(&self.uploads),
            others: read(&self.others),
        }
    }

    pub(crate) fn count(&self, method: &Method, path: &str) {
        let counter = match (kind(path), method.as_str()) {
            (Kind::Manifest, "HEAD") => &self.manifest_heads,
            (Kind::Manifest, "GET") => &self.manifest_gets,
            (Kind::Manifest, _) => &self.manifest_writes,
            (Kind::Tags, _) => &self.tag_lists,
            (Kind::Upload, _) => &self.uploads,
            (Kind::Blob, "HEAD") => &self.blob_heads,
            (Kind::Blob, "GET") => &self.blob_gets,
            (Kind::Blob | Kind::Other, _) => &self.others,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

enum Kind {
    Manifest,
    Tags,
    Upload,
    Blob,
    Other,
}

/// Returns the kind by the end of the path, since the name of a repository may contain any of these words.
fn kind(path: &str) -> Kind {
    let Some(path) = path.strip_prefix("/v2/") else {
        return Kind::Other;
    };
    if path.ends_with("/tags/list") {
        return Kind::Tags;
    }
    if path.contains("/blobs/uploads/") {
        return Kind::Upload;
    }
    let mut parts = path.rsplit('/').skip(1);
    match parts.next() {
        Some("manifests") => Kind::Manifest,
        Some("blobs") => Kind::Blob,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_counted_as_what_it_is() {
        let counter = RequestCounter::default();
        for (method, path) in [
            (Method::HEAD, "/v2/a/manifests/1.0"),
            (Method::GET, "/v2/manifests/blobs/manifests/sha256:0"),
            (Method::PUT, "/v2/a/manifests/1.0"),
            (Method::GET, "/v2/a/b/tags/list"),
            (Method::HEAD, "/v2/a/blobs/sha256:0"),
            (Method::GET, "/v2/a/blobs/sha256:0"),
            (Method::POST, "/v2/a/blobs/uploads/"),
            (Method::PUT, "/v2/a/blobs/uploads/7"),
            (Method::GET, "/token"),
        ] {
            counter.count(&method, path);
        }
        let counts = counter.counts();
        let one_each = RequestCounts {
            manifest_heads: 1,
            manifest_gets: 1,
            manifest_writes: 1,
            tag_lists: 1,
            blob_heads: 1,
            blob_gets: 1,
            uploads: 2,
            others: 1,
        };
        assert_eq!(counts, one_each);
        assert_eq!((counts + counts).total(), 18);
    }
}
