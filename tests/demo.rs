//! The main job on the built-in model: what the book claims of it.
#![cfg(feature = "cli")]

mod common;

use common::program::{candor, json};
use serde_json::Value;

fn row<'a>(document: &'a Value, name: &str) -> &'a Value {
    let rows = document["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no row `{name}`"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn steering_makes_the_demo_model_tell_what_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let document = json(candor(folder.path()).arg("demo"));
    let [base, iti, random] = ["base", "iti", "random"].map(|name| row(&document, name));
    let mc1 = |row: &Value| number(&row["mc1"]);
    println!("{document:#}");

    // README: from 41.9 to 97.8 at a KL of 0.023.
    assert!(mc1(iti) >= mc1(base) + 0.55, "MC1 from {} to {}", mc1(base), mc1(iti));
    assert!(number(&iti["kl"]) <= 0.025);
    assert!(
        (number(&iti["true"]) - mc1(iti)).abs() <= 0.05,
        "what is written is as true as MC1 says"
    );
    assert!((mc1(random) - mc1(base)).abs() <= 0.05, "random heads and directions change little");
    // Ten draws in each fold, other ones in each.
    assert_eq!(random["draws"]["n"], 20);
    let [low, high] = ["low", "high"].map(|end| number(&random["interval"]["mc1"][end]));
    assert!(low < mc1(random) && mc1(random) < high && high - low < 0.15, "{low} to {high}");
    assert_eq!(number(&base["kl"]), 0.0);

    for field in ["k", "alpha", "direction", "n_question", "folds", "seed", "seconds"] {
        assert!(!document[field].is_null(), "{field}");
    }
    assert!(
        document["model"]["fingerprint"].is_string()
            && document["model"]["architecture"] == "llama"
    );
    for name in ["base", "iti", "random", "instruction"] {
        for field in ["mc1", "mc2", "mc3", "true"] {
            assert!(row(&document, name)[field].is_number(), "{name} {field}");
        }
        assert!(row(&document, name)["info"].is_null(), "no judge, no info");
    }

    let eval = ["eval", "--cv", "2", "--draws", "1", "-n", "0"];
    let evaluated = json(candor(folder.path()).args(eval));
    for name in ["base", "iti", "instruction"] {
        for field in ["mc1", "mc2", "mc3", "ce", "kl"] {
            let [a, b] = [&document, &evaluated].map(|d| row(d, name)[field].clone());
            assert_eq!(a, b, "{name} {field} of demo and of eval --cv 2");
        }
    }
}
