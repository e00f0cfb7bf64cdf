//! What the README and the book tell people to type, typed: every block of `sh` runs without an error,
//! and every block of `console` prints what it shows. A block that cannot run here says why, in a
//! comment before it: `<!-- not run: why -->`.
#![cfg(all(feature = "cli", unix))]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A block of a page.
struct Block {
    language: String,
    text: String,
    line: usize,
    /// Why it is not run.
    not_run: Option<String>,
}

fn blocks(page: &str) -> Vec<Block> {
    let text = std::fs::read_to_string(root().join(page)).expect("a page");
    let mut blocks: Vec<Block> = Vec::new();
    let (mut open, mut not_run) = (false, None);
    for (event, range) in Parser::new(&text).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                let line = text[..range.start].lines().count() + 1;
                let language = language.into_string();
                let not_run = not_run.take();
                blocks.push(Block { language, text: String::new(), line, not_run });
                open = true;
            }
            Event::Text(text) if open => {
                if let Some(block) = blocks.last_mut() {
                    block.text.push_str(&text);
                }
            }
            Event::End(TagEnd::CodeBlock) => open = false,
            Event::Html(html) => {
                if let Some(why) = html.trim().strip_prefix("<!-- not run: ") {
                    not_run = Some(why.trim_end_matches("-->").trim().to_owned());
                }
            }
            _ => {}
        }
    }
    blocks.retain(|block| matches!(block.language.as_str(), "sh" | "console"));
    blocks
}

/// A folder with what the pages speak of: a model, and questions for it.
fn desk() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let put = |from: &str, to: &str| {
        std::fs::copy(root().join(from), folder.path().join(to)).expect("a copy");
    };
    put("models/demo.gguf", "model.gguf");
    // A part of the questions, so that all blocks together take a minute or two.
    let questions =
        std::fs::read_to_string(root().join("models/demo-questions.csv")).expect("questions");
    let lines: Vec<&str> = questions.lines().collect();
    let few: Vec<&str> = lines[..1].iter().chain(lines[1..].iter().step_by(16)).copied().collect();
    for name in ["TruthfulQA.csv", "questions.csv"] {
        std::fs::write(folder.path().join(name), few.join("\n") + "\n").expect("writable");
    }
    for (name, is) in [("cities.csv", "city"), ("animals.csv", "animal")] {
        let rows = (0..60).map(|i| format!("This is the {is} number {i}.,{}\n", i % 2));
        let text = format!("statement,label\n{}", rows.collect::<String>());
        std::fs::write(folder.path().join(name), text).expect("writable");
    }
    let preset = "Q: What is the capital of France? A: Paris.\n";
    std::fs::write(folder.path().join("qa_preset.txt"), preset).expect("writable");
    folder
}

/// Runs a text in bash; what it printed on both streams, and whether it went well.
fn bash(text: &str, folder: &Path) -> (bool, String) {
    let program = PathBuf::from(assert_cmd::cargo::cargo_bin!("candor"));
    let path = format!(
        "{}:{}",
        program.parent().expect("a folder").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &format!("exec 2>&1\n{text}")])
        .current_dir(folder)
        .env("PATH", path)
        .env("HOME", folder)
        .env("CANDOR_CACHE", folder.join(".cache/candor"))
        .env("CANDOR_STATE", folder.join(".state"))
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .stdin(Stdio::null())
        .output()
        .expect("bash runs");
    // As it reads on a person's machine.
    let printed = String::from_utf8_lossy(&output.stdout);
    let cache = folder.join(".cache/candor").display().to_string();
    (output.status.success(), printed.replace(&cache, "~/.cache/candor"))
}

/// The commands of a `console` block, each with what it prints.
fn session(text: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push((command.to_owned(), String::new())),
            (None, Some((_, shown))) => {
                shown.push_str(line);
                shown.push('\n');
            }
            (None, None) => panic!("a console block begins with `$ `, not with `{line}`"),
        }
    }
    steps
}

/// Types what a page says, block after block, in one folder.
fn type_out(page: &str) {
    let desk = desk();
    for block in blocks(page) {
        let place = format!("{page}:{}", block.line);
        if let Some(why) = &block.not_run {
            println!("skipped: {place}: {why}");
            continue;
        }
        if block.language == "sh" {
            let (went_well, printed) = bash(&block.text, desk.path());
            assert!(went_well, "{place}:\n{}\nprinted:\n{printed}", block.text);
            continue;
        }
        for (command, shown) in session(&block.text) {
            let (went_well, printed) = bash(&command, desk.path());
            assert!(went_well, "{place}: {command}\nprinted:\n{printed}");
            if !shown.is_empty() {
                println!("{place}: $ {command}");
                snapbox::Assert::new().eq(printed, shown);
            }
        }
    }
}

macro_rules! pages {
    ($($name:ident: $page:literal,)*) => {
        const TYPED: &[&str] = &[$($page),*];
        $(
            #[test]
            fn $name() {
                type_out($page);
            }
        )*
    };
}

pages! {
    the_readme: "README.md",
    the_first_vector: "docs/src/tutorials/first-vector.md",
    your_data: "docs/src/tutorials/your-data.md",
    pictures: "docs/src/tutorials/pictures.md",
    tuning: "docs/src/tutorials/tuning.md",
    preferences: "docs/src/tutorials/preferences.md",
    measuring: "docs/src/tutorials/measuring.md",
    shipping: "docs/src/tutorials/shipping.md",
    machines: "docs/src/tutorials/machines.md",
    the_sidecar: "docs/src/reference/sidecar.md",
}

#[test]
fn no_page_is_left_out() {
    let mut with_blocks = BTreeSet::new();
    let mut folders = vec![PathBuf::from("docs/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).expect("a folder") {
            let path = folder.join(entry.expect("an entry").file_name());
            if root().join(&path).is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                let page = path.to_str().expect("UTF-8").to_owned();
                if blocks(&page).iter().any(|block| block.not_run.is_none()) {
                    with_blocks.insert(page);
                }
            }
        }
    }
    let typed: BTreeSet<String> = TYPED.iter().map(ToString::to_string).collect();
    let left_out: Vec<_> = with_blocks.difference(&typed).collect();
    assert!(left_out.is_empty(), "add these to `pages!`: {left_out:?}");
}

#[test]
fn a_block_that_is_not_run_says_why() {
    for page in TYPED {
        for block in blocks(page) {
            assert!(block.not_run.is_none_or(|why| why.len() > 3), "{page}:{}", block.line);
        }
    }
}
