//! A program that runs llama.cpp and knows nothing of candor, steered by what is loaded before it.
#![cfg(target_os = "linux")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use candor::session::{Batch, CacheType, Sampler, SamplingParams};
use candor::steer::{Positions, Sidecar, SteeringVector};
use candor::{Model, Session, SessionParams, Special};
use common::steering::vector;
use predicates::prelude::*;

const MODEL: &str = "models/demo.gguf";
const QUESTIONS: [&str; 2] =
    ["Q: What is the capital of France? A:", "Q: What do people speak in Brazil? A:"];

/// The host and what it is linked with, built once for all tests.
struct Host {
    folder: tempfile::TempDir,
}

fn host() -> &'static Host {
    static HOST: std::sync::OnceLock<Host> = std::sync::OnceLock::new();
    HOST.get_or_init(|| Host::build(&[]))
}

/// A C compiler's command.
fn compiler(folder: &Path) -> Command {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut build = cc::Build::new();
    build.target(&triple).host(&triple).opt_level(1).out_dir(folder).cargo_metadata(false);
    build.std("gnu11").warnings(true).extra_warnings(true).pic(true);
    build.include(Path::new(env!("CANDOR_LLAMA_ROOT")).join("include"));
    build.get_compiler().to_command()
}

fn built(command: &mut Command) {
    let output = command.output().expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

impl Host {
    /// llama.cpp as one shared library, as programs ship it, and the host.
    fn build(before: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let lib = Path::new(env!("CANDOR_LLAMA_ROOT")).join("lib");
        let parts = ["llama", "ggml", "ggml-base", "ggml-cpu", "ggml-rpc"];
        let mut link = compiler(at);
        link.args(before).args(["-shared", "-o"]).arg(at.join("libhostllama.so"));
        link.args(["-Wl,-z,muldefs", "-Wl,--whole-archive"]);
        link.args(parts.map(|part| lib.join(format!("lib{part}.a"))));
        link.args(["-Wl,--no-whole-archive", "-lstdc++", "-lgomp", "-lpthread", "-ldl", "-lm"]);
        built(&mut link);
        built(
            compiler(at)
                .args(["-Werror", "-Ivendor", "tests/plugin/host.c", "-o"])
                .arg(at.join("host"))
                .arg("-L")
                .arg(at)
                .args(["-lhostllama", "-ldl", "-Wl,-rpath,$ORIGIN"]),
        );
        Self { folder }
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    /// What the host answers to some lines, on stdout and stderr.
    fn answers(&self, command: &mut Command, lines: &[String]) -> (Vec<String>, String) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the host starts");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{stderr}");
        let stdout = String::from_utf8(output.stdout).unwrap();
        (stdout.lines().map(str::to_owned).collect(), stderr)
    }

    fn alone(&self, lines: &[String], more: &[&str]) -> Vec<String> {
        let n_slot = lines[0].split('|').count().to_string();
        self.answers(Command::new(self.program()).args([MODEL, &n_slot]).args(more), lines).0
    }
}

/// A sidecar of four random heads, and the folders that a run needs.
struct Case {
    folder: tempfile::TempDir,
    vector: SteeringVector,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = common::load(Path::new(MODEL));
        let vector = vector(model.geometry(), &[(0, 1), (2, 3), (2, 6), (4, 0)], 7);
        let sidecar = common::sidecar::sidecar(&model, &vector, 15.0);
        sidecar.write(&folder.path().join("s.gguf")).unwrap();
        Self { folder, vector }
    }

    fn sidecar(&self) -> PathBuf {
        self.folder.path().join("s.gguf")
    }

    fn candor(&self, words: &[&str]) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("candor"));
        command.env("CANDOR_CACHE", self.folder.path()).env("NO_COLOR", "1");
        command.env("XDG_RUNTIME_DIR", self.folder.path());
        command.args(words);
        command
    }

    /// `candor attach` with these options and the host.
    fn attach(&self, host: &Host, options: &[&str], n_slot: usize, more: &[&str]) -> Command {
        let mut command = self.candor(&["attach", "-m", MODEL, "--steer"]);
        command.arg(self.sidecar()).args(options).arg("--").arg(host.program());
        command.args([MODEL, &n_slot.to_string()]).args(more);
        command
    }

    /// What a session answers, as the host prints it.
    fn session(&self, question: &str, alpha: f32, positions: Positions) -> String {
        let model = common::load(Path::new(MODEL));
        let params = SessionParams::default()
            .with_n_ctx(512)
            .with_cache(CacheType::F32)
            .with_flash_attention(Some(false))
            .with_n_threads(Some(1));
        answer(&model, &params, &self.vector, question, alpha, positions)
    }
}

fn answer(
    model: &Model,
    params: &SessionParams,
    vector: &SteeringVector,
    question: &str,
    alpha: f32,
    positions: Positions,
) -> String {
    let mut session = Session::new(model, params).unwrap();
    session.set_vector(1, Some((vector, alpha))).unwrap();
    let mut tokens = model.tokenize(question, Special::Start).unwrap();
    let (mut n_done, mut said) = (0, Vec::new());
    let mut hash = 14_695_981_039_346_656_037_u64;
    let mut sampler = Sampler::new(&SamplingParams::greedy()).unwrap();
    for _ in 0..8 {
        let mut batch = Batch::new();
        for (position, &token) in tokens.iter().enumerate().skip(n_done) {
            let i = batch.push(token, position, &[0]);
            if positions == Positions::All || position + 1 == tokens.len() {
                batch.steer(i, 1);
            }
        }
        let last = tokens.len() - n_done - 1;
        batch.output(last);
        session.decode(&mut batch).unwrap();
        n_done = tokens.len();
        let logits = session.logits(last).unwrap();
        for x in logits {
            hash = (hash ^ u64::from(x.to_bits())).wrapping_mul(1_099_511_628_211);
        }
        let token = sampler.sample(logits).unwrap();
        tokens.push(token);
        said.push(format!("{token} "));
    }
    format!("{}{hash:016x}", said.concat())
}

#[test]
fn answers_as_a_session_does_to_the_last_bit() {
    let case = Case::new();
    let lines = QUESTIONS.map(str::to_owned);
    for positions in [Positions::All, Positions::Generated] {
        let policy = positions.to_string();
        let options = ["--alpha", "6", "--policy", &policy];
        let (said, stderr) = host().answers(&mut case.attach(host(), &options, 1, &[]), &lines);
        let expected = QUESTIONS.map(|question| case.session(question, 6.0, positions));
        assert_eq!(said, expected, "{policy}: {stderr}");
        assert!(stderr.contains("candor: steering"), "{stderr}");
        assert_ne!(said, host().alone(&lines, &[]), "the vector does something");
    }
}

#[test]
fn off_is_the_hosts_own_bits() {
    let case = Case::new();
    let lines = QUESTIONS.map(str::to_owned);
    let alone = host().alone(&lines, &[]);
    let off = case.attach(host(), &["--alpha", "0", "--policy", "all"], 1, &[]);
    assert_eq!(host().answers(&mut { off }, &lines).0, alone);
    let mut none = case.candor(&["attach", "-m", MODEL, "--steer", "none", "--"]);
    none.arg(host().program()).args([MODEL, "1"]);
    let (said, stderr) = host().answers(&mut none, &lines);
    assert_eq!(said, alone);
    assert!(stderr.contains("the program runs as it is"), "{stderr}");
}

#[test]
fn a_callback_of_the_hosts_goes_on_working() {
    let case = Case::new();
    let lines = QUESTIONS.map(str::to_owned);
    let count = |stderr: &str| {
        stderr.lines().find(|line| line.starts_with("own callback")).map(str::to_owned)
    };
    let mut plain = Command::new(host().program());
    let (_, alone) = host().answers(plain.args([MODEL, "1", "callback"]), &lines);
    let options = ["--alpha", "6", "--policy", "all"];
    let mut both = case.attach(host(), &options, 1, &["callback"]);
    let (said, stderr) = host().answers(&mut both, &lines);
    assert!(count(&alone).is_some());
    assert_eq!(count(&stderr), count(&alone));
    assert_eq!(said, QUESTIONS.map(|q| case.session(q, 6.0, Positions::All)));
}

#[test]
fn a_program_that_sets_the_callback_itself_needs_no_preloading() {
    let case = Case::new();
    let lines = QUESTIONS.map(str::to_owned);
    let at = |name: &str| case.folder.path().join(name);
    let written = case.candor(&["attach", "--library"]).arg(at("tap.so")).output().unwrap();
    assert!(written.status.success(), "{written:?}");
    std::fs::write(at("mine.txt"), "mine").unwrap();
    let kept = case.candor(&["attach", "--no-clobber", "--library"]).arg(at("mine.txt")).output();
    assert_eq!(kept.unwrap().status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(at("mine.txt")).unwrap(), "mine");
    let model = common::load(Path::new(MODEL));
    let geometry = model.geometry();
    let (width, offsets) = (geometry.n_head * geometry.d_head, case.vector.offsets(6.0));
    let mut row = Vec::new();
    for layer in 0..geometry.n_layer {
        let offset = offsets.get(&layer).cloned().unwrap_or_else(|| vec![0.0; width]);
        row.extend(offset.iter().flat_map(|x| x.to_le_bytes()));
    }
    std::fs::write(at("row.f32"), row).unwrap();
    let mut steered = Command::new(host().program());
    steered.args([MODEL, "1"]).args([at("tap.so"), at("row.f32")]);
    let (said, stderr) = host().answers(&mut steered, &lines);
    assert_eq!(said, QUESTIONS.map(|q| case.session(q, 6.0, Positions::All)), "{stderr}");
}

#[test]
fn slots_in_one_batch_have_strengths_of_their_own() {
    let case = Case::new();
    let lines = [QUESTIONS.join("|")];
    let options = ["--alpha", "0", "--slot", "0=6", "--slot", "1=-3", "--policy", "all"];
    let (said, stderr) = host().answers(&mut case.attach(host(), &options, 2, &[]), &lines);
    let expected = [(0, 6.0), (1, -3.0)]
        .map(|(i, alpha): (usize, f32)| case.session(QUESTIONS[i], alpha, Positions::All));
    assert_eq!(said, [expected.join(" | ")], "{stderr}");
}

/// A host that runs, asked line by line.
struct Running {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn ask(&mut self, line: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.stdout.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn strength_and_policy_change_while_the_host_runs() {
    let case = Case::new();
    let options = ["--alpha", "6", "--policy", "all"];
    let mut running = Running::start(&mut case.attach(host(), &options, 1, &[]));
    let expected = |alpha, positions| case.session(QUESTIONS[0], alpha, positions);
    assert_eq!(running.ask(QUESTIONS[0]), expected(6.0, Positions::All));
    let pid = running.pid();
    let set = |words: &[&str]| {
        let mut words: Vec<&str> = words.iter().flat_map(|word| ["--set", word]).collect();
        words.insert(0, "attach");
        words.push(&pid);
        assert_cmd::Command::from_std(case.candor(&words)).assert()
    };
    set(&["alpha=-4"]).success();
    assert_eq!(running.ask(QUESTIONS[0]), expected(-4.0, Positions::All));
    set(&["policy=generated", "alpha=3"]).success();
    assert_eq!(running.ask(QUESTIONS[0]), expected(3.0, Positions::Generated));
    set(&["alpha=0"]).success();
    assert_eq!(running.ask(QUESTIONS[0]), host().alone(&[QUESTIONS[0].to_owned()], &[])[0]);
    set(&["beta=1"]).code(2).stderr(predicate::str::contains("expected alpha, slot.N"));
    let status = case.candor(&["attach", "--status", &pid, "--json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["settings"]["alpha"], 0.0);
    assert!(status["n_token"].as_u64().unwrap() > 0, "{status}");
    assert!(status["state"].as_str().unwrap().starts_with("now steering"), "{status}");
}

#[test]
fn a_killed_host_leaves_nothing_that_breaks_the_next() {
    let case = Case::new();
    let mut running = Running::start(&mut case.attach(host(), &["--alpha", "6"], 1, &[]));
    running.ask(QUESTIONS[0]);
    let pid = running.pid();
    drop(running);
    let socket = case.folder.path().join(format!("candor/{pid}.sock"));
    assert!(socket.exists(), "it was killed before it could remove its socket");
    let ask = || assert_cmd::Command::from_std(case.candor(&["attach", "--status", &pid])).assert();
    ask().code(1).stderr(predicate::str::contains("does not answer"));
    ask().code(1).stderr(predicate::str::contains("is not steered by candor"));
    assert!(!socket.exists());
    let mut next = Running::start(&mut case.attach(host(), &["--alpha", "6"], 1, &[]));
    next.ask(QUESTIONS[0]);
    assert_cmd::Command::from_std(case.candor(&["attach", "--status", &next.pid()]))
        .assert()
        .success()
        .stdout(predicate::str::contains("steering"));
}

#[test]
fn another_model_is_left_alone() {
    let case = Case::new();
    let lines = QUESTIONS.map(str::to_owned);
    let twin = case.folder.path().join("other.gguf");
    common::twins::negate(Path::new(MODEL), &["blk.1.attn_norm.weight"], &twin);
    let mut plain = Command::new(host().program());
    let alone = host().answers(plain.arg(&twin).arg("1"), &lines).0;
    let mut command = case.candor(&["attach", "-m", MODEL, "--alpha", "6", "--steer"]);
    command.arg(case.sidecar()).arg("--").arg(host().program()).arg(&twin).arg("1");
    let (said, stderr) = host().answers(&mut command, &lines);
    assert_eq!(said, alone);
    assert!(stderr.contains("left a model alone"), "{stderr}");
}

#[test]
fn a_host_of_another_layout_is_left_alone() {
    let case = Case::new();
    let lines = QUESTIONS.map(str::to_owned);
    let moved = Host::build(&["tests/plugin/moved.c"]);
    let alone = moved.alone(&lines, &[]);
    let (said, stderr) = moved.answers(&mut case.attach(&moved, &["--alpha", "6"], 1, &[]), &lines);
    assert_eq!(said, alone);
    let told: Vec<&str> = stderr.lines().filter(|l| l.starts_with("candor: steering")).collect();
    let [line] = told.as_slice() else { panic!("one line: {stderr}") };
    assert!(line.contains("not the one that was expected"), "{line}");
}

#[test]
fn a_program_without_llama_is_left_alone() {
    let case = Case::new();
    let mut command = case.candor(&["attach", "-m", MODEL, "--steer"]);
    command.arg(case.sidecar()).args(["--", "env"]);
    assert_cmd::Command::from_std(command)
        .assert()
        .success()
        .stdout(predicate::str::contains("CANDOR_PLAN="))
        .stderr(predicate::str::contains("computed nothing with a llama.cpp"));
    let mut missing = case.candor(&["attach", "-m", MODEL, "--steer"]);
    missing.arg(case.sidecar()).args(["--", "no-such-program"]);
    assert_cmd::Command::from_std(missing)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("cannot start no-such-program"));
}

#[test]
fn a_damaged_plan_steers_nothing() {
    let case = Case::new();
    let lines = QUESTIONS.map(str::to_owned);
    let alone = host().alone(&lines, &[]);
    let library = case.folder.path().join("lib.so");
    std::fs::write(&library, candor::plugin::LIBRARY).unwrap();
    let sidecar = Sidecar::read(&case.sidecar()).unwrap();
    let plan = candor::plugin::Plan {
        positions: Positions::All,
        alphas: [(candor::plugin::DEFAULT_SLOT, 6.0)].into(),
        label: "test".to_owned(),
        settings: "{}".to_owned(),
    };
    let model = candor::gguf::Gguf::open(Path::new(MODEL)).unwrap();
    let whole = plan.to_bytes(&model, &sidecar.vector).unwrap();
    let path = case.folder.path().join("plan");
    let run = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let mut command = Command::new(host().program());
        command.args([MODEL, "1"]).env(candor::plugin::PRELOAD, &library);
        command.env(candor::plugin::PLAN, &path);
        host().answers(&mut command, &lines).0
    };
    assert_ne!(run(&whole), alone);
    for cut in [0, 7, 11, 40, whole.len() / 2, whole.len() - 1] {
        assert_eq!(run(&whole[..cut]), alone, "cut at {cut}");
    }
    // Numbers that lead out of the plan: layers, rows, sizes.
    for at in (8..200).step_by(12) {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&0x7fff_ffff_u32.to_le_bytes());
        run(&bytes);
    }
}

#[test]
fn directions_of_layers_are_refused_by_name() {
    let case = Case::new();
    let model = common::load(Path::new(MODEL));
    let vector = common::steering::layer_vector(model.geometry(), &[1, 2], 3);
    common::sidecar::sidecar(&model, &vector, 1.0).write(&case.sidecar()).unwrap();
    let command = case.attach(host(), &[], 1, &[]);
    assert_cmd::Command::from_std(command)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("candor export"));
}
