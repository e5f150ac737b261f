//! State: typed buckets, the catalogue of resources, and the one tag operation.

mod entries;
mod error;
mod images;
pub mod key;
mod registries;
mod resources;
mod stages;

use sluice_bus::{Bus, Objects};
use sluice_events::wire::state as wire;

pub use entries::{Entries, Entry, Page, Stored};
pub use error::Error;
pub use images::attachments::{find_attachments, is_attachment, remove_attachments};
pub use images::description::{describe, describe_copied, manifests_of, read_image, update_image};
pub use images::findings::{FoundImage, FoundManifest, SearchResult, SearchTerm};
pub use images::image_reader::ImageReader;
pub use images::merged_referrers_index::{IfUnchanged, MergedIndex, merge_index};
pub use images::tag_change::{
    AlwaysCurrent, Freshness, PlatformSubset, Precondition, Provenance, TagChange, TagChangeOutcome,
};
pub use images::tag_claim::{has_expired_claim, live_claim};
pub use images::tag_entry::source_of;
pub use images::tag_writer::TagWriter;
pub use registries::budget::Budgets;
pub use registries::internal_registry::internal_registry;
pub use registries::remote_clients::{Pulls, RemoteClients, is_pull_budget_spent};
pub use resources::catalog::{Catalog, CatalogFeed};
pub use resources::schedules::DesiredSchedule;
pub use resources::snapshot::Snapshot;
pub use stages::pause::{ActivePause, is_reconciled, record_restore};
pub use stages::reconcile;
pub use stages::stage_runner::StageRunner;

/// Every bucket; cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    /// Declarative resources as applied.
    pub resources: Entries<wire::Resource>,
    /// The upstream tags of mirrors: digest, moves, first sights.
    pub upstream: Entries<wire::UpstreamTag>,
    /// The last poll of each mirror.
    pub polls: Entries<wire::UpstreamPoll>,
    /// Local tags: digest, provenance, claim.
    pub tags: Entries<wire::TagEntry>,
    /// The manifests of images.
    pub images: Entries<wire::ImageEntry>,
    /// The verdicts of scanners.
    pub verdicts: Entries<wire::Verdict>,
    /// The decisions of promotion policies.
    pub decisions: Entries<wire::Decision>,
    /// The last pull of each image.
    pub pulls: Entries<wire::LastPull>,
    /// The health of endpoints.
    pub endpoints: Entries<wire::Endpoint>,
    /// Deliveries to endpoints.
    pub deliveries: Entries<wire::Delivery>,
    /// The pause of promotion and deletion, and the last restore: one entry.
    pub control: Entries<wire::Control>,
    /// Unauthorised images in targets.
    pub unauthorised: Entries<wire::Unauthorised>,
    /// The repositories that the promoter writes to.
    pub targets: Entries<wire::PromotionTarget>,
    /// The images that the promoter copied into them.
    pub target_images: Entries<wire::TargetImage>,
    /// The last cleanup of entries of deleted objects: one entry.
    pub cleanups: Entries<wire::Reconciliation>,
    /// The last reconciliation of each stage.
    pub reconciliations: Entries<wire::Reconciliation>,
    /// Pull budgets of upstream registries.
    pub budgets: Budgets,
    /// Manifests that only serve to delete a tag.
    pub tombstones: Entries<wire::Tombstone>,
    /// Scan reports and SBOMs.
    pub reports: Objects,
}

impl State {
    /// Opens every bucket.
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
            target_images: Entries::new(bus.bucket("target_images").await?),
            cleanups: Entries::new(control),
            reconciliations: Entries::new(bus.bucket("reconciliations").await?),
            budgets: Budgets::new(Entries::new(bus.bucket("budgets").await?)),
            tombstones: Entries::new(bus.bucket("tombstones").await?),
            reports: bus.reports().await?,
        })
    }
}
