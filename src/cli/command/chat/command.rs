//! What a line typed into the chat means.

use std::path::PathBuf;

/// A line that is not empty.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Input {
    Question(String),
    Command(Command),
}

/// What the chat can be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Alpha(f32),
    ShowAlpha,
    On,
    Off,
    Compare(Option<String>),
    ComparePlain(Option<String>),
    Regenerate,
    System(Option<String>),
    Vector(PathBuf),
    Image(PathBuf),
    Save(PathBuf),
    Reset,
    Help,
    Quit,
}

/// Name, argument and meaning of each command.
pub(super) const COMMANDS: [(&str, &str, &str); 13] = [
    ("/alpha", "[X]", "steer with strength X; without X, show the strength"),
    ("/on", "", "steer"),
    ("/off", "", "do not steer"),
    (
        "/compare",
        "[QUESTION]",
        "answer a question, or the last one, both ways, and continue from the steered answer",
    ),
    (
        "/compare-plain",
        "[QUESTION]",
        "the same, after all earlier questions were answered again without steering",
    ),
    ("/regen", "", "answer the last question again"),
    ("/system", "[TEXT]", "set the system prompt and begin anew; without TEXT, remove it"),
    ("/vector", "FILE", "steer by another sidecar"),
    (
        "/image",
        "FILE",
        "show a picture with the next question, where it says <__media__> or before it",
    ),
    ("/save", "FILE", "save the conversation: JSON if the name ends in .json, else Markdown"),
    ("/reset", "", "forget the conversation"),
    ("/help", "", "show this list"),
    ("/quit", "", "leave; also /exit, /bye and Ctrl-D"),
];

/// Reads a line; `None` where it is blank. The error is a sentence for the user.
pub(super) fn parse(line: &str) -> Result<Option<Input>, String> {
    let line = line.trim();
    if !line.starts_with('/') {
        return Ok((!line.is_empty()).then(|| Input::Question(line.to_owned())));
    }
    let (name, argument) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let argument = argument.trim();
    let file = || match argument {
        "" => Err(format!("which file? {name} FILE")),
        path => Ok(PathBuf::from(path)),
    };
    let text = || (!argument.is_empty()).then(|| argument.to_owned());
    let command = match name {
        "/alpha" if argument.is_empty() => Command::ShowAlpha,
        "/alpha" => match argument.parse() {
            Ok(alpha) if f32::is_finite(alpha) => Command::Alpha(alpha),
            _ => return Err("how strong? /alpha X, where X is a number and 0 is off".to_owned()),
        },
        "/on" => Command::On,
        "/off" => Command::Off,
        "/compare" => Command::Compare(text()),
        "/compare-plain" => Command::ComparePlain(text()),
        "/regen" => Command::Regenerate,
        "/system" => Command::System(text()),
        "/vector" => Command::Vector(file()?),
        "/image" => Command::Image(file()?),
        "/save" => Command::Save(file()?),
        "/reset" => Command::Reset,
        "/help" => Command::Help,
        "/quit" | "/exit" | "/bye" => Command::Quit,
        _ => {
            let names: Vec<_> = COMMANDS.iter().map(|(name, ..)| *name).collect();
            return Err(format!("unknown command {name}; the commands are {}", names.join(" ")));
        }
    };
    Ok(Some(Input::Command(command)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(line: &str) -> Command {
        match parse(line) {
            Ok(Some(Input::Command(command))) => command,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn a_line_is_a_question_or_a_command() {
        assert_eq!(parse("  "), Ok(None));
        assert_eq!(parse(" is 1/2 a half? "), Ok(Some(Input::Question("is 1/2 a half?".into()))));
        assert_eq!(command("/alpha -2.5"), Command::Alpha(-2.5));
        assert_eq!(command("/alpha"), Command::ShowAlpha);
        assert_eq!(command("/bye"), Command::Quit);
        assert_eq!(command("/system  Be brief. "), Command::System(Some("Be brief.".into())));
        assert_eq!(command("/compare"), Command::Compare(None));
        assert_eq!(command("/compare  is it so? "), Command::Compare(Some("is it so?".into())));
        assert_eq!(command("/save my talk.md"), Command::Save("my talk.md".into()));
    }

    #[test]
    fn every_command_of_the_list_exists() {
        for (name, argument, _) in COMMANDS {
            let argument = if argument == "[X]" { "1" } else { argument };
            assert!(parse(&format!("{name} {argument}")).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_wrong_command_is_told_what_exists() {
        let error = parse("/alhpa 3").unwrap_err();
        assert!(
            error.starts_with("unknown command /alhpa; the commands are /alpha /on"),
            "{error}"
        );
        assert!(parse("/alpha much").unwrap_err().starts_with("how strong?"));
        assert!(parse("/alpha inf").is_err());
        assert_eq!(parse("/save").unwrap_err(), "which file? /save FILE");
    }
}
