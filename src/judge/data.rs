//! Judgements that people made, as TruthfulQA's authors published them to train judges on:
//! `finetune_truth.jsonl` and `finetune_info.jsonl`, a line of JSON for each.
//!
//! ```json
//! {"prompt": "Q: Why?\nA: So.\nTrue:", "completion": " yes"}
//! ```

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::Aspect;
use crate::data::{Answer, Dataset, Kind, Question, sha256};
use crate::error::shown;
use crate::file::stem;
use crate::file::{DATA_MAX, read_up_to};
use crate::{Error, Result};

impl Aspect {
    /// The file that TruthfulQA's authors published for it.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Truth => "finetune_truth.jsonl",
            Self::Info => "finetune_info.jsonl",
        }
    }
}

#[derive(Deserialize)]
struct Line {
    prompt: String,
    completion: String,
}

/// Reads at most `limit` of a file's judgements, spread evenly over it; 0 takes all.
///
/// One question holds all its judged answers. Its text is `Q: {question}`, an answer's
/// `\nA: {answer}\nTrue:`, so that joined they are the prompt; the label is the judgement.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read; [`Error::Data`] with the line where a line is no
/// judgement of this aspect, or where there are none.
pub fn read(path: &Path, aspect: Aspect, limit: usize) -> Result<Dataset> {
    let bytes = read_up_to(DATA_MAX, path)?;
    from_bytes(path, &bytes, aspect, limit)
}

/// The question of a prompt that [`read`] has made a [`Question`] of.
pub(super) fn question_of(text: &str) -> &str {
    text.strip_prefix("Q: ").unwrap_or(text)
}

fn from_bytes(path: &Path, bytes: &[u8], aspect: Aspect, limit: usize) -> Result<Dataset> {
    let fault = |line, problem: String| Error::Data { path: path.to_owned(), line, problem };
    let mut lines = Vec::new();
    for (number, raw) in (1u64..).zip(bytes.split(|&byte| byte == b'\n')) {
        if raw.trim_ascii().is_empty() {
            continue;
        }
        let (question, answer, label) =
            parse(raw, aspect).map_err(|problem| fault(Some(number), problem))?;
        lines.push((number, question, answer, label));
    }
    if lines.is_empty() {
        let problem = "holds no judgements: each is a line of JSON with prompt and completion";
        return Err(fault(None, problem.to_owned()));
    }
    let n = if limit == 0 { lines.len() } else { limit.min(lines.len()) };
    let mut questions: Vec<Question> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for i in 0..n {
        let (line, question, text, label) = &lines[i * lines.len() / n];
        let at = *known.entry(question.clone()).or_insert_with(|| {
            questions.push(Question { text: question.clone(), ..Question::new(*line) });
            questions.len() - 1
        });
        questions[at].answers.push(Answer { text: text.clone(), label: *label, best: false });
    }
    Ok(Dataset {
        name: stem(path),
        path: path.to_owned(),
        sha256: sha256(bytes),
        kind: Kind::PromptAnswer,
        questions,
    })
}

/// `Q: {question}`, `\nA: {answer}\nTrue:` and the judgement.
fn parse(raw: &[u8], aspect: Aspect) -> std::result::Result<(String, String, bool), String> {
    let line: Line = serde_json::from_slice(raw).map_err(|error| {
        format!("not an object of prompt and completion: {}", shown(&error.to_string()))
    })?;
    let expected = || {
        let form = aspect.prompt("…", "…").escape_debug().to_string();
        format!("the prompt is not of the form `{form}`")
    };
    let (question, answer) = line.prompt.split_once("\nA: ").ok_or_else(expected)?;
    let ends = answer.ends_with(&format!("\n{}:", aspect.word()));
    if !question.starts_with("Q: ") || !ends {
        return Err(expected());
    }
    let label = match line.completion.trim().to_ascii_lowercase().as_str() {
        "yes" => true,
        "no" => false,
        other => {
            return Err(format!("the completion is `{}`, expected yes or no", shown(other)));
        }
    };
    Ok((question.to_owned(), format!("\nA: {answer}"), label))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::PromptForm;

    fn read(text: &str, limit: usize) -> Result<Dataset> {
        from_bytes("t.jsonl".as_ref(), text.as_bytes(), Aspect::Truth, limit)
    }

    fn line(question: &str, answer: &str, completion: &str) -> String {
        let prompt = Aspect::Truth.prompt(question, answer);
        format!("{}\n", serde_json::json!({ "prompt": prompt, "completion": completion }))
    }

    #[test]
    fn groups_judgements_by_question_and_keeps_the_prompts() {
        let text = line("a?", "1", " yes") + &line("b?", "2\nA: 3", " no") + &line("a?", "4", "No");
        let data = read(&text, 0).unwrap();
        let form = PromptForm::default_for(data.kind);
        let rows: Vec<_> = data
            .rows()
            .map(|row| {
                let question = &data.questions[row.group];
                (form.text(&question.text, &question.answers[row.answer].text), row.label)
            })
            .collect();
        let prompt = |question, answer| Aspect::Truth.prompt(question, answer);
        assert_eq!(
            rows,
            [
                (prompt("a?", "1"), true),
                (prompt("a?", "4"), false),
                (prompt("b?", "2\nA: 3"), false)
            ]
        );
        assert_eq!(question_of(&data.questions[1].text), "b?");
    }

    #[test]
    fn takes_some_spread_evenly() {
        let text: String = (0..10).map(|i| line(&format!("{i}?"), "x", " yes")).collect();
        let questions: Vec<_> =
            read(&text, 3).unwrap().questions.into_iter().map(|q| q.text).collect();
        assert_eq!(questions, ["Q: 0?", "Q: 3?", "Q: 6?"]);
        assert_eq!(read(&text, 99).unwrap().n_row(), 10);
    }

    #[test]
    fn refuses_what_is_no_judgement_by_line() {
        let refuse = |bad: &str| read(&(line("a?", "1", " yes") + bad), 0).unwrap_err().to_string();
        for (bad, problem) in [
            ("{}", "not an object of prompt and completion"),
            ("\u{1}", "not an object of prompt and completion"),
            (line("a?", "1", " maybe").as_str(), "the completion is `maybe`, expected yes or no"),
            (
                r#"{"prompt": "Q: a?\nA: 1\nHelpful:", "completion": " no"}"#,
                "the prompt is not of the form `Q: …\\nA: …\\nTrue:`",
            ),
            (r#"{"prompt": "a?\nA: 1\nTrue:", "completion": " no"}"#, "is not of the form"),
            (r#"{"prompt": "Q: a?", "completion": " no"}"#, "is not of the form"),
        ] {
            let message = refuse(bad);
            assert!(message.starts_with("t.jsonl, line 2: "), "{message}");
            assert!(message.contains(problem), "{message}");
        }
        let message = read("\n\n", 0).unwrap_err().to_string();
        let expected =
            "t.jsonl: holds no judgements: each is a line of JSON with prompt and completion";
        assert_eq!(message, expected);
    }

    proptest! {
        #[test]
        fn never_panics_on_a_strangers_bytes(
            start in prop::sample::select(vec!["", "{\"prompt\": \"Q: ", "{\"completion\": \"yes\","]),
            bytes in prop::collection::vec(any::<u8>(), 0..48),
            limit in 0_usize..4,
        ) {
            let bytes = [start.as_bytes(), &bytes].concat();
            if let Ok(data) = from_bytes("t.jsonl".as_ref(), &bytes, Aspect::Info, limit) {
                prop_assert!(data.n_row() > 0);
            }
        }
    }
}
