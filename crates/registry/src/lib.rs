//! The OCI distribution client: authentication, manifests, blobs, copies and deletion.
//!
//! A manifest is never re-serialised, and a credential goes only to the origin and realm of its registry.

mod client;
mod content;
mod copy;
mod endpoint;
mod error;
mod http;

pub use client::Client;
pub use client::access_check::{Access, AccessReport, Permission};
pub use client::attachments::AdmittedAttachment;
pub use client::authentication::Authentication;
pub use client::manifests::RawManifest;
pub use content::manifest::descriptor::{Descriptor, DescriptorPlatform, digest_of};
pub use content::manifest::image_config::{ImageConfig, RootFs};
pub use content::manifest::{Content, Manifest, ManifestHead, ManifestRef};
pub use content::reference::{ImageReference, InvalidReference, RemoteImage};
pub use copy::concurrency_limits::ConcurrencyLimits;
pub use copy::estimate::{Cost, Destination, Estimator};
pub use copy::integrity::IntegrityCheck;
pub use copy::progress::{BlobOutcome, Progress, ProgressListener};
pub use copy::{CopyJob, CopyOptions, CopyReport, RootPush};
pub use endpoint::account::Credential;
pub use endpoint::credential_source::CredentialSource;
pub use endpoint::{ClientCertificate, Endpoint, Proxy};
pub use error::Error;
pub use http::connection::request_counter::{RequestCounter, RequestCounts};
pub use http::connection::transport::{SimulatedRegistry, SimulatedResponse, Transport};
pub use http::rate_limit::RateLimit;
pub use http::rate_limit::budget::{
    Budget, BudgetDenial, BudgetFuture, Permit, RateLimitProbe, RequestKind,
};

/// The parsers of untrusted bytes, for the fuzz targets alone.
#[doc(hidden)]
pub mod parsers {
    pub use crate::endpoint::docker_config::has_login;
    pub use crate::http::rate_limit::{quota_until, retry_after};
    pub use crate::http::response::{
        Challenge, collect_headers, parse_challenge, parse_digest, parse_location,
        parse_media_type, parse_next_page, parse_range_start, parse_repositories, parse_tags,
        parse_token,
    };
}
