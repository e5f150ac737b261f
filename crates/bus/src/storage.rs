//! State on the server: key-value buckets and the object store.

pub(crate) mod bucket;
pub(crate) mod entry;
pub(crate) mod objects;
mod storage_probe;
