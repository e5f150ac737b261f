//! The clients of registries, and the pull budgets of their accounts.

pub(crate) mod budget;
pub(crate) mod internal_registry;
pub(crate) mod remote_clients;
