//! `candor sight`: what a vision-language model sees, and what it says.

mod page;
pub(in crate::cli) mod probe;
pub(in crate::cli) mod stages;
pub(in crate::cli) mod tasks;

use clap::{Args, Subcommand};

use crate::Result;
use crate::cli::show::output::Output;

/// Make pictures with questions, and find where a vision-language model knows the answers
#[derive(Debug, Args)]
pub(in crate::cli) struct SightArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Tasks(tasks::TasksArgs),
    // Its arguments are many.
    Probe(Box<probe::ProbeArgs>),
}

/// A command, where options that many share say what they mean to `sight probe`.
pub(in crate::cli) fn described(command: clap::Command) -> clap::Command {
    match command.get_name() {
        "sight" => command.mut_subcommands(described),
        "probe" => command.mut_args(|arg| match arg.get_id().as_str() {
            "model" => arg.help(
                "The model, which sees: a GGUF file, or hf:OWNER/REPO[:QUANT] for one on Hugging Face \
                 (also -hf OWNER/REPO[:QUANT]) [default: the built-in model that sees]",
            ),
            "data" => arg.help(
                "Questions with a picture each: JSONL, such as the tasks.jsonl that `candor sight tasks` \
                 writes",
            ),
            _ => arg,
        }),
        _ => command,
    }
}

impl SightArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        match &self.command {
            Command::Tasks(args) => args.run(output),
            Command::Probe(args) => args.run(output),
        }
    }
}
