//! The help of `sluice`: its commands in groups, as in git and kubectl.

use clap::{Command, CommandFactory as _, FromArgMatches as _};

use super::Arguments;
use crate::commands::GROUPS;

/// The width of the column of command names.
const NAME_WIDTH: usize = 14;

/// Parses the arguments of the process.
pub(crate) fn parse() -> Result<Arguments, clap::Error> {
    let matches = command().try_get_matches()?;
    Arguments::from_arg_matches(&matches)
}

/// Returns the command whose help lists the subcommands in groups.
#[must_use]
pub fn command() -> Command {
    let command = Arguments::command();
    let mut groups = String::new();
    for (title, names) in GROUPS {
        groups.push_str(&format!("{title}:\n"));
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            groups.push_str(&format!("  {name:NAME_WIDTH$}{about}\n"));
        }
        groups.push('\n');
    }
    // Without this, clap lists the subcommands a second time.
    command
        .mut_subcommands(|subcommand| subcommand.hide(true))
        .override_usage("sluice [OPTIONS] <COMMAND>")
        .help_template(format!(
            "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{groups}{{all-args}}{{after-help}}"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group_and_in_the_help() {
        let mut grouped: Vec<&str> = GROUPS
            .iter()
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        let all = Arguments::command();
        let mut there: Vec<&str> = all.get_subcommands().map(Command::get_name).collect();
        grouped.sort_unstable();
        there.sort_unstable();
        assert_eq!(grouped, there);
        let help = command().render_long_help().to_string();
        for name in there {
            let shown = help.lines().filter(|line| {
                line.strip_prefix("  ")
                    .is_some_and(|line| line.split(' ').next() == Some(name))
            });
            assert_eq!(shown.count(), 1, "{name}\n{help}");
        }
    }

    #[test]
    fn every_command_begins_with_a_verb_and_has_an_example() {
        fn check(command: &Command, path: &str) {
            let about = command.get_about().unwrap().to_string();
            let verb = about.split(' ').next().unwrap();
            assert!(!verb.ends_with('s'), "`{path}`: {about}");
            let mut below = command.get_subcommands().peekable();
            if below.peek().is_none() {
                let examples = command.get_after_help().map(ToString::to_string);
                assert!(
                    examples.is_some_and(|text| text.contains("Example")),
                    "`{path}` has no example"
                );
            }
            for one in below {
                check(one, &format!("{path} {}", one.get_name()));
            }
        }
        for one in Arguments::command().get_subcommands() {
            check(one, one.get_name());
        }
    }
}
