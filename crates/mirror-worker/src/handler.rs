//! The handler of the stage: moves and deletions of upstream tags, and commands to mirror or to reconcile.

use std::time::Duration;

use sluice_bus::{Bus, Cause, Handler, Outcome, topology};
use sluice_events::commands::{MirrorTag, Reconcile};
use sluice_events::facts::{UpstreamTagGone, UpstreamTagMoved};
use sluice_events::{Command, Decode, Event, Message, UnexpectedMessage};
use sluice_registry::{Client, ConcurrencyLimits, Transport};
use sluice_service::Secrets;
use sluice_state::reconcile::ensure_no_pending_events;
use sluice_state::{Catalog, RemoteClients, State, TagWriter};

use crate::error::Error;
use crate::referrers::unsupported::ReferrersUnsupported;

/// How often the registry is audited, unless the settings say otherwise.
const AUDIT_INTERVAL: Duration = Duration::from_secs(86_400);
/// How long mirroring one move may take, unless the settings say otherwise.
const TIME_LIMIT: Duration = Duration::from_secs(3_600);

/// Mirrors the tags that moved upstream.
#[derive(Debug)]
pub struct MirrorWorker {
    pub(crate) bus: Bus,
    pub(crate) state: State,
    pub(crate) catalog: Catalog,
    pub(crate) registry: Client,
    pub(crate) tags: TagWriter,
    pub(crate) remotes: RemoteClients,
    /// The limits of all copies together.
    pub(crate) limits: ConcurrencyLimits,
    /// How long mirroring one move may take.
    pub(crate) time_limit: Duration,
    /// How often the registry is audited; zero for never.
    pub(crate) audit_interval: Duration,
    pub(crate) without_referrers: ReferrersUnsupported,
}

/// A message that the stage handles.
#[derive(Debug)]
pub enum Input {
    /// An upstream tag points to another digest.
    Moved(UpstreamTagMoved),
    /// An upstream tag was deleted.
    Deleted(UpstreamTagGone),
    /// Mirror a tag whose event is lost, repair it, or copy its referrers.
    Mirror(MirrorTag),
    /// Find missing work.
    Reconcile(Reconcile),
}

impl Decode for Input {
    fn decode(message: Message) -> Result<Self, UnexpectedMessage> {
        match message {
            Message::Event(Event::UpstreamTagMoved(event)) => Ok(Self::Moved(event)),
            Message::Event(Event::UpstreamTagGone(event)) => Ok(Self::Deleted(event)),
            Message::Command(Command::MirrorTag(command)) => Ok(Self::Mirror(command)),
            Message::Command(Command::Reconcile(command)) => Ok(Self::Reconcile(command)),
            other => Err(other.unexpected()),
        }
    }
}

impl Handler for MirrorWorker {
    type Input = Input;
    type Error = Error;

    const SPAN: &'static str = sluice_telemetry::span::MIRROR;

    async fn handle(&self, input: Input, cause: &Cause) -> Result<Outcome, Error> {
        match input {
            Input::Moved(event) => self.mirror(&event.into(), cause).await,
            Input::Deleted(event) if event.remove => {
                let UpstreamTagGone {
                    mirror,
                    repository,
                    tag,
                    move_number,
                    ..
                } = event;
                self.delete_tag_deleted_upstream(&mirror, &repository, &tag, move_number)
                    .await
            }
            Input::Deleted(_) => Ok(Outcome::done()),
            Input::Mirror(command) => self.mirror_on_command(&command, cause).await,
            Input::Reconcile(command) => {
                let command = self.audit_if_due(command).await?;
                ensure_no_pending_events(&self.bus, &topology::MIRROR_WORKER, &command, cause)
                    .await?;
                let page = self.find_missing(&command).await?;
                Ok(page.into_outcome(&self.state, &command, cause))
            }
        }
    }
}

impl MirrorWorker {
    /// Creates the stage, with the registry account that writes to staging and the lifetime of a claim of a tag.
    #[must_use]
    pub fn new(
        bus: Bus,
        state: State,
        catalog: Catalog,
        registry: Client,
        claim: Duration,
    ) -> Self {
        let tags = TagWriter::new(state.clone(), catalog.clone(), registry.clone())
            .with_claim_duration(claim);
        Self {
            bus,
            state,
            catalog,
            registry,
            tags,
            remotes: RemoteClients::default(),
            limits: ConcurrencyLimits::of_process(),
            time_limit: TIME_LIMIT,
            audit_interval: AUDIT_INTERVAL,
            without_referrers: ReferrersUnsupported::default(),
        }
    }

    /// Sets how often the registry is audited; zero for never.
    #[must_use]
    pub const fn with_audit_interval(mut self, interval: Duration) -> Self {
        self.audit_interval = interval;
        self
    }

    /// Sets how long mirroring one move may take before it is retried.
    #[must_use]
    pub const fn with_time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Sets the limits of all copies together.
    #[must_use]
    pub fn with_limits(mut self, limits: ConcurrencyLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Uses another transport to upstream registries than HTTP connections.
    #[must_use]
    pub fn with_transport(mut self, transport: Transport) -> Self {
        self.remotes = self.remotes.with_transport(transport);
        self
    }

    /// Sets the folder of the secrets that `Registry` resources name.
    #[must_use]
    pub fn with_secrets(mut self, secrets: Secrets) -> Self {
        self.remotes = self.remotes.with_secrets(secrets);
        self
    }
}
