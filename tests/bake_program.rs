//! `candor bake` as a user meets it.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use candor::Error;
use candor::export::{Bake, BakeParams, bake};
use candor::gguf::{Builder, Gguf, TensorType, Value};
use candor::steer::{Sidecar, default_path};
use common::fixture::{Arch, Fixture};
use common::load;
use common::program::{candor, json, refusal};
use common::sidecar::sidecar;
use common::steering::vector;

const ALPHA: f32 = 5.0;

/// A model with a sidecar beside it.
struct Desk {
    folder: tempfile::TempDir,
    model: PathBuf,
    steer: PathBuf,
}

impl Desk {
    fn new(arch: Arch) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = Fixture::new(arch).write(folder.path());
        let steer = default_path(&model, "truth").unwrap();
        let loaded = load(&model);
        let vector = vector(loaded.geometry(), &[(0, 1), (2, 0)], 1);
        sidecar(&loaded, &vector, ALPHA).write(&steer).unwrap();
        Self { folder, model, steer }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn candor(&self, command: &str, model: &Path) -> assert_cmd::Command {
        let mut candor = candor(self.folder.path());
        candor.arg(command).arg("-m").arg(model);
        candor
    }

    fn bake(&self, model: &Path, target: &Path) -> assert_cmd::Command {
        let mut candor = self.candor("bake", model);
        candor.arg("-o").arg(target);
        candor
    }

    /// What the program says on stderr while it continues a text.
    fn notes_of_run(&self, model: &Path, more: &[&str]) -> String {
        let mut candor = self.candor("run", model);
        let output = candor.args(["-p", "rain", "-n", "2"]).args(more).assert().success();
        String::from_utf8(output.get_output().stderr.clone()).unwrap()
    }
}

#[test]
fn bakes_what_lies_beside_the_model_and_says_so() {
    let desk = Desk::new(Arch::Llama);
    let target = desk.path("baked.gguf");
    let document = json(&mut desk.bake(&desk.model, &target));
    let about = Sidecar::read(&desk.steer).unwrap();
    for (field, expected) in [
        ("path", target.to_str().unwrap().into()),
        ("n_byte", fs::metadata(&target).unwrap().len().into()),
        ("place", "output bias".into()),
        ("layers", vec![0, 2].into()),
        ("n_head", 2.into()),
        ("alpha", ALPHA.into()),
        ("steer", about.fingerprint().into()),
        ("model_fingerprint", load(&desk.model).fingerprint().into()),
        ("errors", vec![0.0, 0.0].into()),
        ("agreement", serde_json::Value::Null),
        ("unsteered", serde_json::Value::Null),
    ] {
        assert_eq!(document[field], expected, "{field}");
    }
    assert!(document["seconds"].is_number());

    let shown = desk.candor("bake", &desk.model).arg("--check").arg("-o").arg(&target).assert();
    let shown = String::from_utf8(shown.success().get_output().stdout.clone()).unwrap();
    assert!(shown.contains("truth at alpha 5: 2 heads, output bias"), "{shown}");
    assert!(shown.contains("beside live") && shown.contains("(not steered: KL "), "{shown}");
}

#[test]
fn a_baked_model_is_not_steered_again_by_itself() {
    let desk = Desk::new(Arch::Llama);
    let target = desk.path("baked.gguf");
    desk.bake(&desk.model, &target).assert().success();
    assert!(desk.notes_of_run(&desk.model, &[]).contains("steered by "));
    // Its fingerprint is the base's, so that the sidecar would fit it.
    let beside = default_path(&target, "truth").unwrap();
    fs::copy(&desk.steer, &beside).unwrap();
    let notes = desk.notes_of_run(&target, &[]);
    assert!(notes.contains("truth is baked into this model at alpha 5: no sidecar"), "{notes}");
    assert!(!notes.contains("steered by /"), "{notes}");
    let notes = desk.notes_of_run(&target, &["--steer", beside.to_str().unwrap()]);
    assert!(notes.contains("warning: truth is baked into this model at alpha 5"), "{notes}");
    assert!(notes.contains("it is steered by both"), "{notes}");
    let message = refusal(&mut desk.bake(&target, &desk.path("again.gguf")));
    assert!(message.contains("baked into it already"), "{message}");
}

#[test]
fn inspect_shows_what_was_baked() {
    let desk = Desk::new(Arch::Llama);
    let target = desk.path("baked.gguf");
    desk.bake(&desk.model, &target).args(["--alpha", "2"]).assert().success();
    let inspect = |path: &Path| json(candor(desk.folder.path()).arg("inspect").arg(path));
    let record = &inspect(&target)["baked"];
    assert_eq!(record["name"], "truth");
    assert_eq!(record["alpha"], 2.0);
    assert_eq!(record["source"], desk.steer.file_name().unwrap().to_str().unwrap());
    assert_eq!(record["vector"], Sidecar::read(&desk.steer).unwrap().fingerprint());
    assert_eq!(record["base"], load(&desk.model).fingerprint());
    assert_eq!((&record["place"], &record["n_head"]), (&"output bias".into(), &2.into()));
    assert!(inspect(&desk.model)["baked"].is_null());
    let text = candor(desk.folder.path()).arg("inspect").arg(&target).assert().success();
    let text = String::from_utf8(text.get_output().stdout.clone()).unwrap();
    assert!(text.contains("truth at alpha 2: 2 heads, output bias (from steer-truth-"), "{text}");
}

#[test]
fn comes_near_where_it_is_told_to_and_says_how_near() {
    let desk = Desk::new(Arch::Qwen2);
    let target = desk.path("baked.gguf");
    let message = refusal(&mut desk.bake(&desk.model, &target));
    assert!(message.contains("--approximate") && !target.exists(), "{message}");
    let document = json(desk.bake(&desk.model, &target).arg("--approximate"));
    assert_eq!(document["place"], "V bias");
    let errors = document["errors"].as_array().unwrap();
    assert!(errors.iter().all(|e| e.as_f64().is_some_and(|e| e > 0.01 && e < 1.0)), "{errors:?}");
    let agreement = &document["agreement"];
    let kl = |of: &str| document[of]["kl"].as_f64().unwrap();
    assert!(kl("agreement") > 0.0 && kl("agreement") < kl("unsteered"), "{document}");
    assert!(agreement["top1"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)));
    assert!(agreement["n_token"].as_u64().is_some_and(|n| n > 1000));
    let shown = desk.bake(&desk.model, &target).arg("--approximate").assert().success();
    let shown = String::from_utf8(shown.get_output().stdout.clone()).unwrap();
    assert!(shown.contains("V bias, off by up to "), "{shown}");
    assert!(shown.contains("after the output projection, by layer: "), "{shown}");
}

#[test]
fn refuses_to_write_over_what_it_reads() {
    let desk = Desk::new(Arch::Llama);
    for (target, expected) in
        [(&desk.model, "it is the base model"), (&desk.steer, "it is the sidecar")]
    {
        let before = fs::read(target).unwrap();
        let message = refusal(&mut desk.bake(&desk.model, target));
        assert!(message.contains(expected), "{message}");
        assert!(fs::read(target).unwrap() == before);
    }
    let message = refusal(&mut desk.bake(&desk.steer, &desk.path("baked.gguf")));
    assert!(message.contains("holds a `adapter`, not a model"), "{message}");
    fs::remove_file(&desk.steer).unwrap();
    let message = refusal(&mut desk.bake(&desk.model, &desk.path("baked.gguf")));
    assert!(message.contains("--steer FILE"), "{message}");
}

/// Cuts a model into three files as llama-gguf-split does, and gives the first.
fn split(model: &Path, folder: &Path) -> PathBuf {
    let file = Gguf::open(model).unwrap();
    let n = file.tensors().len();
    let path = |no: usize| folder.join(format!("parts-{:05}-of-00003.gguf", no + 1));
    for (no, tensors) in file.tensors().chunks(n.div_ceil(3)).enumerate() {
        let mut part = Builder::new();
        for (key, value) in file.entries().filter(|_| no == 0) {
            part.set(key, value.clone());
        }
        part.set("split.no", Value::U16(no as u16))
            .set("split.count", Value::U16(3))
            .set("split.tensors.count", Value::I32(n as i32));
        for tensor in tensors {
            part.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor));
        }
        part.write(&path(no)).unwrap();
    }
    path(0)
}

#[test]
fn a_split_model_is_one_model() {
    let desk = Desk::new(Arch::Llama);
    let first = split(&desk.model, desk.folder.path());
    let [whole, joined] = ["whole.gguf", "joined.gguf"].map(|name| desk.path(name));
    desk.bake(&desk.model, &whole).assert().success();
    let steer = desk.steer.to_str().unwrap();
    desk.bake(&first, &joined).args(["--steer", steer]).assert().success();
    assert!(fs::read(&whole).unwrap() == fs::read(&joined).unwrap(), "the bytes differ");

    assert_eq!(load(&first).fingerprint(), load(&desk.model).fingerprint());
    let document = json(candor(desk.folder.path()).arg("inspect").arg(&first));
    assert_eq!(document["n_file"], 3);
    let run = |model: &Path| {
        let mut candor = desk.candor("run", model);
        let candor = candor.args(["-p", "rain", "-n", "8", "--temp", "0", "--steer", steer]);
        candor.assert().success().get_output().stdout.clone()
    };
    assert_eq!(run(&first), run(&desk.model));

    let third = desk.path("parts-00003-of-00003.gguf");
    for part in [&first, &third] {
        let message = refusal(desk.bake(&first, part).args(["--steer", steer]));
        assert!(message.contains("it is the base model"), "{message}");
    }
    let message = refusal(desk.bake(&third, &joined).args(["--steer", steer]));
    assert!(message.contains("give the first one"), "{message}");
    fs::remove_file(&third).unwrap();
    for command in ["bake", "run", "inspect"] {
        let mut candor = candor(desk.folder.path());
        candor.arg(command);
        match command {
            "bake" => candor.arg("-o").arg(&joined).arg("-m").arg(&first),
            "run" => candor.args(["-p", "rain", "-m"]).arg(&first),
            _ => candor.arg(&first),
        };
        let message = refusal(&mut candor);
        assert!(message.contains("part 3 of 3 is missing"), "{command}: {message}");
    }
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_bake_that_is_stopped_leaves_nothing() {
    let desk = Desk::new(Arch::Llama);
    let vector = Sidecar::read(&desk.steer).unwrap().vector;
    let params = BakeParams::default().with_alpha(ALPHA);
    let out = desk.path("out");
    fs::create_dir(&out).unwrap();
    let target = out.join("baked.gguf");
    let new = |on_layer: fn(usize, usize) -> ControlFlow<()>| {
        Bake::new(&desk.model, &vector, &params, on_layer)
    };
    let stopped =
        new(|i, _| if i == 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) });
    assert!(matches!(stopped.unwrap_err(), Error::Interrupted { .. }));
    let bake_it = new(|_, _| ControlFlow::Continue(())).unwrap();
    let n = bake_it.n_byte();
    let mut seen = Vec::new();
    let stopped = bake_it.write(&target, |n_byte| {
        seen.push(n_byte);
        if n_byte > n / 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped.unwrap_err(), Error::Interrupted { .. }));
    assert!(seen.is_sorted() && seen.last().is_some_and(|&last| last < n));
    assert!(names(&out).is_empty(), "{:?}", names(&out));
    // What was there before stays.
    fs::write(&target, "old").unwrap();
    bake_it.write(&target, |_| ControlFlow::Break(())).unwrap_err();
    assert_eq!(fs::read(&target).unwrap(), b"old");
    bake_it.write(&target, |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(fs::metadata(&target).unwrap().len(), n);
    assert_eq!(bake(&desk.model, &vector, &params, &target).unwrap(), *bake_it.baked());
}

/// The desk's model with a gigabyte more, and a folder to bake it into.
fn large(desk: &Desk) -> (PathBuf, PathBuf) {
    const N_BYTE: u64 = 1 << 30;

    let file = Gguf::open(&desk.model).unwrap();
    let mut large = Builder::new();
    for (key, value) in file.entries() {
        large.set(key, value.clone());
    }
    for tensor in file.tensors() {
        large.tensor(&tensor.name, &tensor.dims, tensor.kind, file.bytes(tensor));
    }
    large.tensor_from("large", &[N_BYTE], TensorType::I8, |out| {
        let zeros = vec![0; 1 << 20];
        (0..N_BYTE >> 20).try_for_each(|_| out.write_all(&zeros))
    });
    let (model, out) = (desk.path("large.gguf"), desk.path("out"));
    large.write(&model).unwrap();
    fs::create_dir(&out).unwrap();
    (model, out)
}

fn start(desk: &Desk, model: &Path, target: &Path) -> Child {
    Command::new(assert_cmd::cargo::cargo_bin!("candor"))
        .env("CANDOR_CACHE", desk.folder.path())
        .args(["bake", "-m"])
        .arg(model)
        .arg("--steer")
        .arg(&desk.steer)
        .arg("-o")
        .arg(target)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Ctrl-C, while a gigabyte is written.
#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing() {
    let desk = Desk::new(Arch::Llama);
    let (model, out) = large(&desk);
    let mut child = start(&desk, &model, &out.join("baked.gguf"));
    let patience = Instant::now();
    while names(&out).is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        assert!(patience.elapsed() < Duration::from_secs(120), "nothing was written");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!names(&out).contains(&"baked.gguf".to_owned()), "a half-written file has no name");
    let signal = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signal.success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("baked.gguf is not written"), "{stderr}");
    assert!(names(&out).is_empty(), "{:?}", names(&out));
}

/// A model is never in memory as a whole, not even as pages of a map.
#[cfg(target_os = "linux")]
#[test]
fn a_bake_holds_a_small_part_of_the_model_in_memory() {
    let desk = Desk::new(Arch::Llama);
    let (model, out) = large(&desk);
    let mut child = start(&desk, &model, &out.join("baked.gguf"));
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
        peak = peak.max(kilobytes.unwrap_or(0u64));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(child.wait().unwrap().success() && out.join("baked.gguf").exists());
    println!("at most {peak} kB in memory");
    assert!((1_000..300_000).contains(&peak), "{peak} kB");
}
