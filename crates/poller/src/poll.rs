//! One poll of one mirror.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use futures_util::{StreamExt as _, stream};
use sluice_bus::{Cause, Handler, Outcome};
use sluice_domain::resources::{Mirror, OnDelete};
use sluice_domain::{Class, Classify, RegistryHost, ResourceName, Tag};
use sluice_events::commands::{PollMirror, Reconcile};
use sluice_events::facts::{UpstreamPollFailed, UpstreamPollRecovered};
use sluice_events::subject::{text, token};
use sluice_events::wire::state::{UpstreamPoll, UpstreamTag};
use sluice_events::{Command, Decode, Message, Unexpected, time_to_wire};
use sluice_registry::{Client, Transport};
use sluice_state::{Catalog, Entry, Snapshot, State, key, remote_registry};
use thiserror::Error;

use crate::known::Known;
use crate::{compare, patience, reconcile};

/// The stage.
#[derive(Debug)]
pub struct Poller {
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    parallel_heads: usize,
    transport: Transport,
    clients: Mutex<BTreeMap<RegistryHost, (u64, Client)>>,
}

/// What the stage works on.
#[derive(Debug)]
pub enum Input {
    /// A mirror is to be polled.
    Poll(PollMirror),
    /// Missing work is to be found.
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, Unexpected> {
        match message {
            Message::Command(Command::PollMirror(command)) => Ok(Self::Poll(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
    }
}

/// A poll that could not be recorded; an upstream that fails is a fact and no error.
#[derive(Debug, Error)]
#[error(transparent)]
pub struct Error(#[from] sluice_state::Error);

impl Classify for Error {
    fn class(&self) -> Class {
        self.0.class()
    }
}

/// What the upstream said, tag by tag.
struct Answers {
    listed: BTreeSet<Tag>,
    selected: usize,
    heads: Vec<(Tag, sluice_domain::Digest)>,
    failure: Option<String>,
}

impl Handler for Poller {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::POLL;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        match input {
            Input::Poll(command) => self.poll(&command.mirror, cause).await,
            Input::Reconcile(command) => {
                let found = self.missing().await?;
                Ok(found.into_outcome(&self.state, &command, cause))
            }
        }
    }
}

impl Poller {
    async fn poll(&self, name: &ResourceName, cause: &Cause) -> Result<Outcome, Error> {
        let catalog = self.catalog.current();
        let Some(mirror) = catalog.mirrors.get(name).filter(|mirror| mirror.enabled) else {
            tracing::info!(mirror = %name, "no such mirror is enabled; nothing to poll");
            return Ok(Outcome::done());
        };
        let poll = self.state.polls.get(&key::poll(&mirror.name)).await?;
        let until = poll
            .as_ref()
            .and_then(|poll| patience::leave_alone_until(&poll.value, mirror.every.duration()));
        // Whoever asks for a poll gets it.
        if let Some(until) =
            until.filter(|until| cause.is_scheduled() && *until > sluice_domain::now())
        {
            tracing::debug!(mirror = %name, %until, "its upstream keeps failing; it is left alone");
            return Ok(Outcome::done());
        }
        let known = self.known(mirror).await?;
        let answers = self.ask(&catalog, mirror).await;
        let outcome = self.outcome(mirror, &known, &answers);
        Ok(self.poll_outcome(outcome, mirror, poll, &answers))
    }

    /// Makes the stage.
    #[must_use]
    pub fn new(state: State, catalog: Catalog, parallel_heads: usize) -> Self {
        Self {
            state,
            catalog,
            parallel_heads,
            transport: Transport::default(),
            clients: Mutex::default(),
        }
    }

    /// Reaches upstream registries in another way than over the wire.
    #[must_use]
    pub fn reaching(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    async fn known(&self, mirror: &Mirror) -> Result<BTreeMap<Tag, Known>, Error> {
        let entries = self
            .state
            .upstream
            .list(&format!("{}.*", token(mirror.name.as_str())))
            .await?;
        let tag = |entry: &Entry<UpstreamTag>| text(entry.key.rsplit('.').next()?)?.parse().ok();
        let mut known: BTreeMap<Tag, Known> = BTreeMap::new();
        for entry in entries {
            if let Some(tag) = tag(&entry) {
                known.entry(tag).or_default().recorded = Some(entry);
            }
        }
        // A move that was told, but not recorded, may have been carried out all the same.
        for entry in self.state.tags.list(&key::tags_of(&mirror.to)).await? {
            let local = entry.value;
            let Ok(tag) = local.tag.parse::<Tag>() else {
                continue;
            };
            if local.mirror == mirror.name.as_str() && !local.digest.is_empty() {
                let key = key::upstream(&mirror.name, &tag);
                known.entry(tag).or_default().carry_out(mirror, key, local);
            }
        }
        Ok(known)
    }

    /// Asks the upstream; whatever fails is told and the rest still counts.
    async fn ask(&self, catalog: &Snapshot, mirror: &Mirror) -> Answers {
        let mut answers = Answers {
            listed: BTreeSet::new(),
            selected: 0,
            heads: Vec::new(),
            failure: None,
        };
        let client = match self.client(catalog, &mirror.from.host) {
            Ok(client) => client,
            Err(error) => {
                answers.failure = Some(format!("{error:#}"));
                return answers;
            }
        };
        let listed = match client.tags(&mirror.from.repository).await {
            Ok(listed) => listed,
            Err(error) => {
                answers.failure = Some(told(&error));
                return answers;
            }
        };
        let selected = match sluice_policy::select(&mirror.tags, &listed) {
            Ok(selected) => selected,
            Err(error) => {
                answers.failure = Some(error.to_string());
                return answers;
            }
        };
        answers.listed = listed.into_iter().collect();
        answers.selected = selected.tags.len();
        let client = &client;
        let mut heads = stream::iter(selected.tags)
            .map(|tag| async move {
                let head = client.head(&mirror.from.repository, &(&tag).into()).await;
                (tag, head)
            })
            .buffer_unordered(self.parallel_heads);
        while let Some((tag, head)) = heads.next().await {
            match head {
                Ok(Some(head)) => answers.heads.push((tag, head.digest)),
                // It was deleted after the listing; the next listing says so.
                Ok(None) => {}
                Err(error) => {
                    let used_up = matches!(error, sluice_registry::Error::Quota { .. });
                    answers.failure = Some(told(&error));
                    // A quota is used up for the other tags too, and asking would prolong that.
                    if used_up {
                        break;
                    }
                }
            }
        }
        answers
    }

    /// Keeps one client per registry, and with it its tokens, until a resource or a certificate changes.
    fn client(&self, catalog: &Snapshot, host: &RegistryHost) -> anyhow::Result<Client> {
        let mut clients = self
            .clients
            .lock()
            .map_err(|_| anyhow::anyhow!("the list of clients is broken"))?;
        if let Some((_, client)) = clients
            .get(host)
            .filter(|(revision, client)| *revision == catalog.revision && client.is_current())
        {
            return Ok(client.clone());
        }
        let client = remote_registry(catalog, host, &self.transport)?;
        clients.insert(host.clone(), (catalog.revision, client.clone()));
        Ok(client)
    }

    fn outcome(&self, mirror: &Mirror, known: &BTreeMap<Tag, Known>, answers: &Answers) -> Outcome {
        let now = sluice_domain::now();
        let mut outcome = Outcome::done();
        for (tag, digest) in &answers.heads {
            let before = known.get(tag).and_then(|known| known.before(digest));
            if let Some((fact, entry)) =
                compare::seen(mirror, tag, before.map(|entry| &entry.value), digest, now)
            {
                tracing::info!(mirror = %mirror.name, image.tag = %tag, image.digest = %digest, "moved");
                let number = fact.move_number.to_string();
                outcome = outcome
                    .fact_at(fact, number)
                    .then(self.record(mirror, tag, before, entry));
            }
        }
        // A listing that failed or came back empty says nothing of what is gone.
        if !answers.listed.is_empty() {
            let unlisted = known
                .iter()
                .filter(|(tag, _)| !answers.listed.contains(*tag))
                .filter_map(|(tag, known)| Some((tag, known.last()?)));
            for (tag, before) in unlisted {
                let remove = mirror.on_delete == OnDelete::Delete;
                if let Some((fact, entry)) = compare::gone(mirror, tag, &before.value, remove, now)
                {
                    tracing::info!(mirror = %mirror.name, image.tag = %tag, "gone");
                    let number = fact.move_number.to_string();
                    outcome = outcome.fact_at(fact, number).then(self.record(
                        mirror,
                        tag,
                        Some(before),
                        entry,
                    ));
                }
            }
        }
        outcome
    }

    /// Records a tag at the revision that was read; another replica that was faster recorded the same move.
    fn record(
        &self,
        mirror: &Mirror,
        tag: &Tag,
        before: Option<&Entry<UpstreamTag>>,
        entry: UpstreamTag,
    ) -> impl Future<Output = Result<(), sluice_state::Error>> + Send + use<> {
        let (entries, key) = (
            self.state.upstream.clone(),
            key::upstream(&mirror.name, tag),
        );
        let revision = before.map(|entry| entry.revision);
        async move {
            match entries.write(&key, &entry, revision).await {
                Ok(_) => Ok(()),
                Err(error) if error.is_conflict() => Ok(()),
                Err(error) => Err(error),
            }
        }
    }

    fn poll_outcome(
        &self,
        mut outcome: Outcome,
        mirror: &Mirror,
        before: Option<Entry<UpstreamPoll>>,
        answers: &Answers,
    ) -> Outcome {
        let mut poll = before.map(|entry| entry.value).unwrap_or_default();
        let failed_before = poll.failures;
        poll.mirror = mirror.name.to_string();
        poll.polled_at = Some(time_to_wire(sluice_domain::now()));
        poll.tags_selected = u64::try_from(answers.selected).unwrap_or(u64::MAX);
        poll.reason = answers.failure.clone().unwrap_or_default();
        match &answers.failure {
            Some(reason) => {
                poll.failures += 1;
                tracing::warn!(mirror = %mirror.name, reason, failures = poll.failures, "the poll failed");
                if !poll.failure_announced {
                    poll.failure_announced = true;
                    outcome = outcome.fact(UpstreamPollFailed {
                        mirror: mirror.name.clone(),
                        source: mirror.from.clone(),
                        repository: mirror.to.clone(),
                        reason: reason.clone(),
                        failures: poll.failures,
                    });
                }
            }
            None => {
                poll.failures = 0;
                poll.succeeded_at = poll.polled_at;
                if std::mem::take(&mut poll.failure_announced) {
                    outcome = outcome.fact(UpstreamPollRecovered {
                        mirror: mirror.name.clone(),
                        source: mirror.from.clone(),
                        repository: mirror.to.clone(),
                        failures: failed_before,
                    });
                }
            }
        }
        reconcile::tell(&poll);
        let (polls, key) = (self.state.polls.clone(), key::poll(&mirror.name));
        outcome.then(async move { polls.put(&key, &poll).await.map(drop) })
    }
}

/// Tells an error with its source, which holds the reason of a broken connection.
fn told(error: &sluice_registry::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
