//! The page of environment variables names those that the code reads, and no others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What cargo or the build script sets for a build, what every program has, and names of macros that
/// look like variables.
const NOT_SET_BY_PEOPLE: [&str; 5] =
    ["OUT_DIR", "CANDOR_LLAMA_ROOT", "PATH", "CANDOR_GUARD_H", "CANDOR_SIGHT"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder, or a file, whose names end so.
fn files(path: PathBuf, endings: &[&str], found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        let is_built = [".venv", "node_modules", "__pycache__"];
        if is_built.iter().any(|name| path.ends_with(name)) {
            return;
        }
        for entry in path.read_dir().expect("a folder") {
            files(entry.expect("an entry").path(), endings, found);
        }
    } else if path.extension().is_some_and(|it| endings.iter().any(|ending| it == *ending)) {
        found.push(path);
    }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'
}

/// The words of a text that could be variables.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let is_of_a_word = |c: char| c.is_alphanumeric() || c == '_';
    text.split(move |c| !is_of_a_word(c))
        .filter(|word| word.len() > 3 && word.chars().all(is_of_a_name))
}

/// Variables that a text reads: by their prefix, wherever they stand, or as what a function asks for.
fn read_in(text: &str) -> BTreeSet<&str> {
    const PREFIXES: [&str; 5] = ["CANDOR_", "HF_", "HUGGING_FACE_", "OPENAI_", "LLAMA_ARG_"];
    const ASKS: [&str; 4] = ["env::var(\"", "env::var_os(\"", "getenv(\"", "environ.get(\""];
    let by_prefix = words(text).filter(|word| PREFIXES.iter().any(|start| word.starts_with(start)));
    let asked = ASKS.iter().flat_map(|ask| text.split(ask).skip(1));
    let asked = asked.filter_map(|rest| rest.split('"').next());
    // `${NAME:-…}` of a shell.
    let of_shell = text.split("${").skip(1).filter_map(|rest| {
        let end = rest.find(|c| !is_of_a_name(c))?;
        rest[end..].starts_with([':', '-']).then(|| &rest[..end]).filter(|name| name.len() > 3)
    });
    by_prefix.chain(asked).chain(of_shell).collect()
}

#[test]
fn the_page_of_variables_names_all_that_are_read() {
    let mut sources = Vec::new();
    for folder in
        ["src", "vendor", "build.rs", "scripts", "tests", "python", "benches", "fuzz/fuzz_targets"]
    {
        let endings = ["rs", "c", "h", "cpp", "sh", "py"];
        files(root().join(folder), &endings, &mut sources);
    }
    sources.retain(|path| !path.ends_with("tests/environment.rs"));
    assert!(sources.len() > 300, "{}", sources.len());
    let texts: Vec<String> =
        sources.iter().map(|path| std::fs::read_to_string(path).expect("a text")).collect();
    let page =
        std::fs::read_to_string(root().join("docs/src/reference/environment.md")).expect("a page");
    let named: BTreeSet<&str> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|code| code.len() > 3 && code.chars().all(is_of_a_name))
        .collect();
    let is_of_cargo = |name: &str| {
        ["CARGO_FEATURE_", "CARGO_CFG_", "DEP_"].iter().any(|start| name.starts_with(start))
            || NOT_SET_BY_PEOPLE.contains(&name)
    };
    let read: BTreeSet<&str> =
        texts.iter().flat_map(|text| read_in(text)).filter(|name| !is_of_cargo(name)).collect();
    let missing: Vec<_> = read.iter().filter(|name| !named.contains(*name)).collect();
    assert!(missing.is_empty(), "environment.md lacks {missing:?}");
    let all: BTreeSet<&str> = texts.iter().flat_map(|text| words(text)).collect();
    let gone: Vec<_> = named.iter().filter(|name| !all.contains(*name)).collect();
    assert!(gone.is_empty(), "environment.md names {gone:?}, which nothing reads");
}
