//! The accounts of Sluice's own services at the internal registry.

/// The accounts that services use, by the service's name; nobody else may be called so.
pub const SERVICE_ACCOUNTS: [&str; 5] = [
    "gateway",
    "mirror-worker",
    "promoter",
    "pruner",
    "scanner-adapter",
];

/// Says whether something was done by Sluice itself rather than by a person or a build system.
#[must_use]
pub fn is_service_account(name: &str) -> bool {
    SERVICE_ACCOUNTS.contains(&name)
}
