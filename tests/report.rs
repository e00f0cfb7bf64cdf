//! A sweep's report, opened as a person opens it.
#![cfg(feature = "cli")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use candor::steer::{Positions, Sidecar};
use common::browser::{browse, browser};
use common::program::{candor, json};

/// Width, height and how many colours a picture has.
fn look(path: &Path) -> (u32, u32, usize) {
    let file = std::io::BufReader::new(std::fs::File::open(path).expect("a screenshot"));
    let mut reader = png::Decoder::new(file).read_info().expect("a PNG");
    let mut pixels = vec![0; reader.output_buffer_size()];
    let info = reader.next_frame(&mut pixels).expect("a picture");
    let n_byte = info.color_type.samples();
    let colours: BTreeSet<&[u8]> = pixels[..info.buffer_size()].chunks_exact(n_byte).collect();
    (info.width, info.height, colours.len())
}

/// The text between `start` and the next `end`.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("{start} is missing"));
    rest.split_once(end).unwrap_or_else(|| panic!("{end} is missing")).0
}

#[test]
fn the_report_of_a_sweep_opens_in_a_browser() {
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report");
    let document = json(
        candor(folder.path())
            .args(["sweep", "--heads", "1,4", "--alpha", "0,4,10", "--limit", "60", "-n", "3"])
            .args(["--draws", "2", "--report"])
            .arg(&report),
    );
    let on_disk = std::fs::read(report.join("report.json")).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&on_disk).unwrap(), document);
    assert_eq!(document["cells"].as_array().unwrap().len(), 6);
    for field in ["mc1", "mc2", "mc3", "ce", "kl", "true"] {
        for cell in document["cells"].as_array().unwrap() {
            assert!(cell["held_out"][field].is_number(), "{field} of {cell}");
        }
    }
    let rows = document["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5);
    assert!(rows[1]["mc1"].as_f64() > rows[0]["mc1"].as_f64(), "steering helps");
    assert_eq!(document["recommended"].as_array().unwrap().len(), 2);
    let command = document["overall"]["command"].as_str().expect("steering helps");
    assert!(command.starts_with("candor fit -k "), "{command}");
    assert!(!report.join("sweep.partial.jsonl").exists(), "what was partial is whole");

    let page = report.join("report.html");
    let text = std::fs::read_to_string(&page).unwrap();
    for outside in ["http://", "https://", "<script", "<link", "@import", "src="] {
        let text = text.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        assert!(!text.contains(outside), "the page needs nothing else, but has {outside}");
    }
    let Some(browser) = browser() else { return };
    let dom = browse(&browser, &page, 1200, &["--dump-dom".to_owned()]);
    assert_eq!(dom.matches("<svg").count(), 1, "truth against KL");
    let curve = between(&dom, "id=\"curve-1\"", "</figure>");
    // A point for every cell, and one for each line of the legend.
    assert_eq!(curve.matches("<circle").count(), 6 + 2);
    assert_eq!(dom.matches("class=\"heat\"").count(), 3, "MC1, true, KL");
    for heat in dom.split("class=\"heat\"").skip(1) {
        let heat = heat.split("</table>").next().unwrap();
        assert_eq!((heat.matches("<tr>").count(), heat.matches("<td").count()), (3, 6));
        assert_eq!(heat.matches(" marked").count(), recommended(&document));
        assert!(!heat.contains('–') && !heat.contains("NaN"), "every cell has its number");
    }
    let results = between(&dom, "id=\"results\"", "</table>");
    assert_eq!(results.matches("<tr").count(), 6);
    assert_eq!(between(&dom, "id=\"recommended\"", "</table>").matches("<tr>").count(), 3);
    for nothing in ["NaN", "undefined", "none</td>", "<td></td>"] {
        assert!(!dom.contains(nothing), "{nothing}");
    }

    for width in [1200, 390] {
        let picture = folder.path().join(format!("{width}.png"));
        browse(&browser, &page, width, &[format!("--screenshot={}", picture.display())]);
        let (w, h, n_colour) = look(&picture);
        assert!(w >= 390 && h >= 1000, "{w} × {h}");
        assert!(n_colour > 100, "the picture has {n_colour} colours");
        assert!(std::fs::metadata(&picture).unwrap().len() > 20_000);
    }
}

#[test]
fn a_sweep_says_how_to_ship_what_helps_and_only_that() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = || {
        let mut command = candor(folder.path());
        command.current_dir(folder.path());
        command
    };
    let stories = include_str!("../models/demo-neutral.txt").lines().take(6);
    let stories: Vec<&str> = stories.collect();
    std::fs::write(folder.path().join("some stories.txt"), stories.join("\n")).unwrap();
    std::fs::write(folder.path().join("before.txt"), "all is well in the rain.").unwrap();
    let sweep = |alphas: &str, how: &[&str]| {
        let mut sweep = in_folder();
        sweep.args(["sweep", "--heads", "1", "--alpha", alphas, "--draws", "1"]).args(how);
        json(sweep.args(["--template", "Q {question}\\nA {answer}"]))["overall"].clone()
    };
    // Everything that changes a vector is other than usual.
    let store = ["--activations", "what was captured.safetensors"];
    let neutral = ["--neutral", "some stories.txt", "--preamble", "before.txt"];
    let measure = ["--policy", "all", "--sigma", "all"];
    let model = ["--cache", "f32", "--seed", "7", "--kl-budget", "5"];
    let overall = sweep("0,4", &[&store[..], &neutral, &measure, &model].concat());
    let command = overall["command"].as_str().expect("steering helps");
    let expected = [
        "candor fit --cache f32 --template ",
        " --seed 7 --activations 'what was captured.safetensors' -k 1 --alpha 4 --neutral ",
        "'some stories.txt' --preamble before.txt --policy all --sigma all",
    ];
    assert!(command.starts_with(expected[0]) && command.ends_with(&expected[1..].concat()));
    let words = shlex::split(command).expect("a shell takes it apart");
    let fitted = json(in_folder().args(&words[1..]));
    assert_eq!(fitted["vector"], overall["vector"], "{command}");
    let path = Path::new(fitted["path"].as_str().expect("a path"));
    let sidecar = Sidecar::read(path).unwrap();
    assert_eq!(sidecar.vector.fingerprint(), overall["vector"]);
    assert_eq!((sidecar.about.alpha, sidecar.about.seed), (4.0, 7));
    assert_eq!(sidecar.about.positions, Positions::All);
    // Another seed makes another vector: its own capture has other rows for sigma.
    let other = words.iter().map(|word| match word.as_str() {
        "7" => "8",
        "what was captured.safetensors" => "other.safetensors",
        word => word,
    });
    let other = json(in_folder().args(other.skip(1)));
    assert_ne!(other["vector"], overall["vector"]);

    let nothing = sweep("0,0.0001", &[]);
    assert!(nothing["command"].is_null() && nothing["vector"].is_null(), "{nothing}");
}

/// How many cells are recommended: one, where both folds agree.
fn recommended(document: &serde_json::Value) -> usize {
    let cells = document["recommended"].as_array().unwrap();
    let distinct: BTreeSet<String> =
        cells.iter().map(|cell| format!("{} {}", cell["k"], cell["alpha"])).collect();
    distinct.len()
}
