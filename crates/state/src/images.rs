//! Images: what they consist of, what is attached to them, what the scanner reports, and the tags that name them.

pub(crate) mod attachments;
pub(crate) mod description;
pub(crate) mod findings;
pub(crate) mod image_reader;
mod immutability;
pub(crate) mod merged_referrers_index;
mod reports;
mod stale_change;
pub(crate) mod tag_change;
pub(crate) mod tag_claim;
pub(crate) mod tag_entry;
pub(crate) mod tag_writer;
