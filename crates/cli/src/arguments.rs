//! The command line: the options of every command and of several, and the help of `sluice` itself.

pub(crate) mod connection;
pub(crate) mod help;
pub(crate) mod limits;
pub(crate) mod registry_options;

use clap::Parser;

use self::connection::Connection;
use crate::commands::Command;

/// The arguments of the process.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    about = "The gate between public container registries and your developers"
)]
#[command(
    after_help = "Examples:\n  sluice up -f mirrors.yaml\n  sluice events --follow\n\nShow the options and examples of a command: sluice COMMAND --help"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_in_a_sentence_of_the_documentation_exists() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let docs = fs::read_dir(root.join("docs")).unwrap();
        let mut pages: Vec<_> = docs.map(|page| page.unwrap().path()).collect();
        pages.push(root.join("README.md"));
        let mut count = 0;
        for page in pages
            .iter()
            .filter(|page| page.extension() == Some("md".as_ref()))
        {
            let text = fs::read_to_string(page).unwrap();
            for (_, rest) in text
                .match_indices("`sluice ")
                .map(|(at, _)| text.split_at(at + 1))
            {
                let (command, _) = rest.split_once('`').unwrap();
                let mut words = Vec::new();
                for (index, part) in command.split(['"', '\'']).enumerate() {
                    match index % 2 {
                        0 => words.extend(part.split_whitespace()),
                        _ => words.push(part),
                    }
                }
                // What is in brackets may be left out.
                words.retain(|word| !word.starts_with('['));
                let is_placeholder = |c: char| c == '<' || c.is_ascii_uppercase();
                let Err(error) = Arguments::try_parse_from(words) else {
                    count += 1;
                    continue;
                };
                // A sentence may name a command without its arguments, or with one that stands for many.
                let is_unfinished = match error.kind() {
                    ErrorKind::MissingRequiredArgument
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                    | ErrorKind::MissingSubcommand => true,
                    ErrorKind::ValueValidation => command.contains(is_placeholder),
                    ErrorKind::InvalidValue => error.to_string().contains("a value is required"),
                    _ => false,
                };
                assert!(is_unfinished, "{}: `{command}`: {error}", page.display());
            }
        }
        assert!(count > 10, "{count}");
    }
}
