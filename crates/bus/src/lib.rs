//! The bus: streams, publishing, the consume loop, dead letters, schedules, buckets, objects and their administration.
//!
//! The only crate that names async-nats; it knows nothing of images.

mod admin;
mod connection;
mod consume;
mod error;
mod storage;
mod streams;
pub mod topology;

pub use admin::limits::{InvalidLimit, StreamLimits};
pub use admin::lookup::StreamSummary;
pub use admin::permissions;
pub use admin::provision::Change;
pub use admin::server_config::{ServerConfig, render_accounts, render_passwords};
pub use admin::snapshot::StreamSnapshot;
pub use admin::stream_configs::ProvisionOptions;
pub use admin::subscribers::{InvalidSubscriber, Subscriber, SubscriberStatus};
pub use connection::storage_health::NOT_STORING;
pub use connection::{Bus, backend};
pub use consume::handler::{Failure, Handler, Outcome, Record};
pub use consume::simulated_replica::SimulatedReplica;
pub use consume::worker::ConsumeSettings;
pub use error::{BoxError, Error};
pub use storage::bucket::{Bucket, Page};
pub use storage::entry::{Entry, Update};
pub use storage::objects::Objects;
pub use streams::cause::Cause;
pub use streams::consumer_position::{ConsumerPosition, LogGap};
pub use streams::dead_letters::DeadLetter;
pub use streams::facts::{Fact, FollowFrom, InvalidLogPosition, LogPosition};
pub use streams::publish::PublishedMessage;
pub use streams::schedules::{Schedule, Timing};
pub use streams::status::{StageStatus, StreamUsage};
