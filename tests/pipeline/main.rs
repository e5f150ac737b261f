//! The pipeline on real servers, each stage a process of its own.

mod access;
mod api;
mod apply;
mod chaos;
mod dead_letters;
mod disks;
mod lies;
mod mirror;
mod notifications;
mod process;
mod promote;
mod prune;
mod races;
mod scan;
mod scan_database;
mod subscriber;
mod trace;
mod up;
mod webhooks;
mod whole;
