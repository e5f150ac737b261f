//! The promoter: judges images by policy and brings those that pass into their target, by digest.
//!
//! It judges from stored verdicts only: events are triggers, never inputs (invariant 1).
