//! The OCI distribution client: auth, manifests, blobs, copies and deletion.
//!
//! A manifest is never re-serialised, and a credential goes only to the origin and realm of its registry.

#[doc(hidden)]
pub mod answers;
mod attachment;
mod auth;
mod blob;
mod blob_locations;
mod blob_transfer;
mod budget;
mod check;
mod client;
mod configs;
mod copy;
mod delete;
mod docker;
mod endpoint;
mod error;
mod estimate;
mod exchange;
mod fetch;
mod integrity;
mod keyed_locks;
mod limits;
mod login;
mod magic;
mod manifest;
mod per_registry;
mod platforms;
mod progress;
mod protocol;
mod proxy;
mod rate;
mod redirect_policy;
mod reference;
mod referrers;
mod remote_reference;
mod retry;
mod statement;
mod strict;
mod tags;
mod tally;
mod throttle;
mod transport;
mod verify;

pub use attachment::Admissible;
pub use budget::{Answered, Asked, Budget, Permit, Spending, Withheld};
pub use check::{Authentication, Checked, Right};
pub use client::Client;
pub use copy::{Copied, CopyJob, CopyOptions, TopWrite};
pub use endpoint::{ClientCertificate, Credential, Endpoint, Proxy};
pub use error::Error;
pub use estimate::{Cost, Destination, Estimator};
pub use exchange::Document;
pub use integrity::Inspection;
pub use limits::Limits;
pub use login::CredentialSource;
pub use manifest::{
    Content, Descriptor, DescriptorPlatform, ImageConfig, Manifest, ManifestHead, ManifestRef,
    RootFs, digest_of,
};
pub use progress::{Arrival, Progress, Watch};
pub use rate::RateLimit;
pub use reference::ImageReference;
pub use remote_reference::{InvalidReference, RemoteImage};
pub use tally::{Requests, Tally};
pub use transport::{Exchange, Exchanged, Transport};
