//! `candor bench`: every path is measured, checked, and reported in every form.
#![cfg(feature = "cli")]

mod common;

use std::path::Path;

use assert_cmd::Command;
use candor::gguf::TensorType;
use common::fixture::{Arch, Fixture};
use common::program::{candor, json, refusal};
use serde_json::Value;

/// `candor bench` with sizes that take no time.
fn bench(cache: &Path, args: &[&str]) -> Command {
    let mut command = candor(cache);
    command.args(["bench", "-p", "8", "-n", "4", "-r", "2", "-t", "1", "--min-time", "0"]);
    command.args(args);
    command
}

fn on_fixture(arch: Arch, args: &[&str]) -> (tempfile::TempDir, Command) {
    let folder = tempfile::tempdir().unwrap();
    let path = Fixture::new(arch).quantized(TensorType::Q8_0).write(folder.path());
    let mut command = bench(folder.path(), args);
    command.arg("-m").arg(path);
    (folder, command)
}

/// Phase and path of every result.
fn measured(document: &Value) -> Vec<(&str, &str)> {
    let results = document["results"].as_array().unwrap();
    results.iter().map(|r| (r["phase"].as_str().unwrap(), r["path"].as_str().unwrap())).collect()
}

const ALL: [&str; 5] = ["plain", "observe", "in-graph", "callback", "baked"];

#[test]
fn measures_every_path_of_the_demo_model() {
    let cache = tempfile::tempdir().unwrap();
    let document = json(&mut bench(cache.path(), &[]));
    let expected: Vec<_> = ["prefill", "decode"]
        .into_iter()
        .flat_map(|phase| ALL.map(|path| (phase, path)))
        .chain([("set-vector", "in-graph")])
        .collect();
    assert_eq!(measured(&document), expected);
    for result in document["results"].as_array().unwrap() {
        let samples = result["samples_ns"].as_array().unwrap();
        assert_eq!(samples.len(), 2);
        assert!(samples.iter().all(|ns| ns.as_u64().unwrap() > 0));
        assert_eq!(
            (result["n_sequence"].as_u64(), result["n_vector"].as_u64()),
            (Some(1), Some(1))
        );
        let n_token = match result["phase"].as_str().unwrap() {
            "prefill" => 8,
            "decode" => 4,
            _ => {
                assert!(result["ratio"].is_null());
                continue;
            }
        };
        assert_eq!(result["n_token"], n_token);
        let ratio = &result["ratio"];
        let median = ratio["median"].as_f64().unwrap();
        assert!(median > 0.0 && median.is_finite(), "{result}");
        assert!(ratio["low"].is_null() && ratio["high"].is_null(), "two rounds have no interval");
        if result["path"] == "plain" {
            assert_eq!(median, 1.0);
        }
    }
    for (place, names) in [
        ("build", ["candor", "llama_cpp_sys_2", "features", "target_features"].as_slice()),
        ("machine", &["os", "arch", "n_core", "devices"]),
        ("model", &["path", "name", "architecture", "fingerprint", "n_byte", "n_parameter"]),
        (
            "settings",
            &["n_prompt", "n_predict", "n_round", "n_sequence", "n_vector", "seed", "steer"],
        ),
        ("memory", &["bank", "contexts"]),
    ] {
        for name in names {
            assert!(document[place].get(name).is_some(), "{place}.{name}");
        }
    }
    assert_eq!(document["settings"]["steer"], Value::Null);
    assert_eq!(document["n_head_steered"], 40, "the worst case is every head");
}

#[test]
fn checks_that_every_path_computes_what_it_should() {
    let cache = tempfile::tempdir().unwrap();
    let checks = &json(&mut bench(cache.path(), &[]))["checks"];
    assert_eq!(checks["off_and_plain"], 0.0, "row 0 is the plain model, to the last bit");
    assert_eq!(checks["in_graph_and_callback"], 0.0, "both paths are one function");
    let effect = checks["steered_and_plain"].as_f64().unwrap();
    let baked = checks["steered_and_baked"].as_f64().unwrap();
    assert!(effect > 0.0 && baked < 0.5 * effect, "{checks}");
}

#[test]
fn says_why_a_path_is_not_measured() {
    let (_folder, mut command) = on_fixture(Arch::Qwen2, &[]);
    let document = json(&mut command);
    assert!(!measured(&document).iter().any(|(_, path)| *path == "baked"));
    assert_eq!(document["skipped"][0]["path"], "baked");
    let reason = document["skipped"][0]["reason"].as_str().unwrap();
    assert!(reason.contains("no bias"), "{reason}");
}

#[test]
fn every_sequence_can_have_a_vector_of_its_own() {
    let args = ["--sequences", "4", "--vectors", "3"];
    let (_folder, mut command) = on_fixture(Arch::Qwen3, &args);
    let document = json(&mut command);
    assert_eq!(measured(&document).len(), 2 * 4 + 1, "all but baked");
    let alphas: Vec<f64> =
        document["alphas"].as_array().unwrap().iter().map(|a| a.as_f64().unwrap()).collect();
    assert!(alphas.len() == 3 && alphas.windows(2).all(|pair| pair[0] > pair[1]), "{alphas:?}");
    for result in document["results"].as_array().unwrap() {
        assert_eq!((&result["n_sequence"], &result["n_vector"]), (&4.into(), &3.into()));
        if result["phase"] == "decode" {
            assert_eq!(result["n_token"], 16, "4 tokens of 4 sequences");
        }
    }
    // 3 layers, 4 rows, 4 heads of 32 floats.
    assert_eq!(document["memory"]["bank"], 3 * 4 * 4 * 32 * 4);
}

#[test]
fn measures_only_what_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = candor(folder.path());
    command.args(["bench", "-p", "8", "-n", "0", "-r", "1", "-t", "1", "--min-time", "0"]);
    command.args(["--paths", "in-graph"]);
    assert_eq!(measured(&json(&mut command)), [("prefill", "plain"), ("prefill", "in-graph")]);
}

#[test]
fn steers_with_a_sidecar_when_given_one() {
    let cache = tempfile::tempdir().unwrap();
    let sidecar = cache.path().join("steer-x.gguf");
    candor(cache.path())
        .args(["fit", "-t", "1", "-k", "3", "--alpha", "4", "-o"])
        .arg(&sidecar)
        .assert()
        .success();
    let mut command = bench(cache.path(), &["--steer"]);
    let document = json(command.arg(&sidecar));
    assert_eq!(document["n_head_steered"], 3);
    assert_eq!(document["alphas"][0], 4.0);
    assert_eq!(document["settings"]["steer"].as_str().unwrap().len(), 64);
}

#[test]
fn a_csv_record_says_all_that_it_depends_on() {
    let cache = tempfile::tempdir().unwrap();
    let output = bench(cache.path(), &["--csv"]).assert().success().get_output().clone();
    let mut reader = csv::Reader::from_reader(output.stdout.as_slice());
    let header = reader.headers().unwrap().clone();
    let column =
        |name: &str| header.iter().position(|h| h == name).unwrap_or_else(|| panic!("{name}"));
    let columns = ["phase", "path", "samples_ns", "ratio_median", "n_threads", "model_fingerprint"];
    let [phase, path, samples, ratio, n_threads, fingerprint] = columns.map(column);
    let records: Vec<_> = reader.records().map(|record| record.unwrap()).collect();
    assert_eq!(records.len(), 11);
    for record in &records {
        assert_eq!(record[samples].split(' ').count(), 2);
        assert_eq!((&record[n_threads], record[fingerprint].len()), ("1", 64));
    }
    assert_eq!(
        (&records[0][phase], &records[0][path], &records[0][ratio]),
        ("prefill", "plain", "1")
    );
}

#[test]
fn a_markdown_table_has_a_line_per_result() {
    let cache = tempfile::tempdir().unwrap();
    let output = bench(cache.path(), &["--md"]).assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    let n_row = text.lines().filter(|line| line.starts_with("| ") && !line.contains("---")).count();
    assert_eq!(n_row, 1 + 11, "{text}");
}

#[test]
fn people_get_an_aligned_table() {
    let cache = tempfile::tempdir().unwrap();
    let output = bench(cache.path(), &[]).assert().success().get_output().clone();
    let text = String::from_utf8(output.stdout).unwrap();
    for word in ["machine", "tokens/s", "× plain", "in-graph", "set-vector"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(output.stderr.is_empty(), "llama.cpp keeps quiet");
}

#[test]
fn refuses_sizes_that_cannot_be() {
    let cache = tempfile::tempdir().unwrap();
    let message = |args: &[&str]| {
        refusal(candor(cache.path()).args(["bench", "-r", "1", "-t", "1"]).args(args))
    };
    assert!(message(&["-p", "0", "-n", "0"]).contains("neither a prefill nor a decode"));
    assert!(message(&["--vectors", "2"]).contains("more than the 1 sequences"));
    let text = message(&["-p", "3", "--sequences", "4"]);
    assert!(text.contains("3 tokens cannot be dealt out to 4 sequences"), "{text}");
    let folder = tempfile::tempdir().unwrap();
    let path = Fixture::new(Arch::Gpt2).write(folder.path());
    let text = refusal(candor(folder.path()).args(["bench", "-p", "600", "-m"]).arg(path));
    assert!(text.contains("a sequence of 600, and the model was trained on 512"), "{text}");
}

#[test]
fn refuses_wrong_usage() {
    let cache = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (["--paths", "fast"].as_slice(), "`fast` is not one of plain, observe"),
        (&["--csv", "--md"], "cannot be used with"),
        (&["--csv", "--json"], "cannot be used with"),
        (&["-r", "0"], "whole number from 1"),
        (&["--alpha", "3"], "--steer"),
    ] {
        let output = candor(cache.path()).arg("bench").args(args).assert().code(2);
        let stderr = String::from_utf8(output.get_output().stderr.clone()).unwrap();
        assert!(stderr.contains(expected), "{stderr}");
    }
    let message = refusal(candor(cache.path()).args(["bench", "-m", "no/such.gguf"]));
    assert!(message.contains("no/such.gguf"), "{message}");
}

/// `candor bench capture` or `probe` with sizes that take no time.
fn bench_of(cache: &Path, what: &str, args: &[&str]) -> Command {
    let mut command = candor(cache);
    command.args(["bench", what, "-r", "2", "-t", "1"]).args(args);
    command
}

#[test]
fn capture_is_measured_both_ways() {
    let cache = tempfile::tempdir().unwrap();
    let file = cache.path().join("prompts.jsonl");
    let args = ["--limit", "6", "--min-time", "0", "--prompts", file.to_str().unwrap()];
    let document = json(&mut bench_of(cache.path(), "capture", &args));
    let number = |name: &str| document[name].as_f64().unwrap_or_else(|| panic!("{name}"));
    let prompts: Vec<Vec<i32>> = std::fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(number("n_prompt"), prompts.len() as f64);
    assert_eq!(number("n_token_prompt"), prompts.iter().map(Vec::len).sum::<usize>() as f64);
    assert!(number("n_token_computed") < number("n_token_prompt"), "beginnings are shared");
    assert_eq!(document["settings"]["n_question"], 6);
    for samples in ["shared_ns", "one_by_one_ns"] {
        assert_eq!(document[samples].as_array().unwrap().len(), 2);
    }
    assert!(number("n_prompt_per_second") > 0.0 && document["speedup"]["median"].is_number());
    bench_of(cache.path(), "capture", &["--limit", "2", "--min-time", "0", "--csv"])
        .assert()
        .success();
    let message = refusal(&mut bench_of(cache.path(), "capture", &["--limit", "1"]));
    assert!(message.contains("rounds: 2 cannot be made of 1 questions"), "{message}");
}

#[test]
fn trying_heads_is_measured_both_ways() {
    let cache = tempfile::tempdir().unwrap();
    let bench = |args: &[&str]| {
        let mut command = candor(cache.path());
        command.args(["bench", "select", "--limit", "2", "-t", "1"]).args(args);
        command
    };
    let document = json(&mut bench(&["--heads", "6"]));
    let number = |name: &str| document[name].as_f64().unwrap_or_else(|| panic!("{name}"));
    assert_eq!((number("n_head"), number("n_head_model"), number("n_question")), (6.0, 40.0, 2.0));
    assert!(4.0 * number("n_token_side_by_side") < number("n_token_one_by_one"), "it is shared");
    // An F16 cache rounds: what differs is far smaller than what is measured.
    assert!(number("difference") < 0.02 * number("largest_effect"), "{document}");
    assert!(number("seconds_all_heads") > 0.0 && document["speedup"]["median"].is_number());
    bench(&["--heads", "2", "--csv"]).assert().success();
    let message = refusal(bench(&["--data", "no/such.csv"]).arg("-m").arg("no/such.gguf"));
    assert!(message.contains("no/such"), "{message}");
}

#[test]
fn probes_are_measured_on_drawn_rows_and_on_a_store() {
    let cache = tempfile::tempdir().unwrap();
    let drawn = ["--rows", "300", "--dim", "8", "--heads", "4"];
    let document = json(&mut bench_of(cache.path(), "probe", &drawn));
    assert_eq!((&document["n_probe"], &document["d_head"]), (&4.into(), &8.into()));
    assert_eq!(document["n_row_train"].as_u64().unwrap(), 240);
    assert_eq!(document["accuracies"].as_array().unwrap().len(), 4);
    assert_eq!(document["samples_ns"].as_array().unwrap().len(), 2);

    let store = cache.path().join("a.safetensors");
    candor(cache.path()).args(["capture", "-t", "1", "-o"]).arg(&store).assert().success();
    let args = ["--activations", store.to_str().unwrap()];
    let document = json(&mut bench_of(cache.path(), "probe", &args));
    assert_eq!((&document["n_probe"], &document["d_head"]), (&40.into(), &24.into()));
    let accuracy = document["accuracy_mean"].as_f64().unwrap();
    assert!((0.5..1.0).contains(&accuracy), "{accuracy}");
    let args = ["--activations", store.to_str().unwrap(), "--rows", "3"];
    bench_of(cache.path(), "probe", &args).assert().code(2);
}
