//! What to type where a command cannot choose by itself: the same command, with the choice made.

use std::ffi::OsString;

use crate::Error;

/// The command that was typed, with the newest of several vectors named; `None` for any other failure.
pub(in crate::cli) fn with_a_vector(error: &Error, words: &[OsString]) -> Option<String> {
    let Error::SeveralSidecars { found, .. } = error else { return None };
    let newest = found.first()?.to_str()?;
    let mut words: Vec<&str> = words.iter().map(|word| word.to_str()).collect::<Option<_>>()?;
    *words.first_mut()? = "candor";
    // Words for another program stay the last ones.
    let mut others = Vec::new();
    if let Some(end) = words.iter().position(|word| *word == "--") {
        others = words.split_off(end);
    }
    if let Some(place) = words.iter().position(|word| *word == "--steer") {
        words.drain(place..words.len().min(place + 2));
    }
    words.retain(|word| !word.starts_with("--steer="));
    match words.contains(&"inspect") {
        true => words.push(newest),
        false => words.extend(["--steer", newest]),
    }
    words.extend(others);
    shlex::try_join(words).ok()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn the_same_command_names_the_newest() {
        let found = vec![PathBuf::from("new one.gguf"), PathBuf::from("old.gguf")];
        let several = Error::SeveralSidecars { model: PathBuf::from("m.gguf"), found };
        let again = |line: &str| {
            let words: Vec<OsString> =
                shlex::split(line).unwrap().into_iter().map(Into::into).collect();
            with_a_vector(&several, &words).unwrap()
        };
        for (typed, expected) in [
            ("/bin/candor chat -m m.gguf", "candor chat -m m.gguf --steer 'new one.gguf'"),
            ("candor run -p 'a b' --steer auto", "candor run -p 'a b' --steer 'new one.gguf'"),
            ("candor run --steer=auto -p a", "candor run -p a --steer 'new one.gguf'"),
            (
                "candor attach -- llama-server -m m.gguf",
                "candor attach --steer 'new one.gguf' -- llama-server -m m.gguf",
            ),
            (
                "candor inspect --verify -m m.gguf",
                "candor inspect --verify -m m.gguf 'new one.gguf'",
            ),
        ] {
            assert_eq!(again(typed), expected);
        }
        assert_eq!(with_a_vector(&Error::Deadline, &[]), None);
    }
}
