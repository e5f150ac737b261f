//! Declarative resources: the catalogue of all, how they are applied, and the schedules and targets that follow from
//! them.

mod apply;
pub(crate) mod catalog;
mod promotion_targets;
pub(crate) mod schedules;
pub(crate) mod snapshot;
