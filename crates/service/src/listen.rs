//! Listeners: bound once, with the address told to whoever waits for it.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use tokio::net::TcpListener;

/// Binds an address and writes the one that was bound to a file; `what` is served there.
///
/// # Errors
/// An address that is taken, or a file that cannot be written.
pub async fn listen(
    address: SocketAddr,
    address_file: Option<&Path>,
    what: &str,
) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on `{address}` for {what}"))?;
    let bound = listener
        .local_addr()
        .context("the listener has no address")?;
    if let Some(file) = address_file {
        write_address(file, &bound.to_string())?;
    }
    tracing::info!(what, listen = %bound, "listening");
    Ok(listener)
}

/// Writes the address beside its place first, so that nobody reads half of it.
fn write_address(file: &Path, address: &str) -> anyhow::Result<()> {
    let partial = file.with_extension("partial");
    std::fs::write(&partial, address)
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("failed to write the address to `{}`", file.display()))
}
