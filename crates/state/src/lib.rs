//! State: typed buckets, the catalogue of resources, and the one tag operation.

mod apply;
mod attachments;
mod budget;
mod catalog;
mod connect;
mod control;
mod entries;
mod error;
mod images;
pub mod key;
pub mod reconcile;
mod remote_clients;
mod reports;
mod schedules;
mod stage_runner;
mod tags;
mod targets;

use sluice_bus::{Bus, Objects};
use sluice_events::wire::state as wire;

pub use attachments::{
    IfUnchanged, MergedIndex, attached, detach, is_attachment, manifests_of, merge,
};
pub use budget::Budgets;
pub use catalog::{Catalog, CatalogFeed, Snapshot};
pub use connect::{internal_registry, waits_for_pulls};
pub use control::{Held, note_restore, reconciled};
pub use entries::{Entries, Entry, Page, Stored};
pub use error::Error;
pub use images::{ImageReader, describe, describe_copied, note_image, read_image};
pub use remote_clients::{Pulls, RemoteClients};
pub use schedules::Wanted;
pub use stage_runner::StageRunner;
pub use tags::{
    AlwaysCurrent, Applied, Freshness, PlatformSubset, Precondition, Provenance, TagChange,
    TagWriter, live_claim, source_of,
};

/// Every bucket; cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    /// Declarative resources as applied.
    pub resources: Entries<wire::Resource>,
    /// What tags of mirrored repositories point to.
    pub upstream: Entries<wire::UpstreamTag>,
    /// How the last poll of each mirror went.
    pub polls: Entries<wire::UpstreamPoll>,
    /// What local tags point to.
    pub tags: Entries<wire::TagEntry>,
    /// What images consist of.
    pub images: Entries<wire::ImageEntry>,
    /// What scanners say.
    pub verdicts: Entries<wire::Verdict>,
    /// What was decided.
    pub decisions: Entries<wire::Decision>,
    /// When images were last pulled.
    pub pulls: Entries<wire::LastPull>,
    /// The health of endpoints.
    pub endpoints: Entries<wire::Endpoint>,
    /// Deliveries to endpoints.
    pub deliveries: Entries<wire::Delivery>,
    /// What holds up promotion and deletion: one entry.
    pub control: Entries<wire::Control>,
    /// What targets hold that no decision put there.
    pub unauthorised: Entries<wire::Unauthorised>,
    /// The repositories that the promoter writes to.
    pub targets: Entries<wire::PromotionTarget>,
    /// When what exists no longer was forgotten last: one entry.
    pub cleanups: Entries<wire::Reconciliation>,
    /// How each stage's last search for missing work went.
    pub reconciliations: Entries<wire::Reconciliation>,
    /// What may be spent at upstream registries.
    pub budgets: Budgets,
    /// Manifests that only serve to delete a tag.
    pub tombstones: Entries<wire::Tombstone>,
    /// Reports and bills of materials.
    pub reports: Objects,
}

impl State {
    /// Opens every bucket.
    ///
    /// # Errors
    /// A bucket that was not provisioned.
    pub async fn open(bus: &Bus) -> Result<Self, Error> {
        let upstream = bus.bucket("upstream").await?;
        let control = bus.bucket("control").await?;
        Ok(Self {
            resources: Entries::new(bus.bucket("resources").await?),
            upstream: Entries::new(upstream.clone()),
            polls: Entries::new(upstream),
            tags: Entries::new(bus.bucket("tags").await?),
            images: Entries::new(bus.bucket("images").await?),
            verdicts: Entries::new(bus.bucket("verdicts").await?),
            decisions: Entries::new(bus.bucket("decisions").await?),
            pulls: Entries::new(bus.bucket("pulls").await?),
            endpoints: Entries::new(bus.bucket("endpoints").await?),
            deliveries: Entries::new(bus.bucket("deliveries").await?),
            control: Entries::new(control.clone()),
            unauthorised: Entries::new(control.clone()),
            targets: Entries::new(control.clone()),
            cleanups: Entries::new(control),
            reconciliations: Entries::new(bus.bucket("reconciliations").await?),
            budgets: Budgets::new(Entries::new(bus.bucket("budgets").await?)),
            tombstones: Entries::new(bus.bucket("tombstones").await?),
            reports: bus.reports().await?,
        })
    }
}
