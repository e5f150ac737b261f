//! The pruner: plans and carries out retention.
//!
//! It must not delete what something that stays still reaches (invariant 5), and never works in a target of promotion.
