//! `sluice tags`: the tags of a repository that a selection takes, and those that it leaves out, with the reasons.

use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use sluice_copier::{Clients, ConfigurationError, Side};
use sluice_domain::resources::TagSelection;
use sluice_domain::{NameRegex, Pattern, RemoteRepository};
use sluice_policy::{Range, TagAge, select};
use sluice_registry::RemoteImage;

use crate::arguments::connection::Connection;
use crate::arguments::registry_options::RegistryArguments;
use crate::output::{Format, show};

/// Show which tags a selection takes, and why it leaves out the others.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluice tags --from nginx --semver '>=1.25' --newest 5
  sluice tags --from ghcr.io/team/app --regex 'v[0-9.]+' --exclude '*-rc*' -o json

docs/TAGS.md says what is a version, and which of two tags is the newer.")]
pub(crate) struct Arguments {
    /// Repository, as in `nginx` or `ghcr.io/team/app`.
    #[arg(long, value_name = "IMAGE")]
    from: RemoteImage,
    /// Take only versions in this range, as in `>=3.18`.
    #[arg(long, value_name = "RANGE")]
    semver: Option<String>,
    /// Take only tags that match this pattern; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    include: Vec<Pattern>,
    /// Take only tags that match this expression as a whole; may be repeated.
    #[arg(long, value_name = "REGEX")]
    regex: Vec<NameRegex>,
    /// Leave out tags that match this pattern; may be repeated.
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<Pattern>,
    /// Leave out tags that match this expression as a whole; may be repeated.
    #[arg(long, value_name = "REGEX")]
    exclude_regex: Vec<NameRegex>,
    /// Take at most this many, newest first.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    newest: Option<u32>,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    remote: RegistryArguments,
}

impl Arguments {
    /// Lists the tags of the repository and shows for each whether it is selected.
    pub(crate) async fn run(self, connection: &Connection) -> anyhow::Result<()> {
        let selection = TagSelection {
            semver: self.semver,
            include: self.include,
            regex: self.regex,
            exclude: self.exclude,
            exclude_regex: self.exclude_regex,
            newest: self.newest,
        };
        if let Some(range) = &selection.semver {
            range
                .parse::<Range>()
                .map_err(|error| ConfigurationError(error.into()))?;
        }
        let from: &RemoteRepository = &self.from.repository;
        let options = self.remote.options(connection);
        let clients = Clients::new(options, Vec::new(), connection.secrets());
        let client = clients.client(Side::Source, &from.host)?;
        let listed = client.list_tags(&from.repository).await;
        let listed = listed.with_context(|| format!("failed to list the tags of `{from}`"))?;
        let selected = select(&selection, &listed)?;
        let (mut rows, mut taken, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        for tag in &selected.tags {
            let reason = TagAge::of(tag).to_string();
            taken.push(json!({ "tag": tag, "reason": reason }));
            rows.push(vec![tag.to_string(), "taken".to_owned(), reason]);
        }
        for (tag, reason) in &selected.excluded {
            let reason = reason.to_string();
            left_out.push(json!({ "tag": tag, "reason": reason }));
            rows.push(vec![tag.to_string(), "left out".to_owned(), reason]);
        }
        let object = json!({ "from": from, "taken": taken, "leftOut": left_out });
        show(self.output, &["TAG", "RESULT", "REASON"], rows, &object)
    }
}
