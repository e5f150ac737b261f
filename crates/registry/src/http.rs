//! HTTP to one registry: connection, responses, retries and rate limits.

pub(crate) mod connection;
pub(crate) mod rate_limit;
pub(crate) mod refusal;
pub(crate) mod response;
pub(crate) mod retry;
