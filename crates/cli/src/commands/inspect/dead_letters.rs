//! `sluice dead-letters`: lists and retries messages that failed for good.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_bus::Bus;

use crate::arguments::connection::Connection;
use crate::output::{Format, count, line, show};

/// The maximum number of dead letters that are listed or retried at once.
pub(super) const MAX_DEAD_LETTERS: usize = 10_000;

/// List and retry dead letters.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// Lists or retries dead letters.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let bus = connection.open().await?;
        match self.command {
            Command::List { output } => list(&bus, output).await,
            Command::Retry { number, .. } => retry(&bus, number).await,
        }
    }
}

/// The commands for dead letters.
#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters with their reasons.
    #[command(after_help = "Example:\n  sluice dead-letters list")]
    List {
        /// Output format.
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Retry one dead letter, or all of them.
    #[command(
        after_help = "Examples:\n  sluice dead-letters retry 17\n  sluice dead-letters retry --all"
    )]
    Retry {
        /// Number of the dead letter, as `list` shows it.
        #[arg(required_unless_present = "all")]
        number: Option<u64>,
        /// Retry all of them.
        #[arg(long, conflicts_with = "number")]
        all: bool,
    },
}

/// Lists dead letters.
async fn list(bus: &Bus, format: Format) -> anyhow::Result<()> {
    let dead_letters = bus.dead_letters(MAX_DEAD_LETTERS).await?;
    let (mut rows, mut objects) = (Vec::new(), Vec::new());
    for letter in dead_letters {
        objects.push(json!({
            "number": letter.sequence, "stage": letter.stage, "type": letter.type_name, "subject": letter.subject,
            "attempts": letter.attempts, "reason": letter.reason,
        }));
        rows.push(vec![
            letter.sequence.to_string(),
            letter.stage,
            letter.attempts,
            letter.subject,
            letter.reason,
        ]);
    }
    let header = ["NUMBER", "STAGE", "ATTEMPTS", "SUBJECT", "REASON"];
    show(format, &header, rows, &Value::Array(objects))
}

/// Retries one dead letter, or all.
async fn retry(bus: &Bus, number: Option<u64>) -> anyhow::Result<()> {
    let numbers = match number {
        Some(number) => vec![number],
        None => {
            let all = bus.dead_letters(MAX_DEAD_LETTERS).await?;
            all.iter().map(|letter| letter.sequence).collect()
        }
    };
    for number in &numbers {
        bus.redrive(*number).await?;
    }
    let queued = count(numbers.len(), "dead letter");
    line(&format!("{queued} queued again"))
}
