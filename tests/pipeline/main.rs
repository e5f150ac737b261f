//! The pipeline on real servers, each stage a process of its own.

mod access;
mod api;
mod apply;
mod crash;
mod dead_letters;
mod metrics;
mod mirror;
mod notifications;
mod process;
mod promote;
mod prune;
mod reconcile;
mod scan;
mod scan_database;
mod secrets;
mod subscriber;
mod trace;
mod up;
mod webhooks;
mod whole;
