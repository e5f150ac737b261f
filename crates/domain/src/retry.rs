//! How failures are retried: the class of an error, growing delays, and the wait that a peer asks for.

pub(crate) mod backoff;
pub(crate) mod classify;
pub(crate) mod retry_after;
