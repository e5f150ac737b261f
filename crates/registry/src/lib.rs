//! The OCI distribution client: auth, manifests, blobs, copies and deletion.
//!
//! A manifest is never re-serialised, and a credential goes only to the origin and realm of its registry.

mod auth;
mod blob;
mod client;
mod copy;
mod delete;
mod error;
mod exchange;
mod manifest;
mod patience;
mod rate;
mod reference;
mod tags;
mod transport;
mod turn;
mod verify;
mod whole;

pub use client::{Client, Credential, Endpoint};
pub use copy::{Copied, CopyJob};
pub use error::Error;
pub use manifest::{
    Content, Descriptor, ImageConfig, Manifest, ManifestHead, ManifestRef, digest_of,
};
pub use rate::RateLimit;
pub use reference::ImageReference;
pub use transport::{Exchange, Exchanged, Transport};
pub use whole::Inspection;
