//! A write of a tag that comes too late: whoever settled the tag meanwhile keeps it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State as Extract};
use axum::http::{Method, Response};
use chrono::{TimeDelta, Utc};
use sluice_domain::{Digest, Repository, Tag};
use sluice_events::time_to_wire;
use sluice_events::wire::state::{Claim, Promotion, Pruning, TagEntry};
use sluice_registry::{Client, Endpoint, digest_of};
use sluice_state::{
    Catalog, Error, Freshness, Precondition, Provenance, State, TagChange, TagChangeOutcome,
    TagWriter, key,
};
use sluice_tests::Nats;

use super::provisioned;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const TAG: &str = "/v2/hub/app/manifests/1.0";

/// What somebody else does: what the tag moves to, if it does, and the entry.
type Meanwhile = (Option<Vec<u8>>, TagEntry);

/// A registry of manifests in memory, whose first PUT of the tag takes long: meanwhile somebody else comes.
#[derive(Clone)]
struct Slow {
    stored: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    state: State,
    meanwhile: Arc<Mutex<Option<Meanwhile>>>,
    is_wanted: Arc<AtomicBool>,
}

impl Precondition for Slow {
    async fn freshness(&self) -> Result<Freshness, Error> {
        Ok(if self.is_wanted.load(Ordering::SeqCst) {
            Freshness::Current
        } else {
            Freshness::Superseded
        })
    }
}

async fn answer(Extract(slow): Extract<Slow>, request: Request) -> Response<Body> {
    let (path, method) = (request.uri().path().to_owned(), request.method().clone());
    let respond = |status: u16, body: Vec<u8>| {
        let digest = digest_of(&body);
        Response::builder()
            .status(status)
            .header("content-type", INDEX)
            .header("docker-content-digest", digest.as_str())
            .body(Body::from(body))
            .unwrap()
    };
    match method {
        Method::PUT => {
            let body = to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let meanwhile = slow.meanwhile.lock().unwrap().take();
            if let Some((moved, entry)) = meanwhile {
                slow.is_wanted.store(false, Ordering::SeqCst);
                if let Some(moved) = moved {
                    slow.stored.lock().unwrap().insert(path.clone(), moved);
                }
                slow.state.tags.put(&tag_key(), &entry).await.unwrap();
            }
            let body = body.to_vec();
            slow.stored.lock().unwrap().insert(path, body.clone());
            respond(201, body)
        }
        Method::DELETE => {
            slow.stored.lock().unwrap().remove(&path);
            respond(202, Vec::new())
        }
        _ => match slow.stored.lock().unwrap().get(&path) {
            Some(body) => respond(200, body.clone()),
            None => respond(404, Vec::new()),
        },
    }
}

fn tag_key() -> String {
    key::tag(&"hub/app".parse().unwrap(), &"1.0".parse().unwrap())
}

fn index(name: &str) -> (Vec<u8>, Digest) {
    let raw = format!(
        r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[],"annotations":{{"name":"{name}"}}}}"#
    );
    let digest = digest_of(raw.as_bytes());
    (raw.into_bytes(), digest)
}

fn by_digest(digest: &Digest) -> String {
    format!("/v2/hub/app/manifests/{digest}")
}

/// Such a registry, and a client of it.
struct Scene {
    slow: Slow,
    client: Client,
    _nats: Nats,
}

impl Scene {
    async fn start() -> Self {
        let (nats, bus) = provisioned().await;
        let slow = Slow {
            stored: Arc::default(),
            state: State::open(&bus).await.unwrap(),
            meanwhile: Arc::default(),
            is_wanted: Arc::new(AtomicBool::new(true)),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let routes = Router::new().fallback(answer).with_state(slow.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let endpoint = Endpoint::of(&host.parse().unwrap(), true).unwrap();
        Self {
            slow,
            client: Client::new(endpoint).unwrap(),
            _nats: nats,
        }
    }

    fn store(&self, path: &str, manifest: &[u8]) {
        let mut stored = self.slow.stored.lock().unwrap();
        stored.insert(path.to_owned(), manifest.to_vec());
    }

    fn names(&self) -> Option<Digest> {
        let stored = self.slow.stored.lock().unwrap();
        stored.get(TAG).map(|raw| digest_of(raw))
    }

    /// Points the tag to `a`, which is superseded.
    async fn attempt(&self) -> Result<TagChangeOutcome, Error> {
        let (a, digest) = index("a");
        self.store(&by_digest(&digest), &a);
        let repository: Repository = "hub/app".parse().unwrap();
        let tag: Tag = "1.0".parse().unwrap();
        let wanted = self
            .client
            .fetch_manifest(&repository, &(&digest).into())
            .await;
        let (catalog, _feed) = Catalog::open(&self.slow.state).await.unwrap();
        let writer = TagWriter::new(self.slow.state.clone(), catalog, self.client.clone());
        let change = TagChange {
            repository: &repository,
            tag: &tag,
            wanted: Some(&wanted.unwrap()),
            provenance: Provenance::default(),
            precondition: &self.slow,
        };
        writer.apply(&change).await
    }

    /// As [`Scene::attempt`]; returns what the tag and its entry name in the end.
    async fn apply(&self) -> (Option<Digest>, TagEntry) {
        assert_eq!(self.attempt().await.unwrap(), TagChangeOutcome::Superseded);
        let entry = self.slow.state.tags.get(&tag_key()).await.unwrap();
        (self.names(), entry.unwrap().value)
    }
}

/// Points the tag to `a`, while somebody else does what is told.
async fn late(moved: bool, meanwhile: TagEntry) -> (Option<Digest>, TagEntry) {
    let scene = Scene::start().await;
    let (b, digest) = index("b");
    scene.store(&by_digest(&digest), &b);
    *scene.slow.meanwhile.lock().unwrap() = Some((moved.then_some(b), meanwhile));
    scene.apply().await
}

fn entry(digest: &str) -> TagEntry {
    TagEntry {
        repository: "hub/app".to_owned(),
        tag: "1.0".to_owned(),
        digest: digest.to_owned(),
        generation: 7,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_settled_meanwhile_is_restored() {
    let (_, b) = index("b");
    let (names, entry) = late(true, entry(b.as_str())).await;
    assert_eq!(names, Some(b.clone()));
    assert_eq!((entry.digest.as_str(), entry.claim), (b.as_str(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_changes_the_tag_now_is_waited_for_as_it_may_not_see_what_came_late() {
    let ((_, a), (b, b_digest)) = (index("a"), index("b"));
    let claimed = TagEntry {
        claim: Some(Claim {
            digest: b_digest.to_string(),
            holder: "somebody else".to_owned(),
            until: Some(time_to_wire(Utc::now() + Duration::from_secs(30))),
            ..Default::default()
        }),
        ..entry("")
    };
    let scene = Scene::start().await;
    scene.store(&by_digest(&b_digest), &b);
    *scene.slow.meanwhile.lock().unwrap() = Some((Some(b), claimed));
    let waits = scene.attempt().await;
    assert!(matches!(waits, Err(Error::Claimed { .. })), "{waits:?}");
    assert_eq!(scene.names(), Some(a));
    // It settles what it wrote before that, and the next attempt brings it back.
    let settled = entry(b_digest.as_str());
    let state = &scene.slow.state;
    state.tags.put(&tag_key(), &settled).await.unwrap();
    let (names, _) = scene.apply().await;
    assert_eq!(names, Some(b_digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_never_settled_does_not_stay() {
    let (names, entry) = late(false, entry("")).await;
    assert_eq!(names, None);
    assert_eq!((entry.digest.as_str(), entry.claim), ("", None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_wrote_that_died_is_settled_for_whoever_wants_something_else() {
    let ((a, a_digest), (b, b_digest)) = (index("a"), index("b"));
    let left = TagEntry {
        claim: Some(Claim {
            digest: a_digest.to_string(),
            holder: "somebody who died".to_owned(),
            until: Some(time_to_wire(Utc::now())),
            ..Default::default()
        }),
        ..entry(b_digest.as_str())
    };
    let scene = Scene::start().await;
    scene.slow.state.tags.put(&tag_key(), &left).await.unwrap();
    scene.store(TAG, &a);
    scene.store(&by_digest(&b_digest), &b);
    scene.slow.is_wanted.store(false, Ordering::SeqCst);
    let (names, entry) = scene.apply().await;
    assert_eq!(names, Some(a_digest.clone()));
    assert_eq!((entry.digest, entry.claim), (a_digest.to_string(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_of_a_worker_that_died_ends_with_what_the_registry_shows() {
    let ((a, a_digest), (b, b_digest), (c, c_digest)) = (index("a"), index("b"), index("c"));
    let promotion = Promotion {
        policy: "gate".to_owned(),
        ..Default::default()
    };
    // It was to move the tag from `b` to `a`.
    let left = |seconds| TagEntry {
        claim: Some(Claim {
            digest: a_digest.to_string(),
            holder: "promoter/of-a-replica-that-died".to_owned(),
            until: Some(time_to_wire(Utc::now() + TimeDelta::seconds(seconds))),
            promoted_from: Some(promotion.clone()),
            ..Default::default()
        }),
        ..entry(b_digest.as_str())
    };
    let scene = Scene::start().await;
    let ended = async |left: TagEntry, names: Option<&Vec<u8>>| {
        scene.slow.state.tags.put(&tag_key(), &left).await.unwrap();
        match names {
            Some(raw) => scene.store(TAG, raw),
            None => drop(scene.slow.stored.lock().unwrap().remove(TAG)),
        }
        let (catalog, _feed) = Catalog::open(&scene.slow.state).await.unwrap();
        let writer = TagWriter::new(scene.slow.state.clone(), catalog, scene.client.clone());
        let (repository, tag) = ("hub/app".parse().unwrap(), "1.0".parse().unwrap());
        writer.end_expired_claim(&repository, &tag).await.unwrap();
        let entry = scene.slow.state.tags.get(&tag_key()).await.unwrap();
        entry.unwrap().value
    };
    let live = ended(left(30), Some(&a)).await;
    assert!(live.claim.is_some(), "somebody is at work: {live:?}");
    for (names, digest, by, from) in [
        (Some(&a), a_digest.as_str(), "promoter", Some(&promotion)),
        (Some(&b), b_digest.as_str(), "", None),
        (Some(&c), c_digest.as_str(), "", None),
        (None, "", "", None),
    ] {
        let entry = ended(left(-1), names).await;
        assert_eq!((entry.digest.as_str(), entry.claim), (digest, None));
        assert_eq!(
            (entry.arrived_by.as_str(), entry.promoted_from.as_ref()),
            (by, from)
        );
    }
    // A removal by retention is the pruner's to finish, which publishes it.
    let mut removal = left(-1);
    removal.pruning = Some(Pruning::default());
    removal.claim.as_mut().unwrap().digest.clear();
    assert!(ended(removal, None).await.claim.is_some());
}
