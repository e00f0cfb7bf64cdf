//! `candor manual` and `candor completions`: what the program knows of itself, for other programs.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Arg, Args, Command};
use clap_complete::Shell;

use crate::cli::help;
use crate::cli::show::output::Output;
use crate::{Error, Result};

/// Print a script that completes candor's commands in a shell
#[derive(Debug, Args)]
pub(in crate::cli) struct CompletionsArgs {
    /// The shell: bash, zsh, fish, elvish or powershell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl CompletionsArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::cli::command_line(), "candor", &mut script);
        output.text(&String::from_utf8_lossy(&script));
        Ok(())
    }
}

/// Write man pages into a folder, or the reference of all commands as Markdown
#[derive(Debug, Args)]
pub(in crate::cli) struct ManualArgs {
    /// The folder for candor.1, candor-fit.1 and so on.
    #[arg(value_name = "FOLDER", required_unless_present = "markdown")]
    folder: Option<PathBuf>,

    /// Print one Markdown page instead.
    #[arg(long, conflicts_with = "folder")]
    markdown: bool,
}

impl ManualArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        let mut command = crate::cli::command_line();
        match &self.folder {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
                clap_mangen::generate_to(command, folder)
                    .map_err(Error::io("write into", folder))?;
                output.wrote(folder);
            }
            None => {
                command.build();
                output.text(&markdown(&command));
            }
        }
        Ok(())
    }
}

/// The commands below one, as help lists them.
fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
}

/// All commands, by what people want.
fn markdown(command: &Command) -> String {
    let mut text = "# Commands\n\nGenerated from the program's own descriptions. Results go to \
                    stdout, everything else to stderr; with `--json`, stdout is [one JSON \
                    document](json.md). The exit code is 0 for success, 1 for a failure, 2 for wrong \
                    usage, and 130 after Ctrl-C.\n"
        .to_owned();
    for (group, names) in help::grouped(command) {
        // Writing into a string cannot fail.
        let _ = writeln!(text, "\n## {group}");
        for name in names {
            if let Some(below) = command.find_subcommand(&name) {
                section(&mut text, below, "candor");
            }
        }
    }
    text
}

/// What a command does, its arguments under their headings, its examples; then the ones below it.
fn section(text: &mut String, command: &Command, parent: &str) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_long_about().or_else(|| command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(text, "\n### {name}\n\n{}", escaped(about.trim()));
    let own: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !arg.is_global_set() && arg.get_id() != "help")
        .filter(|arg| arg.get_id() != "version")
        .collect();
    let mut headings: Vec<Option<&str>> = own.iter().map(|arg| arg.get_help_heading()).collect();
    headings.sort_by_key(|heading| heading.is_some());
    let mut seen = Vec::new();
    headings.retain(|heading| {
        !seen.contains(heading) && {
            seen.push(*heading);
            true
        }
    });
    for heading in headings {
        if let Some(heading) = heading {
            let _ = writeln!(text, "\n**{heading}**");
        }
        text.push_str("\n| | |\n|---|---|\n");
        for arg in own.iter().filter(|arg| arg.get_help_heading() == heading) {
            let _ = writeln!(text, "| {} | {} |", spelling(arg), meaning(arg));
        }
    }
    if let Some(examples) = help::examples(name.trim_start_matches("candor ")) {
        let _ = writeln!(text, "\n```text\n{examples}\n```");
    }
    for below in shown(command) {
        section(text, below, &name);
    }
}

/// `-k, --heads <K>`, as code.
fn spelling(arg: &Arg) -> String {
    let value = arg.get_value_names().unwrap_or_default().iter().map(|name| format!("<{name}>"));
    let takes_value = arg.get_action().takes_values();
    let value = value.filter(|_| takes_value).collect::<Vec<_>>().join(" ");
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let names = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    format!("`{}`", format!("{names} {value}").trim())
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string);
    let help = help.unwrap_or_default().replace('\n', " ");
    let default: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if default.is_empty() || !arg.get_action().takes_values() {
        return escaped(&help);
    }
    format!("{} (default: `{}`)", escaped(&help), default.join(" ").replace('|', "\\|"))
}

/// Markdown that means these words and nothing else; what stands between backticks stays code.
fn escaped(text: &str) -> String {
    let mut is_code = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '`' => is_code = !is_code,
            '<' if !is_code => {
                out.push_str("&lt;");
                continue;
            }
            '*' | '_' | '[' | ']' | '{' | '}' if !is_code => out.push('\\'),
            '|' => out.push('\\'),
            _ => {}
        }
        out.push(c);
    }
    out
}

/// Of the program as people install it.
#[cfg(all(test, unix, feature = "serve", feature = "sight"))]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_page_of_commands_is_what_the_program_says() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/reference/commands.md");
        let mut command = crate::cli::command_line();
        command.build();
        let page = markdown(&command);
        if std::env::var_os("CANDOR_WRITE_COMMANDS").is_some() {
            std::fs::write(&path, &page).unwrap();
        }
        let on_disk = std::fs::read_to_string(&path).unwrap_or_default();
        let remedy = "run CANDOR_WRITE_COMMANDS=1 cargo test --release --lib manual";
        assert!(on_disk.replace("\r\n", "\n") == page, "commands.md is out of date: {remedy}");
    }
}
