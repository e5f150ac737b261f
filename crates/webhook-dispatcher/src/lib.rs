//! The webhook dispatcher: one durable delivery per event and endpoint, signed, retried, dead-lettered.
//!
//! It must not know what an event means, and never follows a redirect.
