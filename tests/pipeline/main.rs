//! The pipeline on real servers, each stage a process of its own.

mod access;
mod api;
mod apply;
mod chaos;
mod crash;
mod dead_letters;
mod disks;
mod lies;
mod metrics;
mod mirror;
mod notifications;
mod platforms;
mod process;
mod promote;
mod prune;
mod races;
mod reconcile;
mod scan;
mod scan_database;
mod secrets;
mod steady;
mod subscriber;
mod trace;
mod up;
mod webhooks;
mod whole;
