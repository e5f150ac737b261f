//! `docs/CLI.md`, from the arguments that the command `sluice` takes.

use clap::{Arg, Command};

use super::{check, code, table};

const INTRODUCTION: &str = "Every command of `sluice`, with its arguments, options and examples. The option `--help` of each command shows the same.

Exit codes: 0 done, 1 failed, 2 invalid arguments, 78 a file, credential or certificate cannot be used, 130 interrupted.
";

#[test]
fn the_page_of_commands_matches_the_command() {
    let mut sluice = sluice_cli::command();
    sluice.build();
    let mut page = format!("{INTRODUCTION}\n## Options of every command\n\n");
    let everywhere: Vec<&Arg> = sluice
        .get_arguments()
        .filter(|argument| argument.is_global_set())
        .collect();
    page.push_str(&arguments(&everywhere));
    for (group, names) in sluice_cli::GROUPS {
        page.push_str(&format!("\n## {group}\n"));
        for name in names {
            let command = sluice.find_subcommand(name).unwrap().clone();
            describe(&mut page, &command, &format!("sluice {name}"));
        }
    }
    check("CLI.md", "Commands", &page);
}

fn describe(page: &mut String, command: &Command, path: &str) {
    let about = command.get_long_about().or_else(|| command.get_about());
    let about = about.unwrap_or_else(|| panic!("`{path}` has no description"));
    let about = sentence(&about.to_string());
    page.push_str(&format!("\n### `{path}`\n\n{about}\n"));
    let below: Vec<&Command> = command
        .get_subcommands()
        .filter(|command| command.get_name() != "help")
        .collect();
    if below.is_empty() {
        let usage = command.clone().render_usage();
        let examples = command.get_after_help().unwrap();
        page.push_str(&format!("\n```text\n{usage}\n\n{examples}\n```\n"));
        check_examples(&examples.to_string());
    }
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|argument| !argument.is_global_set() && argument.get_id() != "help")
        .collect();
    if !own.is_empty() && below.is_empty() {
        page.push_str(&format!("\n{}", arguments(&own)));
    }
    for command in below {
        describe(page, command, &format!("{path} {}", command.get_name()));
    }
}

fn arguments(arguments: &[&Arg]) -> String {
    let rows: Vec<_> = arguments
        .iter()
        .map(|argument| vec![code(&written(argument)), meaning(argument)])
        .collect();
    table(&["argument", "meaning"], &rows)
}

/// Returns an argument as it is written on the command line.
fn written(argument: &Arg) -> String {
    let values = argument.get_value_names().unwrap_or_default();
    let values: Vec<String> = values.iter().map(|name| format!("<{name}>")).collect();
    if argument.is_positional() {
        let text = values.join(" ");
        return match argument.is_required_set() {
            true => text,
            false => format!("[{text}]"),
        };
    }
    let short = argument.get_short().map(|short| format!("-{short}"));
    let long = argument.get_long().map(|long| format!("--{long}"));
    let aliases = argument.get_visible_aliases().unwrap_or_default();
    let aliases = aliases.into_iter().map(|alias| format!("--{alias}"));
    let names: Vec<String> = short.into_iter().chain(long).chain(aliases).collect();
    let mut text = names.join(", ");
    if argument.get_action().takes_values() {
        text.push_str(&format!(" {}", values.join(" ")));
    }
    text
}

fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or_else(|| argument.get_help());
    let help = help
        .unwrap_or_else(|| panic!("`{}` has no help", argument.get_id()))
        .to_string();
    // A default that depends on something is part of the text.
    let (help, default) = match help.split_once(" [default: ") {
        Some((help, default)) => (help, default.strip_suffix(']')),
        None => (help.as_str(), None),
    };
    let mut text = sentence(help);
    let mut add = |title: &str, values: Vec<String>| {
        if !values.is_empty() {
            text.push_str(&format!(" {title}: {}.", values.join(", ")));
        }
    };
    add("Default", default.into_iter().map(str::to_owned).collect());
    if argument.get_action().takes_values() {
        let values = argument.get_possible_values();
        add(
            "Values",
            values.iter().map(|value| code(value.get_name())).collect(),
        );
        let defaults = argument.get_default_values().iter();
        add(
            "Default",
            defaults
                .map(|value| code(&value.to_string_lossy()))
                .filter(|value| !value.is_empty())
                .collect(),
        );
    }
    let variable = argument.get_env().map(|name| code(&name.to_string_lossy()));
    add("Environment", variable.into_iter().collect());
    text
}

/// Returns a text with the full stop that clap takes away.
fn sentence(text: &str) -> String {
    format!("{}.", text.trim_end_matches('.'))
}

/// Every example is a command line that the command accepts.
fn check_examples(text: &str) {
    let lines = text.lines().filter(|line| line.starts_with("  sluice "));
    for example in lines.flat_map(|line| line.split(" | ")) {
        // A redirection is not an argument.
        let (example, _) = example.split_once(" > ").unwrap_or((example, ""));
        let mut words = Vec::new();
        for (place, part) in example.split('\'').enumerate() {
            match place % 2 {
                0 => words.extend(part.split_whitespace()),
                _ => words.push(part),
            }
        }
        if let Err(error) = sluice_cli::command().try_get_matches_from(words) {
            panic!("`{example}`: {error}");
        }
    }
}
