//! The program, run as a user runs it.

use std::path::Path;

use assert_cmd::Command;

/// `candor` with a cache folder of its own and no colours.
pub fn candor(cache: &Path) -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("candor"));
    command.env("CANDOR_CACHE", cache).env("NO_COLOR", "1");
    command
}

/// What the program says when it refuses to work: a line on stderr, the last one, nothing on stdout, code 1.
pub fn refusal(command: &mut Command) -> String {
    refused(command, 1)
}

/// The same of wrong usage: code 2.
pub fn misuse(command: &mut Command) -> String {
    refused(command, 2)
}

fn refused(command: &mut Command, code: i32) -> String {
    let output = command.assert().code(code).get_output().clone();
    let stderr = String::from_utf8(output.stderr).expect("the program writes UTF-8");
    assert!(output.stdout.is_empty(), "a refusal prints no result");
    // Notes may stand before it.
    let error = stderr.find("error: ").filter(|&at| at == 0 || stderr[..at].ends_with('\n'));
    stderr[error.unwrap_or_else(|| panic!("{stderr}"))..].to_owned()
}

/// The one JSON document that a command prints.
pub fn json(command: &mut Command) -> serde_json::Value {
    let output = command.arg("--json").assert().success().get_output().clone();
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON document")
}
