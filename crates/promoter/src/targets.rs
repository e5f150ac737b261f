//! Targets of promotion: what is written there, what is taken back, and whether they have what the decisions say.

pub(crate) mod attachments;
pub(crate) mod audit;
pub(crate) mod endpoint;
pub(crate) mod pending_events;
pub(crate) mod promote;
pub(crate) mod recall;
pub(crate) mod sweep;
