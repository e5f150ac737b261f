//! One-shot copies from registry to registry, without a bus: images, mirrors, and what they would cost.
//!
//! It shows nothing: progress goes to a [`Progress`], results are values.

mod attachment_cache;
mod attachments;
mod clients;
mod error;
mod image;
mod image_copier;
mod outcome;
mod progress;
mod session;
mod sync;
mod totals;

pub use clients::{Clients, EndpointOptions, RegistryOptions, RegistryUsage, Side};
pub use error::ConfigurationError;
pub use image::{Image, Target};
pub use outcome::{AttachmentOutcome, CopyOutcome, TransferStats, Work};
pub use progress::{ImageProgress, Progress};
pub use session::{Session, SessionOptions};
pub use sync::{
    Destination, MirrorResult, SyncOptions, SyncResults, SyncTarget, TagOutcome, TagResult,
    pending_results, sync,
};
pub use totals::{Pulls, QuotaForecast, Totals, forecast};
