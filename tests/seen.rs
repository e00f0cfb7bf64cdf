//! Whether a vector saw the questions that it is scored on is known question by question, and stands
//! where the number stands.
#![cfg(feature = "cli")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::program::{candor, json};
use common::twins::{demo, questions};
use serde_json::Value;

const NONE_OF_10: &str = "10 questions, none of which was used in fitting (compared by text)";

/// A folder with the model, and a vector fitted on 24 of the demo's questions.
struct Shelf {
    folder: tempfile::TempDir,
}

impl Shelf {
    fn new() -> Self {
        let shelf = Self { folder: tempfile::tempdir().unwrap() };
        fs::copy(demo(), shelf.path("model.gguf")).unwrap();
        shelf.some("own.csv", 0..24, false);
        let fitted = json(shelf.candor("fit", "own.csv").args(["-k", "2", "--alpha", "4"]));
        assert!(fitted["chance"]["majority"].as_f64().unwrap() >= 0.5);
        shelf
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Lines of the demo's questions as another hand would write them: blanks and capitals. With
    /// `relabelled`, what was true is false.
    fn some(&self, name: &str, lines: impl Iterator<Item = usize>, relabelled: bool) {
        let text = fs::read_to_string(questions()).unwrap();
        let all: Vec<&str> = text.lines().collect();
        let mut some = vec![all[0].to_owned()];
        some.extend(lines.map(|line| {
            let line = all[1 + line].replacen("What is", "what  is", 1);
            let mut fields: Vec<&str> = line.split(',').collect();
            if relabelled {
                let (is_true, is_false) = (fields[4], fields[5]);
                let first = is_false.split(';').next().unwrap();
                (fields[3], fields[4], fields[5]) = (first, first, is_true);
            }
            fields.join(",")
        }));
        fs::write(self.path(name), some.join("\n") + "\n").unwrap();
    }

    fn candor(&self, command: &str, data: &str) -> assert_cmd::Command {
        let mut candor = candor(self.folder.path());
        candor.args([command, "-t", "1", "--data"]).arg(self.path(data));
        candor.arg("-m").arg(self.path("model.gguf"));
        candor
    }

    fn eval(&self, data: &str) -> assert_cmd::Command {
        let mut candor = self.candor("eval", data);
        candor.args(["-n", "0", "--draws", "1"]);
        candor
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn what_was_seen_in_fitting_stands_beside_the_number() {
    let shelf = Shelf::new();
    for (name, relabelled) in [("renamed.csv", false), ("relabelled.csv", true)] {
        shelf.some(name, (0..24).rev(), relabelled);
        let report = json(&mut shelf.eval(name));
        assert_eq!(report["seen"]["n_seen"], 24, "{name}");
        assert!(
            report["seen_text"].as_str().unwrap().contains("24 questions, all of which"),
            "{name}"
        );
    }
    // In the terminal, on the page, in the card.
    let told = "24 questions, all of which were used in fitting: these results say how well the \
                vector fits them";
    let mut command = shelf.eval("renamed.csv");
    let output = command.arg("--report").arg(shelf.path("out")).assert().success();
    let terminal = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(terminal.contains(told), "{terminal}");
    assert!(text(&shelf.path("out/report.html")).contains(told));
    let mut card = candor(shelf.folder.path());
    card.args(["card", "-o", "-", "-m"]).arg(shelf.path("model.gguf"));
    let card = card.arg("--report").arg(shelf.path("out/report.json")).assert().success();
    let card = String::from_utf8(card.get_output().stdout.clone()).unwrap();
    assert!(card.contains(told), "{card}");
    assert!(card.contains("name: \"renamed (24 of 24 questions used in fitting)\""), "{card}");

    shelf.some("others.csv", 30..40, false);
    let report = json(&mut shelf.eval("others.csv"));
    assert_eq!(report["seen"]["n_seen"], 0);
    assert_eq!(report["seen_text"], NONE_OF_10);

    shelf.some("mixed.csv", 18..30, false);
    let report = json(&mut shelf.eval("mixed.csv"));
    let seen = &report["seen"];
    assert_eq!((&seen["n_seen"], &seen["n_question"]), (&6.into(), &12.into()));
    // Both halves together are the whole.
    let mc1 = |rows: &Value, name: &str| {
        let rows = rows.as_array().expect("rows");
        rows.iter().find(|row| row["name"] == name).expect("the row")["mc1"].as_f64().unwrap()
    };
    for name in ["base", "iti"] {
        let apart = (mc1(&seen["rows_seen"], name) + mc1(&seen["rows_unseen"], name)) / 2.0;
        assert!((apart - mc1(&report["rows"], name)).abs() < 1e-9, "{name}");
    }
    // Without a vector there is nothing to have seen anything.
    let report = json(shelf.eval("mixed.csv").args(["--steer", "none"]));
    assert!(report["seen"].is_null() && report["seen_text"].is_null());
}

#[test]
fn a_question_and_its_repeats_stand_in_one_half() {
    let shelf = Shelf { folder: tempfile::tempdir().unwrap() };
    fs::copy(demo(), shelf.path("model.gguf")).unwrap();
    shelf.some("twice.csv", (0..12).chain(0..4).chain(20..28), false);
    let mut command = shelf.eval("twice.csv");
    command.args(["--cv", "2", "-k", "2", "--alpha", "4", "--json"]);
    let output = command.assert().success().get_output().clone();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["n_question"], &report["seen"]["n_seen"]), (&24.into(), &0.into()));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("4 of 24 questions repeat another one"), "{stderr}");
    assert!(stderr.contains("intervals count 20"), "{stderr}");
    // Twice the same file is not twice the evidence.
    let interval = |name: &str| {
        let report = json(shelf.eval(name).args(["--steer", "none"]));
        let e = &report["rows"][0]["interval"]["mc1"];
        [&e["mean"], &e["low"], &e["high"]].map(|x| x.as_f64().unwrap())
    };
    shelf.some("once.csv", 0..12, false);
    shelf.some("again.csv", (0..12).chain(0..12), false);
    let (once, again) = (interval("once.csv"), interval("again.csv"));
    assert!(once.iter().zip(again).all(|(a, b)| (a - b).abs() < 1e-12), "{once:?} {again:?}");
}

/// What a vector has seen is known where it can be, and not called "none" where it cannot.
#[test]
fn what_nobody_knows_is_not_called_unseen() {
    let shelf = Shelf::new();
    // Statements: of some questions with their answers, and of nothing that is asked.
    let text = fs::read_to_string(questions()).unwrap();
    let statements = |name: &str, form: &dyn Fn(&str, &str) -> String| {
        let mut lines = "statement,label\n".to_owned();
        for line in text.lines().skip(1).take(24) {
            let fields: Vec<&str> = line.split(',').collect();
            let is_false = fields[5].split("; ").next().unwrap();
            for (answer, label) in [(fields[4], 1), (is_false, 0)] {
                lines += &format!("{},{label}\n", form(fields[2], answer));
            }
        }
        fs::write(shelf.path(name), lines).unwrap();
        let steer = ["-k", "2", "--alpha", "4", "-o"];
        let mut fit = shelf.candor("fit", name);
        fit.args(steer).arg(shelf.path(&format!("{name}.gguf"))).assert().success();
    };
    statements("asked.csv", &|question, answer| format!("{question} {answer}"));
    statements("other.csv", &|question, answer| format!("{answer} is what {question}"));
    let seen = |steer: &str, data: &str| {
        let steer = if steer == "none" { "none".into() } else { shelf.path(steer) };
        let report = json(shelf.eval(data).arg("--steer").arg(steer));
        (report["seen"].clone(), report["seen_text"].as_str().unwrap_or_default().to_owned())
    };
    let (own, _) = seen("asked.csv.gguf", "own.csv");
    assert_eq!(own["n_seen"], 24, "an answer behind its question is the statement");
    let (own, told) = seen("other.csv.gguf", "own.csv");
    assert!(
        own.is_null()
            && told.starts_with("Whether these questions were used in fitting is not known"),
        "{told}"
    );
    assert!(told.contains("48 texts"), "{told}");

    // A baked model carries the record of its sidecar.
    let mut bake = candor(shelf.folder.path());
    bake.args(["bake", "-m"]).arg(shelf.path("model.gguf"));
    bake.arg("--steer").arg(shelf.path("steer-own-model.gguf")).arg("-o");
    bake.arg(shelf.path("baked.gguf")).assert().success();
    fs::copy(shelf.path("baked.gguf"), shelf.path("model.gguf")).unwrap();
    let (baked, told) = seen("none", "own.csv");
    assert_eq!(baked["n_seen"], 24, "{told}");
    shelf.some("others.csv", 30..40, false);
    let (_, told) = seen("none", "others.csv");
    assert_eq!(told, NONE_OF_10);
    // Another vector beside it, of which nobody knows: then nobody knows.
    let (both, told) = seen("other.csv.gguf", "others.csv");
    assert!(
        both.is_null()
            && told.starts_with("Whether these questions were used in fitting is not known"),
        "{told}"
    );
}

/// Whole prompts are known again where they can be, and not called unseen where they cannot; of several
/// vectors each says what is known of it.
#[test]
fn a_whole_prompt_and_its_question_are_one() {
    let shelf = Shelf::new();
    let prompts = |name: &str, lines: std::ops::Range<usize>, form: &dyn Fn(&str) -> String| {
        let text = fs::read_to_string(questions()).unwrap();
        let mut rows = String::new();
        for line in text.lines().skip(1 + lines.start).take(lines.len()) {
            let fields: Vec<&str> = line.split(',').collect();
            let is_false = fields[5].split("; ").next().unwrap();
            for (answer, label) in [(fields[4], 1), (is_false, 0)] {
                let (prompt, answer) = (form(fields[2]), format!(" {answer}"));
                let row = serde_json::json!({ "prompt": prompt, "answer": answer, "label": label });
                rows += &format!("{row}\n");
            }
        }
        fs::write(shelf.path(name), rows).unwrap();
    };
    prompts("prompts.jsonl", 0..24, &|question| format!("Q: {question} A:"));
    prompts("others.jsonl", 0..24, &|question| format!("Please say: {question}"));
    for name in ["prompts", "others"] {
        let mut fit = shelf.candor("fit", &format!("{name}.jsonl"));
        fit.args(["-k", "2", "--alpha", "4", "-o"]).arg(shelf.path(&format!("{name}.gguf")));
        fit.assert().success();
    }
    shelf.some("other.csv", 30..40, false);
    let own = shelf.path("steer-own-model.gguf");
    let seen = |steer: &[&Path], data: &str| {
        let mut eval = shelf.eval(data);
        steer.iter().for_each(|path| {
            eval.arg("--steer").arg(path);
        });
        let report = json(&mut eval);
        (report["seen"].clone(), report["seen_text"].as_str().unwrap().to_owned())
    };
    let not_known = "Whether these questions were used in fitting is not known";
    let fitted = shelf.path("prompts.gguf");
    // Fitted on prompts, asked as questions in the same form; and the other way round.
    assert_eq!(seen(&[&fitted], "own.csv").0["n_seen"], 24);
    assert_eq!(seen(&[&own], "prompts.jsonl").0["n_seen"], 24);
    let (none, told) = seen(&[&fitted], "other.csv");
    assert!(none.is_null() && told.starts_with(not_known), "{told}");
    let (none, told) = seen(&[&own], "others.jsonl");
    assert!(none.is_null() && told.starts_with(not_known), "{told}");
    // Of two vectors that act together.
    let others = shelf.path("others.gguf");
    let (both, told) = seen(&[&own, &others], "own.csv");
    assert_eq!((&both["n_seen"], &both["n_unknown"]), (&24.into(), &0.into()), "{told}");
    let (_, told) = seen(&[&own, &others], "other.csv");
    assert!(told.starts_with(not_known), "{told}");
    assert!(told.ends_with(". By vector: own: none used; others: not known"), "{told}");
}

/// The demo's questions, each with another answer for the true one, drawn by a fixed rule.
fn drawn(shelf: &Shelf, name: &str, n: usize) {
    let text = fs::read_to_string(questions()).unwrap();
    let mut lines = text.lines();
    let mut some = vec![lines.next().unwrap().to_owned()];
    for (i, line) in lines.take(n).enumerate() {
        let mut fields: Vec<String> = line.split(',').map(str::to_owned).collect();
        let mut answers: Vec<String> = fields[5].split("; ").map(str::to_owned).collect();
        answers.push(fields[4].clone());
        let drawn = answers.remove((i * i + i / 3) % answers.len());
        (fields[3], fields[4], fields[5]) = (drawn.clone(), drawn, answers.join("; "));
        some.push(fields.join(","));
    }
    fs::write(shelf.path(name), some.join("\n") + "\n").unwrap();
}

#[test]
fn where_no_head_reads_the_labels_every_one_says_so() {
    let shelf = Shelf { folder: tempfile::tempdir().unwrap() };
    fs::copy(demo(), shelf.path("model.gguf")).unwrap();
    drawn(&shelf, "noise.csv", 120);
    let told = "no head reads these labels better than luck";
    let said = |command: &mut assert_cmd::Command, warns: bool| {
        let output = command.assert().success().get_output().clone();
        let [stdout, stderr] =
            [output.stdout, output.stderr].map(|s| String::from_utf8(s).unwrap());
        assert_eq!(stderr.contains(told), warns, "{stderr}");
        stdout
    };
    let beside = "always the more frequent label: 50.0 %; best with shuffled labels: up to";
    let steer = ["-k", "2", "--alpha", "4"];
    assert!(said(shelf.candor("fit", "noise.csv").args(steer), true).contains(beside));
    for page in ["cv", "given", "sweep"] {
        let mut command = match page {
            "sweep" => shelf.candor("sweep", "noise.csv"),
            _ => shelf.eval("noise.csv"),
        };
        match page {
            "cv" => command.args(["--cv", "2"]).args(steer),
            "sweep" => command.args(["-k", "2", "--alpha", "4", "--draws", "1"]),
            _ => command.args(["--limit", "12"]),
        };
        let stdout = said(command.arg("--report").arg(shelf.path(page)), true);
        assert!(stdout.contains(beside), "{page}: {stdout}");
        let html = text(&shelf.path(page).join("report.html"));
        assert!(html.contains(told) && html.contains(beside), "{page}");
    }
    let luck = "read the labels of their fit no better than luck";
    for gate in [&["--gate", "0.5"][..], &["--gate", "0.5", "--alpha", "0"]] {
        let mut run = candor(shelf.folder.path());
        run.args(["run", "-t", "1", "-n", "3", "-p", "Q: Who? A:", "-m"]);
        let output = run.arg(shelf.path("model.gguf")).args(gate).assert().success();
        let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(stderr.contains(luck), "{stderr}");
        let says_off = stderr.contains("nothing is steered at alpha 0");
        assert_eq!(says_off, gate.len() > 2, "{stderr}");
    }
    let mut chat = candor(shelf.folder.path());
    chat.args(["chat", "-t", "1", "-n", "4", "-m"]).arg(shelf.path("model.gguf"));
    let question = "Who gave us the book Principia?\n";
    let output = chat.arg("--json").write_stdin(question).assert().success().get_output().clone();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["schema"], "candor.chat/2");
    assert_eq!(document["reads_nothing"], true);
    assert!(document["messages"][1]["reading_kind"].is_string(), "{document}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains(luck), "{stderr}");
    let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("probe reading")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.contains(luck)), "{stderr}");

    for command in ["inspect", "card"] {
        let mut candor = candor(shelf.folder.path());
        match command {
            "card" => candor.args(["card", "-o", "-", "-m"]).arg(shelf.path("model.gguf")),
            _ => candor.arg("inspect").arg(shelf.path("steer-noise-model.gguf")),
        };
        let stdout = said(&mut candor, false);
        assert!(stdout.contains(told) && stdout.contains(beside), "{command}: {stdout}");
    }
}

#[test]
fn sigma_of_a_few_rows_is_warned_of_wherever_it_is_fitted() {
    let shelf = Shelf { folder: tempfile::tempdir().unwrap() };
    fs::copy(demo(), shelf.path("model.gguf")).unwrap();
    shelf.some("few.csv", 0..12, false);
    for command in ["fit", "eval", "sweep"] {
        let mut candor = shelf.candor(command, "few.csv");
        candor.args(["-k", "2", "--alpha", "4"]);
        match command {
            "eval" => candor.args(["--cv", "2", "-n", "0", "--draws", "1"]),
            "sweep" => candor.args(["--draws", "1"]),
            _ => &mut candor,
        };
        let output = candor.assert().success().get_output().clone();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains("sigma, the unit of alpha, is measured on"), "{command}: {stderr}");
    }
}
