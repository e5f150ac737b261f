//! Binding of listeners; the bound address can be written to a file.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use tokio::net::TcpListener;

/// Binds an address on which `what` is served, and writes the bound address to a file.
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

/// Writes the address under another name first, so that no reader sees a part of it.
fn write_address(file: &Path, address: &str) -> anyhow::Result<()> {
    let partial = file.with_extension("partial");
    std::fs::write(&partial, address)
        .and_then(|()| std::fs::rename(&partial, file))
        .with_context(|| format!("failed to write the address to `{}`", file.display()))
}
