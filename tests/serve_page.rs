//! The page of `candor serve`, used as a person uses it, without a mouse.
#![cfg(all(feature = "cli", feature = "serve", unix))]

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use candor::steer::Sidecar;
use common::browser::{Tab, browser};
use common::served::Served;
use common::sidecar::sidecar;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo.gguf");
const VECTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo-vector.gguf");

/// What can be used, by what a person calls it.
const CONTROLS: &str = "[...document.querySelectorAll('button, input, textarea, select, summary, pre')]\
    .filter(it => it.checkVisibility() && !it.disabled)";

/// The text of the last answer, without its title.
const ANSWER: &str = "[...[...document.querySelectorAll('.answer')].at(-1).querySelectorAll('span:not(.head)')]\
    .map(it => it.textContent).join('')";

#[test]
fn a_person_chats_steers_and_reads_by_keyboard() {
    let Some(browser) = browser() else { return };
    let folder = tempfile::tempdir().unwrap();
    let vectors = folder.path().join("vectors");
    std::fs::create_dir(&vectors).unwrap();
    let model = common::load(Path::new(MODEL));
    let own = Sidecar::read(Path::new(VECTOR)).unwrap().vector;
    sidecar(&model, &own, 10.0).write(&vectors.join("truth.gguf")).unwrap();
    // A turn and the one before it fit.
    let arguments = ["-m", MODEL, "--steer", "none", "--vectors", vectors.to_str().unwrap()];
    let server = Served::start(folder.path(), &arguments);
    let origin = format!("http://{}/", server.address);

    let mut tab = Tab::open(&browser, &origin, 1200);
    tab.until("document.querySelectorAll('#sliders input').length === 1");
    // Every control can be reached by the tabulator, each has a name, and the focus is seen.
    tab.evaluate("document.querySelectorAll('details').forEach(it => { it.open = true; })");
    let controls = tab.evaluate(&format!("{CONTROLS}.length")).as_u64().unwrap();
    assert!(controls >= 9, "{controls}");
    let name = "(it => it.id || it.textContent)";
    let all = tab.evaluate(&format!("{CONTROLS}.map({name})"));
    let mut left: BTreeSet<String> = serde_json::from_value(all).unwrap();
    for _ in 0..2 * controls + 10 {
        tab.press("Tab", 9, "");
        let at = tab.evaluate(&format!("{name}(document.activeElement)"));
        left.remove(at.as_str().unwrap());
    }
    assert!(left.is_empty(), "no key reaches {left:?}");
    let nameless = tab.evaluate(&format!(
        "{CONTROLS}.filter(it => !(it.ariaLabel || it.textContent.trim() || it.labels?.length)).map(it => \
         it.outerHTML)"
    ));
    assert_eq!(nameless.as_array().unwrap().len(), 0, "{nameless}");

    // A question, sent by Enter.
    let ask = |tab: &mut Tab, n: usize| {
        tab.evaluate("document.getElementById('text').focus()");
        tab.write("What is the capital of Australia?");
        tab.press("Enter", 13, "\r");
        tab.until(&format!(
            "document.querySelectorAll('.answer').length === {n} && !running.length && {ANSWER}.length"
        ));
        tab.evaluate(ANSWER).as_str().unwrap().to_owned()
    };
    let plain = ask(&mut tab, 1);
    assert_eq!(tab.evaluate("document.querySelector('.answer .head').textContent"), "not steered");
    // Each token is shaded by its reading, and says it in words.
    let shaded = "[...document.querySelectorAll('.answer span:not(.head)')]\
        .filter(it => it.style.background && it.title.startsWith('read as true: ')).length";
    assert!(tab.evaluate(shaded).as_u64().unwrap() > 0, "{plain}");

    // With nothing typed, the request to copy is the one that was answered.
    let code = tab.evaluate("document.getElementById('code').textContent");
    assert_eq!(code.as_str().unwrap().matches("\"role\"").count(), 1, "{code}");

    // What reads no better than luck is no reader, however strong.
    let luck = "vectors.unshift({ name: 'luck', value: 9, has_probes: true, reads_nothing: true })";
    assert_eq!(tab.evaluate(&format!("{luck}, reader().name")), "truth");
    assert_eq!(tab.evaluate("vectors.shift(), vectors.length"), 1);

    // The slider, by its arrow keys: 20 steps of a half; the request to copy follows it.
    tab.evaluate("document.getElementById('clear').click(), document.querySelector('#sliders input').focus()");
    for _ in 0..20 {
        tab.press("ArrowRight", 39, "");
    }
    assert_eq!(tab.evaluate("vectors[0].value"), 10.0);
    let label = tab.evaluate("document.querySelector('#sliders label').textContent");
    assert_eq!(label, "truth 10 (stored: 10)");
    assert_eq!(tab.evaluate("document.querySelector('#sliders output').textContent"), "10");
    let code = tab.evaluate("document.getElementById('code').textContent");
    assert!(code.as_str().unwrap().contains("\"scale\": 10"), "{code}");
    let steered = ask(&mut tab, 1);
    assert_eq!(tab.evaluate("document.querySelector('.answer .head').textContent"), "truth 10");
    assert_ne!(steered, plain);
    let asked = |steering: serde_json::Value| {
        let body = serde_json::json!({ "messages": [{ "role": "user", "content":
            "What is the capital of Australia?" }], "temperature": 0, "max_tokens": 128,
            "steering": steering });
        let reply = server.post("/v1/chat/completions", &body).json();
        reply["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    assert_eq!(asked(false.into()).trim(), plain.trim());
    assert_eq!(asked("truth".into()).trim(), steered.trim());

    // Two answers side by side.
    tab.evaluate(
        "document.getElementById('clear').click(), document.getElementById('compare').focus()",
    );
    tab.press(" ", 32, " ");
    assert_eq!(tab.evaluate("document.getElementById('otherbox').hidden"), false);
    ask(&mut tab, 2);
    let heads =
        tab.evaluate("[...document.querySelectorAll('.answer .head')].map(it => it.textContent)");
    assert_eq!(heads, serde_json::json!(["truth 10", "not steered"]));

    // Nothing came from elsewhere, nothing failed, and on a phone nothing stands beyond the edge.
    let elsewhere: BTreeSet<&String> =
        tab.asked.iter().filter(|it| !it.starts_with(&origin) && *it != "about:blank").collect();
    assert!(elsewhere.is_empty() && !tab.asked.is_empty(), "{elsewhere:?}");
    assert!(tab.faults.is_empty(), "{:?}", tab.faults);
    let phone =
        serde_json::json!({ "width": 420, "height": 900, "deviceScaleFactor": 1, "mobile": true });
    tab.call("Emulation.setDeviceMetricsOverride", &phone);
    let width = tab.evaluate("document.documentElement.scrollWidth").as_u64().unwrap();
    assert!(width <= 420, "{width}");
    let picture = tab.picture();
    assert!(picture.len() > 10_000, "{} bytes", picture.len());
    if let Some(folder) = std::env::var_os("CANDOR_TEST_PLOTS") {
        std::fs::write(Path::new(&folder).join("page-420.png"), picture).unwrap();
        tab.call("Emulation.clearDeviceMetricsOverride", &serde_json::json!({}));
        std::fs::write(Path::new(&folder).join("page-1200.png"), tab.picture()).unwrap();
    }
}
