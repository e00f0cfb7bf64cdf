//! `candor attach`: a vector for a program that runs llama.cpp already.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::cli::args::parts::{Part, combine};
use crate::cli::args::steer::{SteerArgs, Subject};
use crate::cli::args::values::finite;
use crate::cli::folders::cache_folder;
use crate::cli::show::document::{usage, with_causes};
use crate::cli::show::output::Output;
use crate::cli::show::table::{counted, printable_line, short};
use crate::cli::show::target::check_target;
use crate::data::sha256;
use crate::file::write_atomically;
use crate::gguf::Gguf;
use crate::plugin::{
    DEFAULT_SLOT, LIBRARY, PLAN, PLAN_PID, PRELOAD, Plan, Socket, runtime_folder, sweep,
};
use crate::steer::{Positions, Sidecar};
use crate::{Error, Geometry, Result, fingerprint};

/// Steer a program that runs llama.cpp already, such as llama-server.
///
/// Starts the program unchanged, with a small library preloaded that adds the vector to its model's
/// heads, on every device and in every batch. If the program's llama.cpp is not one that candor
/// knows, or it runs another model, nothing is steered; a line on stderr says what happened.
/// Strength and vector can be changed while it runs.
#[derive(Debug, Args)]
pub(in crate::cli) struct AttachArgs {
    /// The program's model [default: what its own -m or --model says].
    #[arg(short, long, value_name = "GGUF")]
    model: Option<PathBuf>,

    #[command(flatten)]
    steer: SteerArgs,

    /// Tokens to steer: `generated` or `all` [default: the sidecar's own].
    #[arg(long, value_name = "POSITIONS")]
    policy: Option<Positions>,

    /// A separate strength for one slot of llama-server (its `id_slot`); may be repeated.
    #[arg(long = "slot", value_name = "N=ALPHA", value_parser = slot)]
    slots: Vec<(u32, f32)>,

    /// Change a running program, given its process ID: alpha=X, slot.N=X, policy=POSITIONS or
    /// steer=FILE; may be repeated.
    #[arg(
        long,
        value_name = "NAME=VALUE",
        value_parser = set,
        requires = "pid",
        conflicts_with = "program"
    )]
    set: Vec<String>,

    /// Show what steers a running program, given its process ID.
    #[arg(long, requires = "pid", conflicts_with_all = ["program", "set"])]
    status: bool,

    /// Write the library to a file, to load it in another way, and exit.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["program", "pid"])]
    library: Option<PathBuf>,

    /// Process ID, for --set and --status.
    #[arg(value_name = "PID")]
    pid: Option<u32>,

    /// The program and its arguments.
    #[arg(last = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// What to type where there is neither.
const NO_PROGRAM: &str = "name one after --, as in `candor attach -- llama-server -m model.gguf`, or \
                          give the process ID of a running one";

/// What a running program was told, so that another call can change a part of it.
#[derive(Debug, Default, Clone, PartialEq, schemars::JsonSchema, Serialize, Deserialize)]
pub(in crate::cli) struct Settings {
    /// The model's file.
    model: PathBuf,
    /// Sidecars, each maybe times a factor.
    steer: Vec<String>,
    /// The strength, where it is not the sidecar's own.
    alpha: Option<f32>,
    /// Strengths of slots.
    slots: BTreeMap<u32, f32>,
    /// Which tokens, where not as the sidecar says.
    policy: Option<String>,
    /// Whether sidecars of other models are taken.
    force: bool,
}

/// What `--json` prints of a running program.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(in crate::cli) struct Report {
    pid: u32,
    state: String,
    n_token: u64,
    settings: Option<Settings>,
}

impl AttachArgs {
    pub(in crate::cli) fn run(&self, output: Output) -> Result<()> {
        if let Some(path) = &self.library {
            check_target(path, &[])?;
            write_atomically(path, |out| out.write_all(LIBRARY))?;
            output.line(path.display());
            return Ok(());
        }
        match (self.pid, self.program.split_first()) {
            (Some(pid), _) if self.set.is_empty() => show(pid, output),
            (Some(pid), _) => self.change(pid, output),
            (None, Some((program, rest))) => self.start(program, rest, output),
            (None, None) => Err(Error::invalid("program", NO_PROGRAM)),
        }
    }

    /// Whether there is something to do.
    pub(in crate::cli) fn check(&self) -> Result<(), String> {
        match (&self.library, self.pid, self.program.is_empty()) {
            (None, None, true) => Err(format!("there is no program: {NO_PROGRAM}")),
            (None, Some(pid), false) => Err(format!(
                "process {pid} runs already, and a program after -- would be started: give one of the two"
            )),
            _ => Ok(()),
        }
    }

    /// Becomes the program, with the library loaded before its own.
    fn start(&self, program: &OsString, rest: &[OsString], output: Output) -> Result<()> {
        let mut command = Command::new(program);
        command.args(rest);
        let path = match self.model.clone().or_else(|| model_of(rest)) {
            Some(path) => path,
            None => {
                let problem = "its arguments name no model (-m): name it with --model before the \
                               --";
                return Err(Error::invalid("the program's model", problem));
            }
        };
        if let Some((settings, sidecar)) = self.settings(&path, output)? {
            let (bytes, label) = settings.plan(&sidecar)?;
            let folder = runtime_folder()?;
            sweep(&folder);
            let pid = std::process::id();
            let plan = folder.join(format!("{pid}.plan"));
            write_atomically(&plan, |out| out.write_all(&bytes))?;
            command.env(PLAN, plan).env(PLAN_PID, pid.to_string());
            command.env(PRELOAD, preloaded(&library()?));
            let program = Path::new(program).display();
            output.aside(format_args!("{program} is steered by {label}"));
        }
        Err(Error::io("start", Path::new(program))(command.exec()))
    }

    /// What is to be done, and the vector; `None` where there is none for this model.
    fn settings(&self, path: &Path, output: Output) -> Result<Option<(Settings, Sidecar)>> {
        let file = Gguf::open_model(path)?;
        let Some((found, sidecar)) =
            self.steer.sidecar_at(self.policy, subject(path, &file)?, output)?
        else {
            output.warn("there is no vector for this model: the program runs as it is");
            return Ok(None);
        };
        let absolute = |path: &Path| std::path::absolute(path).map_err(Error::io("find", path));
        let steer = match self.steer.parts() {
            Some(parts) => parts
                .iter()
                .map(|part| {
                    let part = Part { path: absolute(&part.path)?, ..part.clone() };
                    Ok(part.to_string())
                })
                .collect::<Result<Vec<_>>>()?,
            None => vec![absolute(&found)?.display().to_string()],
        };
        let settings = Settings {
            model: absolute(path)?,
            steer,
            alpha: self.steer.given_alpha(),
            slots: self.slots.iter().copied().collect(),
            policy: self.policy.map(|policy| policy.to_string()),
            force: self.steer.is_forced(),
        };
        Ok(Some((settings, sidecar)))
    }

    /// Gives a running program a plan that differs in some settings.
    fn change(&self, pid: u32, output: Output) -> Result<()> {
        let socket = Socket::of(pid)?;
        let mut settings = parse(&socket.status()?.settings, pid)?;
        for change in &self.set {
            settings
                .change(change)
                .map_err(|problem| usage(Error::invalid(format!("--set {change}"), problem)))?;
        }
        let sidecar = settings.sidecar()?;
        let (bytes, label) = settings.plan(&sidecar)?;
        socket.set(&bytes)?;
        output
            .line(format_args!("process {pid} is steered by {label} from its next computation on"));
        Ok(())
    }
}

impl Settings {
    /// Changes one of them, as `name=value`, or says what is wrong with it.
    fn change(&mut self, change: &str) -> Result<(), String> {
        let in_words = |error: Error| with_causes(&error);
        let (name, value) = change.split_once('=').ok_or("expected NAME=VALUE")?;
        match (name, name.strip_prefix("slot.").map(str::parse)) {
            ("alpha", _) => self.alpha = Some(finite(value)?),
            (_, Some(Ok(slot))) => drop(self.slots.insert(slot, finite(value)?)),
            ("policy", _) => {
                self.policy = Some(value.parse::<Positions>().map_err(in_words)?.to_string());
            }
            ("steer", _) => {
                let mut part = Part::from(OsString::from(value));
                part.check().map_err(in_words)?;
                let absolute = std::path::absolute(&part.path);
                part.path = absolute.map_err(Error::io("find", &part.path)).map_err(in_words)?;
                self.steer = vec![part.to_string()];
            }
            _ => return Err("expected alpha, slot.N, policy or steer".to_owned()),
        }
        Ok(())
    }

    fn positions(&self) -> Result<Option<Positions>> {
        self.policy.as_deref().map(str::parse).transpose()
    }

    /// Reads the vector anew.
    fn sidecar(&self) -> Result<Sidecar> {
        let file = Gguf::open_model(&self.model)?;
        let fingerprint = fingerprint(&file)?;
        let parts: Vec<Part> =
            self.steer.iter().map(|text| Part::from(OsString::from(text))).collect();
        let read = |path: &Path| {
            let sidecar = Sidecar::read(path)?;
            if !self.force {
                sidecar.check_model(path, &fingerprint)?;
            }
            let geometry = Geometry::read(&file)?;
            sidecar.vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
            Ok(sidecar)
        };
        combine(&parts, self.positions()?, self.force, read).map(|(_, sidecar)| sidecar)
    }

    /// The plan's bytes, and what it is in words.
    fn plan(&self, sidecar: &Sidecar) -> Result<(Vec<u8>, String)> {
        let alpha = self.alpha.unwrap_or(sidecar.about.alpha);
        let positions = self.positions()?.unwrap_or(sidecar.about.positions);
        let mut alphas = BTreeMap::from([(DEFAULT_SLOT, alpha)]);
        alphas.extend(self.slots.iter().map(|(&slot, &alpha)| (Some(slot), alpha)));
        let name = printable_line(&sidecar.about.name);
        let heads = counted(sidecar.vector.heads().len(), "head");
        let mut label = format!("{name}: {heads} at alpha {}", short(alpha));
        for (slot, alpha) in &self.slots {
            label += &format!(", slot {slot} at {}", short(*alpha));
        }
        label += match positions {
            Positions::All => ", every token",
            Positions::Generated => ", generated tokens",
        };
        let settings = serde_json::to_string(self).unwrap_or_default();
        let plan = Plan { positions, alphas, label: label.clone(), settings };
        Ok((plan.to_bytes(&Gguf::open_model(&self.model)?, &sidecar.vector)?, label))
    }
}

fn subject<'a>(path: &'a Path, file: &'a Gguf) -> Result<Subject<'a>> {
    Ok(Subject {
        path,
        fingerprint: fingerprint(file)?,
        name: file.opt_str("general.name")?,
        geometry: Geometry::read(file)?,
        baked: None,
    })
}

fn show(pid: u32, output: Output) -> Result<()> {
    let status = Socket::of(pid)?.status()?;
    let state = printable_line(&status.state);
    if output.is_json() {
        let settings = parse(&status.settings, pid).ok();
        output.json(&Report { pid, state, n_token: status.n_token, settings });
    } else {
        output.line(format_args!(
            "{state}\n{} steered so far",
            counted(usize::try_from(status.n_token).unwrap_or(usize::MAX), "token")
        ));
    }
    Ok(())
}

fn parse(settings: &str, pid: u32) -> Result<Settings> {
    serde_json::from_str(settings).map_err(|_| {
        let problem = "it was not started by this version of `candor attach`: its settings cannot be \
                       changed one by one";
        Error::invalid(format!("process {pid}"), problem)
    })
}

/// What stands behind -m or --model, as llama.cpp's programs take it.
fn model_of(arguments: &[OsString]) -> Option<PathBuf> {
    let is_option = |word: &&OsString| *word == "-m" || *word == "--model";
    let place = arguments.iter().position(|word| is_option(&word));
    let named = place.and_then(|i| arguments.get(i + 1)).map(PathBuf::from);
    named.or_else(|| std::env::var_os("LLAMA_ARG_MODEL").map(PathBuf::from))
}

/// The library in the cache, written once for each version of it.
fn library() -> Result<PathBuf> {
    let digest = sha256(LIBRARY);
    let path = cache_folder("plugin")?.join(format!("libheadtap-preload-{}.so", &digest[..12]));
    if !std::fs::read(&path).is_ok_and(|bytes| bytes == LIBRARY) {
        write_atomically(&path, |out| out.write_all(LIBRARY))?;
    }
    Ok(path)
}

/// The library before what is to be preloaded already.
fn preloaded(library: &Path) -> OsString {
    let mut list = library.as_os_str().to_owned();
    if let Some(others) = std::env::var_os(PRELOAD).filter(|others| !others.is_empty()) {
        list.push(":");
        list.push(others);
    }
    list
}

/// `NAME=VALUE`, as [`Settings::change`] takes it.
fn set(text: &str) -> Result<String, String> {
    Settings::default().change(text)?;
    Ok(text.to_owned())
}

/// `N=ALPHA`.
fn slot(text: &str) -> Result<(u32, f32), String> {
    let (slot, alpha) = text.split_once('=').ok_or("expected N=ALPHA")?;
    let slot = slot.parse().ok().filter(|&slot: &u32| slot < 1 << 16);
    Ok((slot.ok_or("expected the number of a slot")?, finite(alpha)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_model_among_a_programs_arguments() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert_eq!(model_of(&words("-c 512 -m a.gguf -np 2")), Some("a.gguf".into()));
        assert_eq!(model_of(&words("--model b.gguf")), Some("b.gguf".into()));
        assert_eq!(model_of(&words("-c 512 -m")), None);
    }

    #[test]
    fn settings_change_one_by_one() {
        let mut settings = Settings {
            model: "/m.gguf".into(),
            steer: vec!["/s.gguf".to_owned()],
            alpha: None,
            slots: BTreeMap::new(),
            policy: None,
            force: false,
        };
        for change in ["alpha=8", "slot.1=-2.5", "policy=all", "steer=/t.gguf*0.5"] {
            settings.change(change).unwrap();
        }
        assert_eq!(settings.alpha, Some(8.0));
        assert_eq!(settings.slots, BTreeMap::from([(1, -2.5)]));
        assert_eq!(settings.policy.as_deref(), Some("all"));
        assert_eq!(settings.steer, ["/t.gguf*0.5"]);
        for change in ["alpha", "alpha=x", "alpha=inf", "slot.x=1", "beta=1", "policy=some"] {
            assert!(settings.clone().change(change).is_err(), "{change}");
        }
    }
}
