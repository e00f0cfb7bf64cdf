//! What help shows beyond the descriptions of arguments: subcommands by what people want, examples,
//! and the spellings of llama.cpp's programs.

use std::ffi::OsString;
use std::fmt::Write as _;

use clap::builder::styling::Style;
use clap::{Arg, ArgAction, Args as _, Command};

use crate::cli::args::activations::StoreArgs;
use crate::cli::args::asking::AskArgs;
use crate::cli::args::data::DataArgs;
use crate::cli::args::judge::JudgeArgs;
use crate::cli::args::model::ModelArgs;
use crate::cli::args::provenance::ProvenanceArgs;
use crate::cli::args::sampling::SamplingArgs;
use crate::cli::args::select::SelectArgs;
use crate::cli::args::steer::{GateArgs, SteerArgs};

/// Subcommands, by what people want.
pub(in crate::cli) const GROUPS: [(&str, &[&str]); 5] = [
    ("Use", &["chat", "run", "serve", "attach", "inspect"]),
    ("Make", &["fit", "sweep", "capture", "import", "mix"]),
    ("Measure", &["demo", "eval", "transfer", "bench", "sight"]),
    ("Share", &["bake", "export", "card"]),
    ("Machines", &["devices", "worker", "completions", "manual"]),
];

/// What a person would type, at the end of a command's help. `command` is its name behind those of
/// the commands it belongs to, as in `bench capture`.
pub(in crate::cli) fn examples(command: &str) -> Option<&'static str> {
    Some(match command {
        "chat" => {
            "\
candor chat -m model.gguf                       with the vector beside the model
candor chat -m model.gguf --steer none          without one
candor chat -m model.gguf --steer calm.gguf --alpha 5"
        }
        "run" => {
            "\
candor run -m model.gguf -p \"Q: Can you sweat out toxins? A:\"
candor run -m model.gguf --chat -p \"Can you sweat out toxins?\"
echo \"Once upon a time\" | candor run -m model.gguf -p - --temp 0 -n 50"
        }
        "attach" => {
            "\
candor attach -- llama-server -m model.gguf              with the vector beside the model
candor attach --slot 0=4 --slot 1=12 -- llama-server -m model.gguf -np 2
candor attach --set alpha=8 4711                         while it runs, by its process ID"
        }
        "serve" => {
            "\
candor serve -m model.gguf
candor serve -m model.gguf --vectors vectors --parallel 8 -c 16384
curl http://localhost:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \"user\", \"content\":
  \"Can you sweat out toxins?\"}], \"steering\": \"truth*0.5\"}'"
        }
        "inspect" => {
            "\
candor inspect model.gguf
candor inspect steer-TruthfulQA-model.gguf
candor inspect steer-TruthfulQA-model.gguf --verify -m model.gguf"
        }
        "fit" => {
            "\
candor fit -m model.gguf --data TruthfulQA.csv                     the paper's K and alpha
candor fit -m model.gguf --data TruthfulQA.csv --tune              K and alpha by trying
candor fit -m model.gguf --data TruthfulQA.csv --select causal --kl-budget 0.2
candor fit -m model.gguf --data facts.csv --plot heads.svg"
        }
        "sweep" => {
            "\
candor sweep -m model.gguf --data TruthfulQA.csv --report sweep
candor sweep -m model.gguf --data TruthfulQA.csv --heads 16,32,48 --alpha 5,10,15
candor sweep -m model.gguf --data TruthfulQA.csv --select causal --kl-budget 0.3"
        }
        "capture" => {
            "\
candor capture -m model.gguf --data TruthfulQA.csv -o heads.safetensors"
        }
        "import" => {
            "\
candor import mood.gguf -m model.gguf
candor import 'mood.gguf*0.5' 'style.gguf*0.2' -m model.gguf --name both
candor import -m model.gguf --heads top_heads.npy --directions com_directions.npy --sigma sigmas.npy"
        }
        "mix" => {
            "\
candor mix 'truth.gguf*0.7' 'style.gguf*-0.3' -o both.gguf"
        }
        "demo" => {
            "\
candor demo
candor demo --select causal --json"
        }
        "eval" => {
            "\
candor eval -m model.gguf --data TruthfulQA.csv --cv 2 --report report
candor eval -m model.gguf --data TruthfulQA.csv --steer none --limit 100
candor eval -m model.gguf --data TruthfulQA.csv --cv 2 --judge gguf:judge.gguf --report report"
        }
        "transfer" => {
            "\
candor transfer -m model.gguf --data cities.csv --data facts.csv --report transfer"
        }
        "bench" => {
            "\
candor bench -m model.gguf
candor bench -m model.gguf --sequences 32 --vectors 32
candor bench select -m model.gguf"
        }
        "bench capture" => "candor bench capture -m model.gguf --data TruthfulQA.csv --limit 50",
        "bench probe" => {
            "\
candor bench probe
candor bench probe --activations heads.safetensors"
        }
        "bench select" => "candor bench select -m model.gguf --data TruthfulQA.csv",
        "sight" => {
            "\
candor sight tasks pictures
candor sight probe --data pictures/tasks.jsonl                the built-in model that sees
candor sight probe --data pictures/tasks.jsonl -m model.gguf --mmproj mmproj.gguf"
        }
        "sight tasks" => {
            "\
candor sight tasks pictures
candor sight tasks pictures --tasks number,length -n 100 --difficulty hard"
        }
        "sight probe" => {
            "\
candor sight probe --data pictures/tasks.jsonl                the built-in model that sees
candor sight probe --data pictures/tasks.jsonl -m model.gguf --mmproj mmproj.gguf --report report"
        }
        "bake" => {
            "\
candor bake -m model.gguf -o model-truthful.gguf
candor bake -m model.gguf --steer truth.gguf --alpha 5 -o model-truthful.gguf --check"
        }
        "export" => {
            "\
candor export --format control-vector -m model.gguf --data TruthfulQA.csv"
        }
        "card" => {
            "\
candor card -m model.gguf --steer steer-TruthfulQA-model.gguf --report report/report.json"
        }
        "devices" => "candor devices",
        "worker" => {
            "\
candor worker --listen 192.168.1.7:50052        on one machine
candor run --rpc 192.168.1.7:50052 -m model.gguf -p \"Hello\"     on another"
        }
        "completions" => {
            "\
candor completions bash > ~/.local/share/bash-completion/completions/candor
candor completions zsh > ~/.zfunc/_candor"
        }
        "manual" => {
            "\
candor manual ~/.local/share/man/man1           then: man candor-fit"
        }
        _ => return None,
    })
}

/// The subcommands that are there, by group; those that no group names come last.
pub(in crate::cli) fn grouped(command: &Command) -> Vec<(&'static str, Vec<String>)> {
    let there: Vec<&str> = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set() && below.get_name() != "help")
        .map(Command::get_name)
        .collect();
    let is_named = |name: &&str| GROUPS.iter().any(|(_, names)| names.contains(name));
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let named = GROUPS.map(|(group, names)| {
        (group, owned(names.iter().copied().filter(|name| there.contains(name)).collect()))
    });
    let more = owned(there.iter().copied().filter(|name| !is_named(name)).collect());
    named.into_iter().chain([("More", more)]).filter(|(_, names)| !names.is_empty()).collect()
}

/// The same command line, with its help arranged.
pub(in crate::cli) fn arranged(command: Command) -> Command {
    let bold = Style::new().bold();
    let mut groups = String::new();
    for (group, names) in grouped(&command) {
        let _ = writeln!(groups, "\n{bold}{group}{bold:#}");
        for name in names {
            let about = command.find_subcommand(&name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(groups, "  {name:<12} {about}");
        }
    }
    let template = format!(
        "{{about-with-newline}}\n{bold}Usage{bold:#}\n  {{usage}}\n{groups}\n{bold}Options{bold:#}\n\
         {{options}}{{after-help}}"
    );
    let last = "`candor help COMMAND` describes a command and gives examples. Without -m, every command uses \
                the\nsmall built-in model.";
    let command = command.help_template(template).after_help(last);
    command.mut_subcommands(|below| with_examples(below, "")).mut_subcommands(with_headings)
}

/// The same command, where only what several commands share stands under a heading of its own. (Clap
/// lets a group's heading reach on to the arguments after it.)
fn with_headings(command: Command) -> Command {
    let group = |augment: fn(Command) -> Command| augment(Command::new("group"));
    let groups = [
        group(ModelArgs::augment_args),
        group(DataArgs::augment_args),
        group(StoreArgs::augment_args),
        group(SteerArgs::augment_args),
        group(GateArgs::augment_args),
        group(SamplingArgs::augment_args),
        group(SelectArgs::augment_args),
        group(AskArgs::augment_args),
        group(JudgeArgs::augment_args),
        group(ProvenanceArgs::augment_args),
    ];
    let is_shared = |arg: &Arg| {
        let same = |other: &Arg| {
            other.get_id() == arg.get_id() && other.get_help_heading() == arg.get_help_heading()
        };
        groups.iter().any(|group| group.get_arguments().any(same))
    };
    let command = command
        .mut_args(|arg| if is_shared(&arg) { arg } else { arg.help_heading(None::<&'static str>) });
    let help = Arg::new("help")
        .short('h')
        .long("help")
        .action(ArgAction::Help)
        .help_heading("General")
        .help("Print help");
    command.disable_help_flag(true).arg(help).mut_subcommands(with_headings)
}

fn with_examples(command: Command, parent: &str) -> Command {
    let bold = Style::new().bold();
    let name = format!("{parent}{}", command.get_name());
    let command = match examples(&name) {
        Some(examples) => {
            let indented = examples.replace('\n', "\n  ");
            command.after_help(format!("{bold}Examples:{bold:#}\n  {indented}"))
        }
        None => command,
    };
    command.mut_subcommands(|below| with_examples(below, &format!("{name} ")))
}

/// llama.cpp's spellings: options of several letters behind one dash, and what candor calls otherwise.
const SPELLINGS: [(&str, &str); 9] = [
    ("-ngl", "--n-gpu-layers"),
    ("--gpu-layers", "--n-gpu-layers"),
    ("-dev", "--device"),
    ("-np", "--parallel"),
    ("-cnv", "--chat"),
    ("--prompt-file", "--file"),
    ("-sys", "--system"),
    ("--system-prompt", "--system"),
    ("--predict", "--n-predict"),
];

/// A command line in candor's spelling; the error says what to write instead.
pub(in crate::cli) fn spelled(
    words: impl Iterator<Item = OsString>,
) -> Result<Vec<OsString>, String> {
    let mut words = words.peekable();
    let mut spelled = Vec::new();
    let (mut keys, mut values) = (None, None);
    let mut is_text = false;
    while let Some(word) = words.next() {
        // What follows `-p` is a text, whatever it looks like.
        if std::mem::replace(&mut is_text, word == "-p" || word == "--prompt") {
            spelled.push(word);
            continue;
        }
        match word.to_str() {
            // Words of another program.
            Some("--") => {
                spelled.push(word);
                spelled.extend(words.by_ref());
            }
            Some("-hf" | "-hfr" | "--hf-repo") => {
                let name = words.next().unwrap_or_default();
                let mut model = OsString::from("hf:");
                model.push(name);
                spelled.extend(["--model".into(), model]);
            }
            Some("-ctk" | "--cache-type-k") => keys = words.next(),
            Some("-ctv" | "--cache-type-v") => values = words.next(),
            Some("-fa" | "--flash-attn") => match words.peek().and_then(|next| next.to_str()) {
                Some("on" | "auto" | "1" | "true" | "enabled") => drop(words.next()),
                Some("off" | "0" | "false" | "disabled") => {
                    return Err("candor's program always uses flash attention where the model \
                                supports it: leave -fa out (in the library: \
                                SessionParams::flash_attention)"
                        .to_owned());
                }
                _ => {}
            },
            text => {
                let ours = SPELLINGS.iter().find(|(theirs, _)| text == Some(*theirs));
                spelled.push(ours.map_or(word.clone(), |(_, ours)| (*ours).into()));
            }
        }
    }
    match (keys, values) {
        (None, None) => {}
        (Some(keys), Some(values)) if keys == values => spelled.extend(["--cache".into(), keys]),
        (keys, values) => {
            let kind = keys.or(values).unwrap_or_default();
            return Err(format!(
                "candor stores keys and values in one type: give -ctk and -ctv the same one, or \
                 --cache {}",
                kind.to_string_lossy()
            ));
        }
    }
    Ok(spelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled_out(line: &str) -> Result<String, String> {
        let words = spelled(line.split(' ').map(OsString::from))?;
        Ok(words.join(" ".as_ref()).into_string().unwrap_or_default())
    }

    #[test]
    fn what_llama_cpp_understands_is_understood() {
        for (theirs, ours) in [
            ("run -ngl 3 --predict 5", "run --n-gpu-layers 3 --n-predict 5"),
            ("run -hf o/r:Q4_0", "run --model hf:o/r:Q4_0"),
            ("run -ctk q8_0 -ctv q8_0 -p x", "run -p x --cache q8_0"),
            ("run -fa -p x", "run -p x"),
            ("run -fa on -p x", "run -p x"),
            ("run -p -fa", "run -p -fa"),
            ("chat -sys hello", "chat --system hello"),
        ] {
            assert_eq!(spelled_out(theirs).as_deref(), Ok(ours), "{theirs}");
        }
        assert!(spelled_out("run -ctk q8_0").unwrap_err().contains("--cache q8_0"));
        assert!(spelled_out("run -ctk q8_0 -ctv f16").unwrap_err().contains("--cache q8_0"));
        assert!(spelled_out("run -fa off").unwrap_err().contains("leave -fa out"));
    }

    #[test]
    fn every_command_is_shown_and_its_examples_parse() {
        let line = crate::cli::command_line();
        let groups = grouped(&line);
        let mut shown: Vec<&str> =
            groups.iter().flat_map(|(_, names)| names).map(String::as_str).collect();
        let mut there: Vec<&str> = line
            .get_subcommands()
            .filter(|command| !command.is_hide_set())
            .map(Command::get_name)
            .collect();
        shown.sort_unstable();
        there.sort_unstable();
        assert_eq!(shown, there);
        let nested = line.get_subcommands().flat_map(|command| {
            let below = command.get_subcommands().filter(|below| below.get_name() != "help");
            below.map(|below| format!("{} {}", command.get_name(), below.get_name()))
        });
        let all: Vec<String> = there.iter().map(ToString::to_string).chain(nested).collect();
        for name in &all {
            let examples = examples(name).unwrap_or_else(|| panic!("{name} has no example"));
            // What is asked of the server by other means is no command of candor's.
            let own = examples.lines().take_while(|line| !line.starts_with("curl "));
            for example in own {
                // What stands after several spaces is a remark.
                let command = example.split("   ").next().unwrap_or_default();
                let command = command.split(" > ").next().unwrap_or_default();
                let start = command.find("candor ").unwrap_or_else(|| panic!("{example}"));
                let words = shlex::split(&command[start..]).unwrap_or_else(|| panic!("{example}"));
                let words = spelled(words.into_iter().map(OsString::from)).unwrap();
                let parsed = crate::cli::command_line().try_get_matches_from(words);
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }
}
