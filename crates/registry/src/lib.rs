//! The OCI distribution client: auth, manifests, blobs, copies and deletion.
//!
//! A manifest is never re-serialised, and a credential goes only to the origin and realm of its registry.

#[doc(hidden)]
pub mod answers;
mod attachment;
mod auth;
mod away;
mod blob;
mod bring;
mod budget;
mod check;
mod client;
mod common;
mod configs;
mod copy;
mod delete;
mod docker;
mod endpoint;
mod error;
mod estimate;
mod exchange;
mod fetch;
mod known;
mod limits;
mod login;
mod magic;
mod manifest;
mod patience;
mod platforms;
mod progress;
mod protocol;
mod proxy;
mod rate;
mod reference;
mod referrers;
mod remote_reference;
mod statement;
mod strict;
mod tags;
mod tally;
mod throttle;
mod transport;
mod turn;
mod verify;
mod whole;

pub use attachment::Admissible;
pub use budget::{Answered, Asked, Budget, Permit, Spending, Withheld};
pub use check::{Authentication, Checked, Right};
pub use client::Client;
pub use copy::{Copied, CopyJob, CopyOptions, TopWrite};
pub use endpoint::{ClientCertificate, Credential, Endpoint, Proxy};
pub use error::Error;
pub use estimate::{Cost, Destination, Estimator};
pub use exchange::Document;
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
pub use whole::Inspection;
