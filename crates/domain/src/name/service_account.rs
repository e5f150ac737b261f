//! The accounts of Sluice's own services at the internal registry.

/// The accounts of services, named after the service; these names are reserved.
pub const SERVICE_ACCOUNTS: [&str; 5] = [
    "gateway",
    "mirror-worker",
    "promoter",
    "pruner",
    "scanner-adapter",
];

/// Returns whether the name is that of a service account rather than of a person or a build system.
#[must_use]
pub fn is_service_account(name: &str) -> bool {
    SERVICE_ACCOUNTS.contains(&name)
}
