//! Facts about resources.

use sluice_domain::ResourceName;

use crate::convert::messages;

messages! {
/// A resource was applied or removed.
ResourceApplied {
    /// Its kind, as in Mirror.
    kind: String,
    /// Its name.
    name: ResourceName,
    /// The revision of the catalogue that holds it.
    revision: u64,
    /// Whether it was removed.
    removed: bool,
    /// Who did it.
    actor: String,
}}
