//! The bus: topology, publishing, the consume loop, dead letters, schedules, buckets and objects.
//!
//! The only crate that names async-nats; it knows nothing of images.

pub mod backend;
mod backlog;
mod backup;
mod cause;
mod connect;
mod consume;
mod consumer_position;
mod dead_letters;
mod envelope;
mod error;
mod handler;
mod history;
mod incoming;
mod kv;
mod limits;
mod message_ids;
mod objects;
mod permission_violations;
pub mod permissions;
mod progress;
mod provision;
mod publish;
mod read;
mod retry;
mod room;
mod schedules;
mod server_config;
mod settle;
mod status;
mod storage_health;
mod subject_patterns;
mod telemetry;
pub mod topology;
mod verify;

pub use backup::{StreamSnapshot, StreamSummary};
pub use cause::Cause;
pub use connect::Bus;
pub use consume::ConsumeSettings;
pub use consumer_position::{ConsumerPosition, LogGap};
pub use dead_letters::DeadLetter;
pub use error::Error;
pub use handler::{BoxError, Failure, Handler, Outcome, Record};
pub use history::Fact;
pub use kv::{Bucket, Entry, Page, Update};
pub use limits::{InvalidLimit, StreamLimits};
pub use objects::Objects;
pub use provision::{Change, ProvisionOptions};
pub use publish::Published;
pub use schedules::{Schedule, When};
pub use server_config::{ServerConfig, passwords};
pub use status::{StageStatus, StreamUsage};
pub use storage_health::STORES_NOTHING;
