//! Speaks to the bus and its buckets from a test, as a service would.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;

use chrono::Utc;
use sluice_bus::{Bus, Cause, PublishedMessage};
use sluice_events::facts::{ImagePromoted, ScanFailed};
use sluice_events::{Command, Event};
use sluice_service::BusSettings;
use sluice_state::State;
use tokio::runtime::Runtime;

/// A connection of the test's own.
pub struct BusClient {
    /// The bus.
    pub bus: Bus,
    /// The buckets.
    pub state: State,
    runtime: Runtime,
}

impl fmt::Debug for BusClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BusClient")
    }
}

impl BusClient {
    /// Connects to a bus that is provisioned.
    pub fn connect(url: &str) -> Self {
        Self::with(url, "", None)
    }

    /// Connects as a user that has its rights and no others.
    pub fn of_user(url: &str, user: &str, password_file: PathBuf) -> Self {
        Self::with(url, user, Some(password_file))
    }

    fn with(url: &str, user: &str, password_file: Option<PathBuf>) -> Self {
        let runtime = Runtime::new().unwrap();
        let settings = BusSettings {
            url: url.to_owned(),
            user: user.to_owned(),
            password_file,
            credentials_file: None,
            ca_file: None,
            allow_plain_text: false,
        };
        let (bus, state) = runtime.block_on(async {
            let bus = Bus::connect(&settings, "test").await.unwrap();
            let state = State::open(&bus).await.unwrap();
            (bus, state)
        });
        Self {
            bus,
            state,
            runtime,
        }
    }

    /// Runs something to its end.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Publishes a fact as something that happened now.
    pub fn publish(&self, event: impl Into<Event>, occurrence: &str) -> PublishedMessage {
        self.run(self.bus.publish(&event.into(), &Cause::root(), occurrence))
            .unwrap()
    }

    /// Publishes a fact, and says whether that was allowed.
    pub fn try_publish(&self, event: &Event) -> bool {
        self.run(self.bus.publish(event, &Cause::root(), "forged"))
            .is_ok()
    }

    /// Gives a command, and says whether that was allowed.
    pub fn try_command(&self, command: &Command) -> bool {
        self.run(self.bus.command(command, &Cause::root())).is_ok()
    }

    /// Gives a command.
    pub fn command(&self, command: impl Into<Command>) {
        self.run(self.bus.command(&command.into(), &Cause::root()))
            .unwrap();
    }
}

/// Returns the digest that consists of this byte.
pub fn digest(fill: u8) -> String {
    format!("sha256:{}", format!("{fill:02x}").repeat(32))
}

/// Returns a promotion from `hub` to `official`.
pub fn promoted(name: &str, tag: &str) -> ImagePromoted {
    ImagePromoted {
        policy: "clean".parse().unwrap(),
        source: format!("hub/{name}").parse().unwrap(),
        source_tag: tag.parse().unwrap(),
        target: format!("official/{name}").parse().unwrap(),
        target_tag: tag.parse().unwrap(),
        digest: digest(1).parse().unwrap(),
        decided_at: Utc::now(),
        previous: None,
        registry: None,
    }
}

/// Returns a scan in `hub` that failed.
pub fn scan_failed(name: &str, tag: &str) -> ScanFailed {
    ScanFailed {
        repository: format!("hub/{name}").parse().unwrap(),
        tag: Some(tag.parse().unwrap()),
        digest: digest(1).parse().unwrap(),
        scanner: "trivy".parse().unwrap(),
        reason: "the scanner was not there".to_owned(),
        unsupported: false,
        platform: None,
    }
}
