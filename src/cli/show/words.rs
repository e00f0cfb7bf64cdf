//! What the library says to every program, in the words of this one: which option does it.

/// What the library says to do, and how the command line says it.
const WORDS: [(&str, &str); 20] = [
    ("raise the context size", "raise the context size (-c)"),
    (
        "fit a vector for this model",
        "fit a vector for this model, or pass --force if you know that they match",
    ),
    (
        "they were made for different models",
        "they were made for different models: pass --force if you know that they match",
    ),
    (
        "choose which all of them do",
        "choose with `candor mix --policy`, which makes one sidecar of them, or with `candor run \
         --policy`",
    ),
    ("name its projector file", "name its mmproj file with --mmproj"),
    ("choose one of them", "choose one with --mmproj"),
    ("name another folder for features", "name another folder with --features"),
    ("rank by accuracy", "try --select accuracy"),
    ("take the same share of the data", "give the same --limit"),
    ("give the same form of prompts", "give the same --template or --chat"),
    ("do not render the template", "leave --chat out"),
    ("render the template", "add --chat"),
    ("give the same projector file", "give the same --mmproj"),
    ("more pairs, or do not train them", "more pairs, or --method iti"),
    ("that is without a template", "that is without --chat"),
    ("give the same seed", "give the same --seed"),
    (
        "measure fewer of them, or more sequences",
        "measure fewer (-p, -n) or in more sequences (--sequences)",
    ),
    (
        "steer it with candor, or export a control vector, which every llama.cpp program can load",
        "steer it with `candor run` or `candor chat`, or export what every llama.cpp program can load with \
         `candor export --format control-vector`",
    ),
    ("leave that path out", "leave it out with --paths"),
    ("start a worker on that machine", "start `candor worker --listen` with this address there"),
];

/// A message of the library's as this program says it.
pub(in crate::cli) fn with_options(message: &str) -> String {
    let of_llama = message.replace("it gave no reason", "it gave no reason (try --verbose)");
    let found = WORDS.iter().find(|(plain, _)| message.contains(plain));
    found.map_or(of_llama, |(plain, spelled)| message.replacen(plain, spelled, 1))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::Error;

    /// The lines of code below a folder, but for tests' own files.
    fn code(folder: &Path, lines: &mut Vec<String>) {
        for entry in folder.read_dir().expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                code(&path, lines);
            } else if path.extension().is_some_and(|it| it == "rs") && !path.ends_with("tests.rs") {
                let text = std::fs::read_to_string(path).expect("a text");
                let text = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
                lines.extend(text.map(str::to_owned));
            }
        }
    }

    #[test]
    fn the_library_speaks_of_no_option_and_says_all_that_is_spelled_here() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut lines = Vec::new();
        for entry in root.read_dir().expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("cli") {
                code(&path, &mut lines);
            }
        }
        let is_option = |line: &&String| {
            let mut parts = line.split(" --").skip(1).chain(line.split("(--").skip(1));
            parts.any(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()))
        };
        // Cargo's, to build another program.
        let options =
            lines.iter().filter(is_option).filter(|line| !line.contains("--features cuda"));
        assert_eq!(options.collect::<Vec<_>>(), Vec::<&String>::new());
        // Messages go over several lines.
        let text: String = lines.iter().map(|line| line.trim_end_matches('\\')).collect();
        for (plain, _) in WORDS {
            assert!(text.contains(plain), "`{plain}` is said nowhere");
        }
    }

    #[test]
    fn options_are_named_by_the_program_alone() {
        let errors = [
            Error::CacheFull { n_cell: 8 },
            Error::PromptTooLong { what: "it".to_owned(), n_token: 9, n_ctx: 8 },
            Error::WrongModel { path: PathBuf::new(), expected: String::new(), got: String::new() },
        ];
        for error in errors {
            let plain = error.to_string();
            assert!(!plain.contains(" -"), "{plain}");
            assert!(!plain.contains("(-"), "{plain}");
            assert_ne!(with_options(&plain), plain);
        }
    }
}
