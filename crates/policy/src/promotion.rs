//! Promotion policies: whether an image may be promoted, where to, and when that changes with the time.

mod candidate;
mod collisions;
mod compile;
mod evaluate;
mod evaluation;
mod reasons;
mod tag_template;
#[cfg(test)]
mod tests;
mod time;
mod token_pattern;

pub use self::candidate::{Candidate, ChildFacts};
pub use self::collisions::can_collide;
pub use self::compile::compile;
pub use self::evaluate::evaluate;
pub use self::evaluation::{Error, PolicyEvaluation, PolicyOutcome, Reason};
pub use self::reasons::accepted_kinds;
pub use self::tag_template::{InvalidTemplate, TagTemplate};
pub use self::time::{changes_at, depends_on_time};
