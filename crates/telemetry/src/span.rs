//! Names of spans, the same in every process.

/// One poll of a mirror.
pub const POLL: &str = "poll";
/// One copy of an image.
pub const MIRROR: &str = "mirror";
/// One scan of an image.
pub const SCAN: &str = "scan";
/// One judgement of an image.
pub const PROMOTE: &str = "promote";
/// One retention run.
pub const PRUNE: &str = "prune";
/// One delivery to an endpoint.
pub const DELIVER: &str = "deliver";
