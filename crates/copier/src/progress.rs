//! What a session reports while it copies.

use std::fmt::Debug;
use std::sync::Arc;

use sluice_domain::resources::Mirror;
use sluice_registry::ProgressListener;

use crate::image::Image;
use crate::outcome::CopyOutcome;

/// Receives the progress of a session.
pub trait Progress: Debug + Send + Sync {
    /// Adds images that will be checked or copied.
    fn add_images(&self, count: usize);

    /// Reports that an image was checked or copied, or why that failed.
    fn image_done(&self, image: &Image, outcome: Result<&CopyOutcome, &str>);

    /// Reports that the tags of a mirror could not be listed or deleted.
    fn mirror_failed(&self, mirror: &Mirror, error: &anyhow::Error);

    /// Returns the progress of the transfer of one image.
    fn image(&self, name: String) -> Arc<dyn ImageProgress>;
}

/// Receives the progress of one transfer; a transfer that is dropped before it is complete does not count.
pub trait ImageProgress: ProgressListener {
    /// Reports that the transfer is complete.
    fn complete(&self);
}
