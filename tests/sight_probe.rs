//! Where the built-in sight model knows an answer that it does not say: `candor sight probe`.
#![cfg(all(feature = "cli", feature = "sight"))]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use candor::data::{Dataset, PromptForm};
use candor::sight::probe::{Phase, Place, ProbeParams, ProbeReport, SplitBy, TaskReport, probe};
use candor::sight::tasks::{Task, TaskSet};
use candor::vision::{Picture, VisionParams};
use candor::{Model, ModelParams};
use common::program::{candor, misuse, refusal};

fn models(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name)
}

fn sight_model() -> Model {
    let vision = VisionParams::default().with_n_threads(Some(1));
    let params = ModelParams::default()
        .with_devices(Some(vec!["none".to_owned()]))
        .with_projector(Some((models("sight-mmproj.gguf"), vision)));
    common::opened(&models("sight.gguf"), &params).expect("the model is sound")
}

fn tasks(folder: &Path, tasks: &[Task], n_picture: usize) -> PathBuf {
    let set = TaskSet { tasks: tasks.to_vec(), n_picture, ..TaskSet::default() };
    set.write(folder, &mut || Ok(())).expect("the folder takes it")
}

/// Probes, and counts the pictures and questions that were told of.
fn run(data: &Dataset, params: &ProbeParams, folder: &Path) -> (ProbeReport, [usize; 2]) {
    let mut n = [0; 2];
    let mut each = |phase, _, _| {
        match phase {
            Phase::Pictures => n[0] += 1,
            Phase::Questions => n[1] += 1,
            Phase::Tasks => {}
        }
        Ok(())
    };
    let report = probe(&sight_model(), data, params, folder, &mut each).expect("it is probed");
    (report, n)
}

fn stage(task: &TaskReport, place: Place, layer: Option<usize>) -> &candor::sight::probe::Stage {
    let is_it = |stage: &&candor::sight::probe::Stage| stage.place == place && stage.layer == layer;
    task.stages.iter().find(is_it).expect("a stage")
}

#[test]
fn the_encoder_reads_what_the_model_does_not_say() {
    let folder = tempfile::tempdir().unwrap();
    let data = Dataset::open(&tasks(folder.path(), &[Task::Angle, Task::Liquid], 54)).unwrap();
    let params = ProbeParams::new(PromptForm::parse("Q: {question} A: {answer}").unwrap())
        .with_n_threads(Some(1));
    let features = folder.path().join("features");
    let (report, n) = run(&data, &params, &features);
    assert_eq!((n, report.n_picture, report.n_question), ([108; 2], 108, 108));
    for task in &report.tasks {
        assert_eq!((task.split, task.n_train + task.n_test), (SplitBy::Asked, 54));
        assert!((20..=34).contains(&task.n_test) && task.answers == ["left", "right", "same"]);
        // Pixels, four layers, projector, three layers of picture tokens, four of the last one.
        assert_eq!(task.stages.len(), 1 + 4 + 1 + 3 + 4, "{}", task.task);
        let projector = stage(task, Place::Projector, None);
        let (read, said) = (projector.linear.all, task.said.all);
        assert!(read.low > task.floor() && read.mean > 0.8, "{}: {read:?}", task.task);
        assert!(said.mean < 0.6 && said.mean < read.mean - 0.3, "{}: {said:?}", task.task);
        // Simply asked, it says what the eye sees.
        assert!(task.says_eye.unwrap().all.mean > 0.8 && task.said.differ.unwrap().mean < 0.2);
        for stage in &task.stages {
            let shuffled = stage.shuffled.all;
            assert!(shuffled.low < 0.45, "{} {}: {shuffled:?}", task.task, stage.name());
            assert!(stage.hidden.is_some(), "{}", stage.name());
            let of_encoder = matches!(stage.place, Place::Encoder | Place::Projector);
            assert_eq!(stage.attention.is_some(), of_encoder, "{}", stage.name());
            assert_eq!(stage.untrained.is_some(), of_encoder, "{}", stage.name());
        }
        let untrained = projector.untrained.unwrap().all;
        assert!(untrained.mean < read.mean - 0.1, "{}: {untrained:?}", task.task);
        let heads = task.encoder_heads.as_ref().unwrap();
        assert_eq!((heads.accuracy.len(), heads.accuracy[0].len(), heads.n_head), (4, 4, 4));
        let heads = task.decoder_heads.as_ref().unwrap();
        assert_eq!((heads.accuracy.len(), heads.accuracy[0].len()), (4, 6));
        assert!(task.summary.contains("not used"), "{}", task.summary);
        let patches = task.patches.as_ref().unwrap();
        assert_eq!((patches.side, patches.pictures.len()), (6, 6));
        for glance in &patches.pictures {
            let sum: f32 = glance.weights.iter().sum();
            assert!(glance.weights.len() == 36 && (sum - 1.0).abs() < 1e-4, "{sum}");
            assert!(glance.path.is_file() && task.answers.contains(&glance.read));
        }
    }
    // What was computed is kept: nothing is encoded or decoded again.
    let (again, n) = run(&data, &params, &features);
    assert_eq!((&again, n), (&report, [0; 2]));
    let (linear, n) = run(&data, &params.clone().with_only_linear(true), &features);
    assert_eq!(n, [0; 2]);
    assert_eq!(linear.tasks[0].stages[5].linear.all, report.tasks[0].stages[5].linear.all);
    // Both orders of listed options are other questions.
    let params = params.with_lists_options(true).with_untrained(false).with_only_linear(true);
    let few = data.limited(36);
    let (listed, n) = run(&few, &params, &features);
    assert_eq!(n, [36; 2]);
    assert!(listed.tasks.iter().all(|task| task.stages.iter().all(|s| s.untrained.is_none())));
}

/// A picture that the encoder looked at is the picture that the model is shown.
#[test]
fn looking_and_showing_give_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    let data = Dataset::open(&tasks(folder.path(), &[Task::Number], 2)).unwrap();
    let picture = Picture::open(&data.questions[1].images[0]).unwrap();
    let logits = |looks: bool| {
        let model = sight_model();
        if looks {
            model.look(&picture).unwrap();
        }
        let shown = model.show(&picture).unwrap();
        assert_eq!(shown.is_encoded, !looks);
        let params = candor::SessionParams::default().with_n_ctx(64);
        let mut session = candor::Session::new(&model, &params).unwrap();
        session.decode(&mut candor::session::Batch::prompt(&shown.tokens)).unwrap();
        let logits = session.logits(shown.tokens.len() - 1).unwrap();
        logits.iter().map(|x| x.to_bits()).collect::<Vec<u32>>()
    };
    assert!(logits(true) == logits(false));
}

#[test]
fn goes_on_to_the_same_bytes_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    tasks(folder.path(), &[Task::Length], 150);
    let start = |features: &str| {
        Command::new(assert_cmd::cargo::cargo_bin!("candor"))
            .env("CANDOR_CACHE", folder.path().join(format!("cache-{features}")))
            .current_dir(folder.path())
            .args(["sight", "probe", "-t", "1", "--only-linear", "-d", "tasks.jsonl", "-m"])
            .arg(models("sight.gguf"))
            .args(["--features", features])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    assert!(start("whole").wait().unwrap().success());
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    for (file, n_kill) in [("pictures", 40_000), ("questions", 20_000)] {
        let mut child = start("killed");
        let part = folder.path().join("killed").join(format!("{file}.part"));
        let patience = Instant::now();
        while fs::metadata(&part).map_or(0, |part| part.len()) < n_kill {
            assert!(child.try_wait().unwrap().is_none(), "it ended before it could be killed");
            assert!(patience.elapsed() < Duration::from_secs(120), "no record in two minutes");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(part.exists(), "{file}: killed before its end");
    }
    assert!(start("killed").wait().unwrap().success());
    for file in ["pictures", "questions"] {
        let [whole, killed] =
            ["whole", "killed"].map(|run| read(&format!("{run}/{file}.features")));
        assert!(whole == killed, "{file}: the bytes differ");
        assert!(!folder.path().join("killed").join(format!("{file}.part")).exists());
    }
}

#[test]
fn prints_a_table_and_a_sentence_and_refuses_what_has_no_picture() {
    let folder = tempfile::tempdir().unwrap();
    tasks(folder.path(), &[Task::Liquid], 36);
    let of = |data: &str| {
        let mut command = candor(&folder.path().join("cache"));
        command.current_dir(folder.path()).args([
            "sight",
            "probe",
            "-t",
            "1",
            "--only-linear",
            "-m",
        ]);
        command.arg(models("sight.gguf")).args(["-d", data]);
        command
    };
    let output = of("tasks.jsonl").assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    for words in ["projector", "last token, layer 3", "the model says", "liquid: best read in"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // Without --features nothing is left.
    let left = fs::read_dir(folder.path().join("cache/sight")).unwrap().count();
    assert_eq!(left, 0);
    let question = r#"{"question": "Why?", "choices": ["a", "b"], "answer": 0}"#;
    fs::write(folder.path().join("text.jsonl"), question).unwrap();
    let error = refusal(&mut of("text.jsonl"));
    assert!(error.contains("text.jsonl") && error.contains("has 0 pictures"), "{error}");
    let error = misuse(candor(&folder.path().join("cache")).args(["sight", "probe"]));
    assert!(error.contains("--data") && error.contains("candor sight tasks"), "{error}");
    let error = refusal(of("tasks.jsonl").args(["--limit", "8"]));
    assert!(error.contains("task liquid") && error.contains("at least 16"), "{error}");
}

/// Answers about pictures are scored as they stand, by every command: the model was trained to say one word
/// and no stop.
#[test]
fn answers_about_pictures_get_no_full_stop() {
    let folder = tempfile::tempdir().unwrap();
    tasks(folder.path(), &[Task::Length], 40);
    let mut eval = candor(&folder.path().join("cache"));
    eval.current_dir(folder.path()).args(["eval", "-t", "1", "-d", "tasks.jsonl", "-m"]);
    eval.arg(models("sight.gguf")).args(["--steer", "none", "-n", "0"]);
    let scored = common::program::json(&mut eval)["rows"][0]["mc1"].as_f64().unwrap();
    let mut data = Dataset::open(&folder.path().join("tasks.jsonl")).unwrap();
    let model = sight_model();
    data.show(|path| Ok(model.show(&Picture::open(path)?)?.marker)).unwrap();
    assert!(data.is_of_pictures());
    let mut evaluator = candor::eval::Evaluator::new(&model, 0, Some(1)).unwrap();
    evaluator.set_full_stop(false);
    let form = PromptForm::default_for(data.kind);
    let questions: Vec<_> = data.questions.iter().collect();
    let scores = evaluator.score_answers(&questions, &form, "").unwrap();
    let expected = candor::eval::McScore::mean(&scores).mc1;
    assert!((scored - expected).abs() < 1e-9, "{scored} {expected}");
}

/// The demo of the model that sees: what it reads and does not say, and that steering its heads gives
/// little of it back, which the book says, too.
#[test]
fn the_demo_shows_what_is_known_and_not_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = candor(folder.path());
    let document =
        common::program::json(command.args(["demo", "--sight", "-t", "1", "--draws", "2"]));
    assert_eq!(document["schema"], "candor.demo-sight/1");
    let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/schemas/demo-sight.json");
    let schema = serde_json::from_str(&fs::read_to_string(schema).unwrap()).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    assert!(validator.is_valid(&document), "{:?}", validator.iter_errors(&document).next());
    let tasks = document["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 4);
    for task in tasks {
        let stages = task["stages"].as_array().unwrap();
        let projector = stages.iter().find(|stage| stage["place"] == "projector").unwrap();
        let read = projector["linear"]["all"]["mean"].as_f64().unwrap();
        let said = task["said"]["all"]["mean"].as_f64().unwrap();
        assert!(read > 0.7 && said < 0.55, "{}: {read} {said}", task["task"]);
    }
    let rows = document["rows"].as_array().unwrap();
    let row = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    let number = |row: &serde_json::Value, name: &str| row[name].as_f64().unwrap();
    let [base, iti, instruction] = ["base", "iti", "instruction"].map(row);
    for row in [base, iti] {
        // What is likeliest is what is written.
        assert!((number(row, "mc1") - number(row, "true")).abs() < 0.05, "{row}");
    }
    assert!(number(base, "mc1") < 0.1 && number(instruction, "mc1") > 0.3, "{base} {instruction}");
    assert!(number(iti, "mc1") >= number(base, "mc1") && number(iti, "kl") < 0.15, "{iti}");
    assert_eq!(document["examples"].as_array().unwrap().len(), 6);
    // The other demo's model is not taken to see by this projector.
    let beside = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!beside.into_iter().any(|name| name.to_string_lossy().contains("mmproj")));
}
