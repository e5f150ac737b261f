//! `sluice provision`: what NATS needs before the services start.

use std::time::Duration;

use clap::Args;
use sluice_bus::ProvisionOptions;

use crate::arguments::connection::Connection;
use crate::arguments::limits::LimitArguments;
use crate::output::line;

/// Create or update the streams, consumers and buckets in NATS.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sluice provision --nats tls://nats.example:4222 --nats-user admin --nats-password-file admin --replicas 3"
)]
pub(crate) struct Arguments {
    /// Number of servers that keep each stream.
    #[arg(long, default_value_t = 1)]
    replicas: usize,
    /// Seconds for which a repeated event is dropped.
    #[arg(long, default_value_t = 7_200)]
    duplicate_window_seconds: u64,
    /// Seconds without progress after which work goes to another worker [default: 30].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    ack_wait_seconds: Option<u64>,
    #[command(flatten)]
    limits: LimitArguments,
}

impl Arguments {
    /// Creates or updates streams, consumers and buckets.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let bus = connection.open_starting().await?;
        bus.provision(ProvisionOptions {
            limits: self.limits.parse()?,
            replicas: self.replicas,
            duplicate_window: Duration::from_secs(self.duplicate_window_seconds),
            ack_wait: self.ack_wait_seconds.map(Duration::from_secs),
        })
        .await?;
        line("NATS is up to date")
    }
}
