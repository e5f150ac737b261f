//! The scanner adapter: asks a scanner what is in an image, per platform, and keeps its answer.
//!
//! It must not decide anything: a verdict says what was seen, and that nothing was seen.
