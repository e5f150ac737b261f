//! What the handlers hold instead of NATS and the wire: every call is a step.

use std::collections::VecDeque;
use std::fmt::{Debug, Formatter};
use std::sync::LazyLock;
use std::time::Duration;

use axum::http::Method;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use reqwest::ResponseBuilderExt as _;
use sluice_bus::Update;
use sluice_bus::backend::{
    Acknowledgement, Backend, BackendError, BackendFuture, KeyState, LastMessage, Outgoing,
    PublishAck,
};
use sluice_registry::{SimulatedRegistry, SimulatedResponse};

use crate::registry::{Place, Request};
use crate::world::{Bug, Lost, Shared, Step, World};

/// The name of the upstream registry.
pub const UPSTREAM: &str = "upstream.test";

/// The place of NATS.
#[derive(Debug)]
pub struct Server(pub Shared);

impl From<Lost> for BackendError {
    fn from(lost: Lost) -> Self {
        Self::Failed(Box::new(lost))
    }
}

fn answer<T: Send + 'static>(step: Step<T>) -> BackendFuture<'static, T> {
    Box::pin(async move { step.await.map_err(BackendError::from) })
}

fn refusable<T: Send + 'static>(step: Step<Result<T, BackendError>>) -> BackendFuture<'static, T> {
    Box::pin(async move { step.await.map_err(BackendError::from)? })
}

impl Backend for Server {
    fn publish(&self, message: Outgoing) -> BackendFuture<'_, PublishAck> {
        let what = format!("publishes {}", message.subject);
        refusable(self.0.step(what, move |world| world.publish(message)))
    }

    fn acknowledge(&self, receipt: u64, how: Acknowledgement) -> BackendFuture<'_, ()> {
        let what = format!("acknowledges its message: {how:?}");
        answer(self.0.step(what, move |world| world.settle(receipt, how)))
    }

    fn last(&self, subject: String) -> BackendFuture<'_, Option<LastMessage>> {
        let what = format!("looks for {subject}");
        answer(self.0.step(what, move |world| world.log.last(&subject)))
    }

    fn purge(&self, subject: String) -> BackendFuture<'_, ()> {
        let what = format!("purges {subject}");
        answer(self.0.step(what, move |world| world.log.purge(&subject)))
    }

    fn subjects(&self, filter: String) -> BackendFuture<'_, Vec<String>> {
        let what = format!("lists {filter}");
        answer(self.0.step(what, move |world| world.log.subjects(&filter)))
    }

    fn read(&self, bucket: &'static str, key: String) -> BackendFuture<'_, Option<KeyState>> {
        let what = format!("reads {bucket}/{key}");
        answer(self.0.step(what, move |world| world.read(bucket, &key)))
    }

    fn write(
        &self,
        bucket: &'static str,
        key: String,
        value: Bytes,
        revision: Option<u64>,
    ) -> BackendFuture<'_, u64> {
        let what = format!("writes {bucket}/{key}");
        let write = move |world: &mut World| {
            let written = world.write(bucket, &key, Some(value), revision);
            written.ok_or(BackendError::Conflict)
        };
        refusable(self.0.step(what, write))
    }

    fn remove(
        &self,
        bucket: &'static str,
        key: String,
        revision: Option<u64>,
    ) -> BackendFuture<'_, ()> {
        let what = format!("removes {bucket}/{key}");
        let remove = move |world: &mut World| {
            let removed = world.write(bucket, &key, None, revision);
            removed.map(drop).ok_or(BackendError::Conflict)
        };
        refusable(self.0.step(what, remove))
    }

    fn last_changes(&self, bucket: &'static str, filter: String) -> BackendFuture<'_, Vec<Update>> {
        let what = format!("lists {bucket}/{filter}");
        let newest = move |world: &mut World| world.newest(bucket, &filter);
        answer(self.0.step(what, newest))
    }

    fn watch(&self, bucket: &'static str) -> BackendFuture<'_, BoxStream<'static, Update>> {
        let shared = self.0.clone();
        answer(self.0.step(format!("watches {bucket}"), move |world| {
            world.watches.push((bucket, VecDeque::new()));
            let watch = world.watches.len() - 1;
            let updates = stream::unfold(shared, move |shared| async move {
                let next = move |world: &mut World| world.watches[watch].1.pop_front();
                // A watch that breaks ends; whoever watches begins again.
                let update = shared.watched(watch, next).await.ok()??;
                Some((update, shared))
            });
            updates.boxed()
        }))
    }
}

impl World {
    fn publish(&mut self, message: Outgoing) -> Result<PublishAck, BackendError> {
        let is_fact = message.subject.starts_with("sluice.v1.");
        let keeps_back = self.bug == Some(Bug::StateBeforeEvent);
        if is_fact && keeps_back && !self.at_once {
            let task = self.task;
            self.doing.get_mut(&task).unwrap().kept_back.push(message);
            return Ok(PublishAck {
                sequence: 0,
                duplicate: false,
            });
        }
        self.changed = true;
        let now = self.now;
        if self.bug == Some(Bug::NoSearchOfDecisions) && is_search_of_decisions(&message) {
            return Ok(PublishAck {
                sequence: 0,
                duplicate: true,
            });
        }
        self.log.publish(now, &message)
    }

    fn settle(&mut self, receipt: u64, how: Acknowledgement) {
        let now = self.now;
        self.log.settle(receipt, how, now);
        self.changed = true;
        if how != Acknowledgement::Progress {
            self.let_go();
        }
    }

    /// Publishes what the planted bug kept back.
    pub fn let_go(&mut self) {
        let (now, task) = (self.now, self.task);
        let doing = self.doing.get_mut(&task).unwrap();
        for message in std::mem::take(&mut doing.kept_back) {
            self.log.publish(now, &message).unwrap();
        }
    }
}

/// Says whether a message lets the promoter's search go on to what was decided.
fn is_search_of_decisions(message: &Outgoing) -> bool {
    let id = message.message_id.as_deref().unwrap_or_default();
    message.subject == "sluice.do.reconcile.promoter" && id.contains("/1/0/")
}

/// The place of the wire.
pub struct Wire(pub Shared);

impl Debug for Wire {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
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
            let url = request.url().clone();
            let is_upstream = url.host_str() == Some(UPSTREAM);
            let mut request = request;
            let body = match request.body_mut().take() {
                None => Bytes::new(),
                Some(body) => {
                    let body = axum::body::Body::new(body);
                    axum::body::to_bytes(body, usize::MAX)
                        .await
                        .map_err(|_| broken())?
                }
            };
            let asked = Request {
                method: request.method().clone(),
                path: url.path().to_owned(),
                query: url.query_pairs().into_owned().collect(),
                headers: std::mem::take(request.headers_mut()),
                body,
            };
            let side = if is_upstream { " upstream" } else { "" };
            let what = format!("{}{side} {}", asked.method, asked.path);
            let step = self
                .0
                .step(what, move |world| world.ask(is_upstream, &asked));
            let mut response = step.await.map_err(|Lost| broken())?;
            let with_url = axum::http::Response::builder().url(url).body(()).unwrap();
            response
                .extensions_mut()
                .extend(with_url.extensions().clone());
            Ok(response.into())
        })
    }

    fn request_builder(&self) -> reqwest::Client {
        MAKER.clone()
    }
}

/// Errors of requests cannot be made; one that is no request is the nearest.
fn broken() -> reqwest::Error {
    MAKER.get("no address").build().unwrap_err()
}

impl World {
    fn ask(&mut self, is_upstream: bool, request: &Request) -> axum::http::Response<Bytes> {
        let registry = if is_upstream {
            &mut self.upstream
        } else {
            &mut self.hub
        };
        let answer = registry.answer(request);
        let is_write = [Method::PUT, Method::DELETE].contains(&request.method);
        if is_write && answer.status().is_success() {
            self.changed = true;
            if let Place::Manifest(repository, reference) = Place::of(&request.path) {
                let id = self.doing[&self.task].id.clone();
                let digest = answer.headers().get("docker-content-digest");
                if let Some(digest) = digest.and_then(|digest| digest.to_str().ok()) {
                    let place = (repository.clone(), digest.to_owned());
                    self.writers.insert(place, id.clone());
                }
                self.writers.insert((repository, reference), id);
            }
        }
        answer
    }
}
