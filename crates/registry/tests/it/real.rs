//! The client against Distribution 2.8 itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sluice_domain::{Digest, Repository, Tag};
use sluice_registry::{
    Client, CopyJob, CopyOptions, CopyReport, Endpoint, Error, Manifest, digest_of,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) struct Registry {
    pub(crate) host: String,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The binary where `deploy/tools` puts it, or else the system's.
fn docker_registry() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let tools = std::env::var_os("SLUICE_TOOLS").map_or_else(|| root.join(".tools"), PathBuf::from);
    let own = tools.join("bin/docker-registry");
    if own.exists() {
        own
    } else {
        PathBuf::from("docker-registry")
    }
}

impl Registry {
    async fn start() -> Self {
        Self::configured("", "").await
    }

    /// Starts one with more in the section `http`, and with more sections.
    pub(crate) async fn configured(http: &str, sections: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, log) = (folder.path().join("config.yml"), folder.path().join("log"));
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\nstorage:\n  filesystem: {{rootdirectory: {}}}\n  \
             delete: {{enabled: true}}\nhttp: {{addr: '127.0.0.1:0', relativeurls: true{http}}}\n{sections}",
            folder.path().join("data").display()
        );
        fs::write(&config, text).unwrap();
        let mut registry = Self {
            host: String::new(),
            process: Command::new(docker_registry())
                .arg("serve")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(File::create(&log).unwrap())
                .spawn()
                .expect("docker-registry starts; `deploy/tools --for tests` installs it"),
            _folder: folder,
        };
        for _ in 0..400 {
            let text = fs::read_to_string(&log).unwrap();
            if let Some((_, rest)) = text.split_once("listening on ")
                && rest.contains('\n')
            {
                let end = rest.find(|c: char| !c.is_ascii_digit() && !".:".contains(c));
                registry.host = rest[..end.unwrap()].to_owned();
                return registry;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("docker-registry did not say its port");
    }

    fn client(&self) -> Client {
        Client::new(Endpoint::of(&self.host.parse().unwrap(), true).unwrap()).unwrap()
    }

    async fn put(&self, path: &str, kind: &str, body: Vec<u8>) {
        let url = format!("http://{}{path}", self.host);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let answer = http
            .put(url)
            .header("content-type", kind)
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 201);
    }

    async fn push_blob(&self, bytes: Vec<u8>) -> Digest {
        let digest = digest_of(&bytes);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}/v2/up/app/blobs/uploads/", self.host);
        let answer = http.post(url).send().await.unwrap();
        let at = answer.headers()["location"].to_str().unwrap();
        let join = if at.contains('?') { '&' } else { '?' };
        let path = format!("{at}{join}digest={digest}");
        self.put(&path, "application/octet-stream", bytes).await;
        digest
    }

    /// Pushes an index of one image; returns its digest and its bytes.
    async fn push_index(&self, tags: &[&str], layer: Vec<u8>) -> (Digest, String) {
        let size = layer.len();
        let layer = self.push_blob(layer).await;
        let config = self.push_blob(b"{}".to_vec()).await;
        let image = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"c","digest":"{config}","size":2}},  "layers":[{{"mediaType":"l","digest":"{layer}","size":{size}}}]}}"#
        );
        let child = digest_of(image.as_bytes());
        let path = format!("/v2/up/app/manifests/{child}");
        self.put(&path, MANIFEST, image.clone().into_bytes()).await;
        let index = format!(
            r#"{{"schemaVersion":2,  "manifests":[{{"mediaType":"{MANIFEST}","digest":"{child}","size":{}}}]}}"#,
            image.len()
        );
        for tag in tags {
            let path = format!("/v2/up/app/manifests/{tag}");
            self.put(&path, INDEX, index.clone().into_bytes()).await;
        }
        (digest_of(index.as_bytes()), index)
    }
}

fn name(text: &str) -> Repository {
    text.parse().unwrap()
}

async fn copy(
    from: &Client,
    to: &Client,
    digest: &Digest,
    target: &str,
    siblings: &[Repository],
) -> CopyReport {
    let job = CopyJob {
        source: from,
        source_repository: &name("up/app"),
        digest,
        target: to,
        target_repository: &name(target),
        siblings,
    };
    job.run().await.unwrap()
}

fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn an_index_arrives_byte_for_byte_and_then_costs_no_blob() {
    let (source, target) = (Registry::start().await, Registry::start().await);
    let (digest, bytes) = source.push_index(&["1"], vec![7; 300_000]).await;
    let (from, to) = (source.client(), target.client());
    let first = copy(&from, &to, &digest, "hub/app", &[]).await;
    assert_eq!((first.blobs_copied, first.bytes_copied), (2, 300_002));
    let stored = to
        .fetch_manifest(&name("hub/app"), &(&digest).into())
        .await
        .unwrap();
    assert_eq!(stored.raw, bytes.as_bytes());
    let again = copy(&from, &to, &digest, "hub/app", &[]).await;
    assert_eq!((again.blobs_copied, again.blobs_skipped), (0, 2));
    let siblings = [name("hub/none"), name("hub/app")];
    let mounted = copy(&from, &to, &digest, "official/app", &siblings).await;
    assert_eq!((mounted.blobs_copied, mounted.blobs_mounted), (0, 2));
    assert_eq!(mounted.bytes_copied, 0);
}

#[tokio::test]
async fn a_removed_tag_leaves_its_sibling() {
    let registry = Registry::start().await;
    let (digest, _) = registry
        .push_index(&["old", "older", "kept"], vec![1; 9])
        .await;
    let (client, app) = (registry.client(), name("up/app"));
    let announced = std::sync::Mutex::new(Vec::new());
    for tag in ["old", "older", "never"] {
        let tag: Tag = tag.parse().unwrap();
        let hook = |tombstone: Digest| {
            announced.lock().unwrap().push(tombstone);
            async { Ok::<(), std::convert::Infallible>(()) }
        };
        client.delete_tag(&app, &tag, hook).await.unwrap().unwrap();
        assert_eq!(client.head(&app, &(&tag).into()).await.unwrap(), None);
    }
    assert_eq!(
        announced.lock().unwrap().len(),
        2,
        "a tag that is not there needs no tombstone"
    );
    let kept: Tag = "kept".parse().unwrap();
    let head = client.head(&app, &(&kept).into()).await.unwrap().unwrap();
    assert_eq!(head.digest, digest);
    client.delete_manifest(&app, &digest).await.unwrap();
    client.delete_manifest(&app, &digest).await.unwrap();
    assert_eq!(client.head(&app, &(&kept).into()).await.unwrap(), None);
}

#[tokio::test]
async fn a_large_layer_is_not_held_in_memory() {
    let (source, target) = (Registry::start().await, Registry::start().await);
    let (digest, _) = source.push_index(&["1"], vec![3; 64 << 20]).await;
    // The seed was held in this process; from here on only the copy counts.
    fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak_kib();
    let (from, to) = (source.client(), target.client());
    let copied = copy(&from, &to, &digest, "hub/app", &[]).await;
    assert_eq!(copied.bytes_copied, (64 << 20) + 2);
    assert!(
        peak_kib() - before < 32 << 10,
        "{} -> {}",
        before,
        peak_kib()
    );
}

#[tokio::test]
async fn another_top_comes_with_its_children_and_what_is_too_large_does_not_come() {
    let (from, to) = (Registry::start().await, Registry::start().await);
    let (digest, _) = from.push_index(&["1.0"], b"a layer".to_vec()).await;
    let (source, target) = (from.client(), to.client());
    // Distribution lists no referrers.
    let listed = source.list_referrers(&name("up/app"), &digest).await;
    assert_eq!(listed.unwrap(), None);
    let index = source
        .fetch_manifest(&name("up/app"), &(&digest).into())
        .await;
    let child = &index.unwrap().children()[0].digest.clone();
    let child = source.fetch_manifest(&name("up/app"), &child.into()).await;
    let child = child.unwrap();
    let list = Manifest::add_referrers(None, std::slice::from_ref(&child));
    let list = list.unwrap().unwrap();
    let job = CopyJob {
        source: &source,
        source_repository: &name("up/app"),
        digest: &digest,
        target: &target,
        target_repository: &name("down/app"),
        siblings: &[],
    };
    let options = |most_bytes| CopyOptions {
        root: Some(list.clone()),
        max_blob_bytes: Some(most_bytes),
        ..CopyOptions::default()
    };
    let error = job.run_with(&options(8)).await.unwrap_err();
    assert!(matches!(error, Error::Untrusted { .. }), "{error}");
    for digest in [&list.digest, &child.digest] {
        let head = target.head(&name("down/app"), &digest.into()).await;
        assert_eq!(head.unwrap(), None);
    }
    let copied = job.run_with(&options(9)).await.unwrap();
    assert_eq!(
        (copied.root.digest == list.digest, copied.size_bytes),
        (true, 9)
    );
    for digest in [&list.digest, &child.digest] {
        let head = target.head(&name("down/app"), &digest.into()).await;
        assert!(head.unwrap().is_some());
    }
    let whole = target.head(&name("down/app"), &(&digest).into()).await;
    assert_eq!(whole.unwrap(), None);
}
