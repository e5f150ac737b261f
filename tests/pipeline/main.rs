//! The pipeline on real servers, each stage a process of its own.

mod apply;
mod dead_letters;
mod mirror;
mod process;
mod prune;
mod subscriber;
mod trace;
mod webhooks;
