//! The one list of all commands: a command is a row of the table below, and a file that has its options and runs it.

use std::process::{ExitCode, Termination};

use anyhow::Context as _;

use crate::arguments::connection::Connection;

mod install {
    pub(super) mod backup;
    pub(super) mod keys;
    pub(super) mod nats_config;
    pub(super) mod prepare;
    pub(super) mod provision;
    pub(super) mod restore;
    pub(super) mod subscriber;
    pub(super) mod up;
}
mod resources {
    pub(super) mod apply;
    pub(super) mod delete;
    pub(super) mod get;
    pub(super) mod import;
    pub(super) mod plan;
    pub(super) mod schema;
    pub(super) mod tags;
}
mod inspect {
    pub(super) mod dead_letters;
    pub(super) mod events;
    pub(super) mod explain;
    pub(super) mod findings;
    pub(super) mod status;
}
mod act {
    pub(super) mod pause;
    pub(super) mod poll;
    pub(super) mod prune;
    pub(super) mod reconcile;
    pub(super) mod resume;
    pub(super) mod scan;
}
mod standalone {
    pub(super) mod copy;
    pub(super) mod registry;
    pub(super) mod sync;
}

macro_rules! commands {
    ($($title:literal in $group:ident { $($($async:ident)? $name:literal => $variant:ident($module:ident),)+ })+) => {
        /// Every command, by purpose.
        pub const GROUPS: [(&str, &[&str]); [$($title),+].len()] = [$(($title, &[$($name),+])),+];

        /// The commands.
        #[derive(Debug, clap::Subcommand)]
        pub(crate) enum Command {
            $($(#[command(name = $name)] $variant(Box<$group::$module::Arguments>),)+)+
        }

        impl Command {
            /// Runs the command.
            pub(crate) fn run(self, connection: &Connection) -> anyhow::Result<ExitCode> {
                match self {
                    $($(Self::$variant(arguments) => {
                        let ended: anyhow::Result<_> = commands!(@ $($async)? arguments.run(connection));
                        ended.map(Termination::report)
                    })+)+
                }
            }
        }
    };
    (@ async $future:expr) => { block_on($future) };
    (@ $result:expr) => { $result };
}

// A command that is `async` runs on a runtime; `up` starts one of its own.
commands! {
    "Install and run" in install {
        "up" => Up(up),
        "keys" => Keys(keys),
        "prepare" => Prepare(prepare),
        "nats-config" => NatsConfig(nats_config),
        async "provision" => Provision(provision),
        async "backup" => Backup(backup),
        async "restore" => Restore(restore),
        async "subscriber" => Subscriber(subscriber),
    }
    "Manage resources" in resources {
        async "apply" => Apply(apply),
        async "get" => Get(get),
        async "delete" => Delete(delete),
        "schema" => Schema(schema),
        "import" => Import(import),
        async "tags" => Tags(tags),
        async "plan" => Plan(plan),
    }
    "Inspect" in inspect {
        async "status" => Status(status),
        async "explain" => Explain(explain),
        async "findings" => Findings(findings),
        async "events" => Events(events),
        async "dead-letters" => DeadLetters(dead_letters),
    }
    "Act" in act {
        async "poll" => Poll(poll),
        async "scan" => Scan(scan),
        async "prune" => Prune(prune),
        async "reconcile" => Reconcile(reconcile),
        async "pause" => Pause(pause),
        async "resume" => Resume(resume),
    }
    "Standalone" in standalone {
        async "copy" => Copy(copy),
        async "sync" => Sync(sync),
        async "registry" => Registry(registry),
    }
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Runtime::new().context("failed to start the runtime")?;
    runtime.block_on(future)
}
