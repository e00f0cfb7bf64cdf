//! The program: arguments are described here, turned into typed options, and never seen by the
//! work. `command` has a file or folder per subcommand, `args` what several of them take, `show` what
//! people see; results go to stdout, everything else to stderr.

mod args;
mod command;
mod embedded;
mod folders;
mod help;
mod hub;
mod interrupt;
mod schemas;
mod sets;
mod show;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

#[cfg(unix)]
use self::command::attach;
#[cfg(feature = "serve")]
use self::command::serve;
#[cfg(feature = "sight")]
use self::command::sight;
use self::command::{
    bake, bench, capture, card, chat, demo, devices, eval, export, fit, import, inspect, manual,
    mix, run, sweep, transfer, worker,
};
use self::show::document::{Failure, exit_code};
use self::show::output::Output;
use self::show::target::{refuse_clobber, tell_replaced};
use crate::session::CacheType;

/// Steer quantized language models by their attention heads
#[derive(Debug, Parser)]
#[command(name = "candor", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Show llama.cpp's log on stderr.
    #[arg(short, long, global = true, help_heading = "General")]
    verbose: bool,

    /// Write one JSON document to stdout instead of text.
    #[arg(long, global = true, help_heading = "General")]
    json: bool,

    /// Refuse to replace a file that is there.
    #[arg(long, global = true, help_heading = "General")]
    no_clobber: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Capture(capture::CaptureArgs),
    Fit(fit::FitArgs),
    Eval(eval::EvalArgs),
    Sweep(sweep::SweepArgs),
    Transfer(transfer::TransferArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    Mix(mix::MixArgs),
    Card(card::CardArgs),
    Run(run::RunArgs),
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    Chat(chat::ChatArgs),
    #[cfg(unix)]
    Attach(attach::AttachArgs),
    Bake(bake::BakeArgs),
    Bench(bench::BenchArgs),
    Inspect(inspect::InspectArgs),
    #[cfg(feature = "sight")]
    Sight(sight::SightArgs),
    Devices(devices::DevicesArgs),
    Worker(worker::WorkerArgs),
    Completions(manual::CompletionsArgs),
    Manual(manual::ManualArgs),
}

/// The same command, where `-1` after an option is its value: whoever allows no such number says which
/// it takes, and clap does not call it an unexpected argument.
fn taking_negative_numbers(command: clap::Command) -> clap::Command {
    command
        .mut_args(|arg| {
            let takes_value = arg.get_action().takes_values() && !arg.is_positional();
            if takes_value { arg.allow_negative_numbers(true) } else { arg }
        })
        .mut_subcommands(taking_negative_numbers)
}

/// The whole command line, as it is parsed and as help shows it.
pub(in crate::cli) fn command_line() -> clap::Command {
    let line = taking_negative_numbers(help::arranged(Cli::command()));
    #[cfg(feature = "sight")]
    let line = line.mut_subcommands(sight::described);
    line
}

/// Wrong usage of the command that these words name, with its own line of usage.
fn misused(words: &[OsString], kind: ErrorKind, problem: String) -> clap::Error {
    fn within(
        command: &mut clap::Command,
        words: &[OsString],
        (kind, problem): (ErrorKind, String),
    ) -> clap::Error {
        for (word, rest) in words.iter().zip(1..).map(|(word, n)| (word, &words[n..])) {
            if let Some(found) = command.find_subcommand_mut(word) {
                return within(found, rest, (kind, problem));
            }
        }
        command.error(kind, problem)
    }
    let mut line = command_line();
    line.build();
    within(&mut line, words.get(1..).unwrap_or_default(), (kind, problem))
}

/// What is wrong with the first type of llama.cpp's `-ctk` and `-ctv` that is none.
fn unknown_cache(words: &[OsString]) -> Option<String> {
    let options = ["-ctk", "--cache-type-k", "-ctv", "--cache-type-v"];
    let named = words.windows(2).take_while(|pair| pair[0] != "--");
    let mut named = named.filter(|pair| options.iter().any(|option| pair[0] == *option));
    named.find_map(|pair| {
        let error = pair[1].to_string_lossy().parse::<CacheType>().err()?;
        Some(error.to_string())
    })
}

/// Runs the program: 0 when it did what was asked, 1 when it could not, 2 for wrong usage.
#[must_use]
pub fn main() -> ExitCode {
    let is_json = std::env::args_os().any(|word| word == "--json");
    // Help and the version are no failures.
    let fail = |error: clap::Error| -> ! {
        if is_json && error.use_stderr() {
            Output::new(true).json(&Failure::of_usage(&error.to_string()));
        }
        error.exit()
    };
    let words = help::spelled(std::env::args_os()).unwrap_or_else(|problem| {
        let words: Vec<OsString> = std::env::args_os().collect();
        let problem = unknown_cache(&words).unwrap_or(problem);
        fail(misused(&words, ErrorKind::InvalidValue, problem))
    });
    let matches = command_line().try_get_matches_from(&words);
    let cli = matches
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .unwrap_or_else(|error| fail(error));
    #[cfg(unix)]
    if let Command::Attach(args) = &cli.command
        && let Err(problem) = args.check()
    {
        fail(misused(&words, ErrorKind::MissingRequiredArgument, problem));
    }
    crate::set_verbose(cli.verbose);
    refuse_clobber(cli.no_clobber);
    let output = Output::new(cli.json);
    let result = match cli.command {
        Command::Demo(args) => args.run(output),
        Command::Capture(args) => args.run(output),
        Command::Fit(args) => args.run(output),
        Command::Eval(args) => args.run(output),
        Command::Sweep(args) => args.run(output),
        Command::Transfer(args) => args.run(output),
        Command::Export(args) => args.run(output),
        Command::Import(args) => args.run(output),
        Command::Mix(args) => args.run(output),
        Command::Card(args) => args.run(output),
        Command::Run(args) => args.run(output),
        #[cfg(feature = "serve")]
        Command::Serve(args) => args.run(output),
        Command::Chat(args) => args.run(output),
        #[cfg(unix)]
        Command::Attach(args) => args.run(output),
        Command::Bake(args) => args.run(output),
        Command::Bench(args) => args.run(output),
        Command::Inspect(args) => args.run(output),
        #[cfg(feature = "sight")]
        Command::Sight(args) => args.run(output),
        Command::Devices(args) => args.run(output),
        Command::Worker(args) => args.run(output, cli.verbose),
        Command::Completions(args) => args.run(output),
        Command::Manual(args) => args.run(output),
    };
    match result {
        Ok(()) => {
            tell_replaced();
            ExitCode::SUCCESS
        }
        Err(error) => {
            output.failure(&error);
            if let Some(command) = show::again::with_a_vector(&error, &words) {
                output.aside(format_args!("for the newest: {command}"));
            }
            ExitCode::from(exit_code(&error))
        }
    }
}
