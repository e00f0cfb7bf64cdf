//! JSON, one object per line: answers with labels, questions with their choices, or pairs.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{Flaw, Kind, Question, label};
use crate::error::shown;
use crate::json;

/// Reads one object per line: prompts with an answer and a label, questions with their answers, or
/// pairs. Blank lines are passed over.
pub(super) fn parse_lines(bytes: &[u8]) -> Result<(Kind, Vec<Question>), Flaw> {
    let mut questions: Vec<Question> = Vec::new();
    let mut known = HashMap::new();
    let mut kind = None;
    for (line, raw) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if raw.trim_ascii().is_empty() {
            continue;
        }
        let Row { item, images, group } =
            parse_line(raw).map_err(|problem| Flaw::line(line, problem))?;
        let this = item.kind();
        if *kind.get_or_insert(this) != this {
            return Err(Flaw::line(line, TWO_FORMS));
        }
        let mut begin = |text: &str, category: Option<&String>| {
            let (text, category, images) = (text.to_owned(), category.cloned(), images.clone());
            questions.push(Question { text, category, images, ..Question::new(line) });
            questions.len() - 1
        };
        let added = match &item {
            Line::Answer { prompt, answer, label } => {
                let index = *known
                    .entry((prompt.clone(), images.clone()))
                    .or_insert_with(|| begin(prompt, None));
                let question = &mut questions[index];
                question.join(group).and_then(|()| question.add(answer, *label, false))
            }
            Line::Pair { prompt, positive, negative } => {
                let index = begin(prompt.as_deref().unwrap_or_default(), None);
                let question = &mut questions[index];
                question.group = group;
                question.add(positive, true, true).and(question.add(negative, false, false))
            }
            Line::Choice { question, category, answers } => {
                let index = begin(question, category.as_ref());
                let question = &mut questions[index];
                question.group = group;
                answers.iter().enumerate().try_for_each(|(i, (answer, label))| {
                    match answers[..i].iter().any(|(known, _)| known == answer) {
                        true => Err(format!("the answer `{answer}` occurs twice")),
                        false => question.add(answer, *label, false),
                    }
                })
            }
        };
        added.map_err(|problem| Flaw::line(line, problem))?;
    }
    for question in &mut questions {
        question.drop_repeated();
        question.check_blanks().map_err(|problem| Flaw::line(question.line, problem))?;
    }
    Ok((kind.unwrap_or(Kind::PromptAnswer), questions))
}

/// What one line holds.
enum Line {
    Answer {
        prompt: String,
        answer: String,
        label: bool,
    },
    /// Two texts, or two answers to a prompt, of which the first is meant to be said.
    Pair {
        prompt: Option<String>,
        positive: String,
        negative: String,
    },
    /// Answers with their labels; the first true one is the best.
    Choice {
        question: String,
        category: Option<String>,
        answers: Vec<(String, bool)>,
    },
}

const TWO_FORMS: &str = "the file mixes lines of two forms: split it in two";

impl Line {
    fn kind(&self) -> Kind {
        match self {
            Self::Answer { .. } | Self::Pair { prompt: Some(_), .. } => Kind::PromptAnswer,
            Self::Choice { .. } => Kind::QuestionAnswer,
            Self::Pair { prompt: None, .. } => Kind::Pair,
        }
    }
}

/// What a line holds, the pictures that belong to it, and what it shares with others.
struct Row {
    item: Line,
    images: Vec<PathBuf>,
    group: Option<String>,
}

fn parse_line(raw: &[u8]) -> Result<Row, String> {
    let raw = str::from_utf8(raw).map_err(|_| "is not UTF-8")?;
    let object = match json::parse(raw.as_bytes()) {
        Ok(Value::Object(object)) => object,
        Ok(_) => return Err("not a JSON object: there are no keys".into()),
        Err(json::Fault::Twice(key)) => return Err(json::twice(&key)),
        Err(json::Fault::Syntax(problem)) => {
            return Err(format!("not a JSON object: {}", shown(&problem)));
        }
    };
    Ok(Row { item: item(&object)?, images: images(&object)?, group: group(&object)? })
}

/// What the line is in one group with, under `group`: a text or a whole number.
fn group(object: &Map<String, Value>) -> Result<Option<String>, String> {
    match object.get("group") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(group)) if !group.is_empty() => Ok(Some(group.clone())),
        Some(Value::Number(group)) if group.is_i64() || group.is_u64() => {
            Ok(Some(group.to_string()))
        }
        Some(_) => Err("group is neither a text nor a whole number, or is empty".into()),
    }
}

/// The pictures under `image`: a path, or a list of them.
fn images(object: &Map<String, Value>) -> Result<Vec<PathBuf>, String> {
    let paths = match object.get("image") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(_)) => texts(object, "image")?,
        Some(_) => vec![text(object, "image")?],
    };
    Ok(paths.into_iter().map(PathBuf::from).collect())
}

fn item(object: &Map<String, Value>) -> Result<Line, String> {
    let has = |key| object.contains_key(key);
    if has("prompt") && has("answer") && has("label") {
        return Ok(Line::Answer {
            prompt: text(object, "prompt")?,
            answer: text(object, "answer")?,
            label: truth(&object["label"])?,
        });
    }
    if has("positive") && has("negative") {
        return pair(None, object, ["positive", "negative"]);
    }
    if has("prompt") && has("chosen") && has("rejected") {
        return pair(Some(text(object, "prompt")?), object, ["chosen", "rejected"]);
    }
    if has("question") && (has("choices") && has("answer") || has("true") && has("false")) {
        return choice(object);
    }
    // A map keeps the order of the line or sorts it, as whoever else uses serde_json asks for.
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    let keys = shown(&keys.join(", "));
    Err(format!("{EXPECTED}; got {keys}"))
}

const EXPECTED: &str = "expected the keys prompt, answer, label, or question, choices, answer, or \
                        question, true, false, or positive, negative, or prompt, chosen, rejected";

/// The two texts under these keys.
fn pair(
    prompt: Option<String>,
    object: &Map<String, Value>,
    [one, other]: [&str; 2],
) -> Result<Line, String> {
    let (positive, negative) = (text(object, one)?, text(object, other)?);
    if positive == negative {
        return Err(format!("{one} and {other} are the same"));
    }
    if positive.split_whitespace().eq(negative.split_whitespace()) {
        return Err(format!("{one} and {other} differ in blanks only"));
    }
    Ok(Line::Pair { prompt, positive, negative })
}

/// A question with all its answers: `choices` of which `answer` is the index of the true one,
/// counted from 0, or the `true` and the `false` ones.
fn choice(object: &Map<String, Value>) -> Result<Line, String> {
    let answers = if object.contains_key("choices") {
        let choices = texts(object, "choices")?;
        let index = object.get("answer").and_then(Value::as_u64).and_then(|i| i.try_into().ok());
        let index = index.filter(|&index: &usize| index < choices.len()).ok_or_else(|| {
            format!(
                "answer is {}, expected the index of a choice, 0 to {}",
                object.get("answer").unwrap_or(&Value::Null),
                choices.len().saturating_sub(1)
            )
        })?;
        choices.into_iter().enumerate().map(|(i, choice)| (choice, i == index)).collect()
    } else {
        let of = |key, label| -> Result<Vec<(String, bool)>, String> {
            Ok(texts(object, key)?.into_iter().map(|text| (text, label)).collect())
        };
        [of("true", true)?, of("false", false)?].concat()
    };
    let category = match object.get("category") {
        None | Some(Value::Null) => None,
        Some(_) => Some(text(object, "category")?),
    };
    match answers.len() {
        0 | 1 => Err("a question needs at least two answers".into()),
        _ => Ok(Line::Choice { question: text(object, "question")?, category, answers }),
    }
}

/// The list of texts under `key`, none of which may be empty.
fn texts(object: &Map<String, Value>, key: &str) -> Result<Vec<String>, String> {
    let list = object.get(key).and_then(Value::as_array);
    let list = list.ok_or_else(|| format!("{key} is not a list of texts"))?;
    list.iter()
        .enumerate()
        .map(|(i, item)| match item {
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            _ => Err(format!("{key}[{i}] is not a text, or is empty")),
        })
        .collect()
}

/// The text under `key`, which must not be empty.
fn text(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
        _ => Err(format!("{key} is not a text, or is empty")),
    }
}

/// The truth value that a label gives as a boolean, a number or a word.
fn truth(value: &Value) -> Result<bool, String> {
    let truth = match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => label(&number.to_string()),
        Value::String(word) => label(word),
        _ => None,
    };
    truth.ok_or_else(|| {
        let value = shown(&value.to_string());
        format!("the label is {value}, expected true or false, 0 or 1")
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read, refusal};
    use super::*;

    #[test]
    fn groups_lines_by_prompt() {
        let text = r#"{"prompt": "p", "answer": " a", "label": true, "id": 7}
            {"prompt": "q", "answer": "b", "label": "no"}

            {"prompt": "p", "answer": "c", "label": 0}"#;
        let data = read("d.jsonl", text).expect("sound");
        assert_eq!(data.kind, Kind::PromptAnswer);
        let seen: Vec<_> =
            data.questions.iter().map(|q| (q.text.as_str(), q.line, q.answers.len())).collect();
        assert_eq!(seen, [("p", 1, 2), ("q", 2, 1)]);
        assert_eq!(data.questions[0].answers[0].text, " a", "answers are verbatim");
    }

    #[test]
    fn reads_pairs_as_groups_of_two() {
        let line = r#"{"positive": "yes!", "negative": "no!"}"#;
        let data = read("d.jsonl", &format!("{line}\r\n{line}\r\n")).expect("sound");
        assert_eq!(data.kind, Kind::Pair);
        let rows: Vec<_> = data.rows().map(|row| (row.group, row.label)).collect();
        assert_eq!(rows, [(0, true), (0, false), (1, true), (1, false)]);
    }

    #[test]
    fn reads_preferences_as_prompts_with_two_answers() {
        let line = r#"{"prompt": "2 + 2?", "chosen": " 4", "rejected": " 5", "id": 3}"#;
        let data = read("d.jsonl", &format!("{line}\n{line}\n")).expect("sound");
        assert_eq!((data.kind, data.questions.len()), (Kind::PromptAnswer, 2));
        let answers = data.questions[1].answers.iter();
        let answers: Vec<_> = answers.map(|a| (a.text.as_str(), a.label)).collect();
        assert_eq!(answers, [(" 4", true), (" 5", false)]);
        assert_eq!(data.questions[1].text, "2 + 2?");
        let same = r#"{"prompt": "p", "chosen": "a", "rejected": "a"}"#;
        let message = refusal("d.jsonl", same);
        assert_eq!(message, "d.jsonl, line 1: chosen and rejected are the same");
        let messages = r#"{"prompt": "p", "chosen": [{"role": "user"}], "rejected": "a"}"#;
        assert!(refusal("d.jsonl", messages).ends_with("chosen is not a text, or is empty"));
    }

    #[test]
    fn refuses_flawed_lines_by_number() {
        let refuse = |line: &str| {
            let sound = r#"{"prompt": "p", "answer": "a", "label": 1}"#;
            let message = refusal("d.jsonl", &format!("{sound}\n\n{line}\n"));
            message.strip_prefix("d.jsonl, line 3: ").expect("names the line").to_owned()
        };
        let keys = format!("{EXPECTED}; got ");
        assert_eq!(
            refuse(r#"{"prompt": "p", "completion": "c"}"#),
            format!("{keys}completion, prompt")
        );
        assert_eq!(refuse("{}"), keys);
        assert!(refuse(r#"["p", "a", 1]"#).starts_with("not a JSON object: "));
        assert!(refuse(r#"{"prompt": "p""#).starts_with("not a JSON object: "));
        assert_eq!(
            refuse(r#"{"prompt": "p", "answer": "b", "label": 2}"#),
            "the label is 2, expected true or false, 0 or 1"
        );
        assert_eq!(
            refuse(r#"{"prompt": "p", "answer": "b", "label": null}"#),
            "the label is null, expected true or false, 0 or 1"
        );
        assert_eq!(
            refuse(r#"{"prompt": "p", "answer": "", "label": 1}"#),
            "answer is not a text, or is empty"
        );
        assert_eq!(
            refuse(r#"{"prompt": 1, "answer": "b", "label": 1}"#),
            "prompt is not a text, or is empty"
        );
        assert_eq!(
            refuse(r#"{"positive": "p", "negative": "p"}"#),
            "positive and negative are the same"
        );
        assert_eq!(
            refuse(r#"{"positive": "p q", "negative": "p  q "}"#),
            "positive and negative differ in blanks only"
        );
        assert_eq!(refuse(r#"{"positive": "p", "negative": "n"}"#), TWO_FORMS);
        assert_eq!(
            refuse(r#"{"prompt": "p", "answer": "b", "label": 1, "label": 0}"#),
            "the key `label` occurs twice"
        );
        assert_eq!(
            refuse(r#"{"prompt": "p", "answer": "b", "label": 1, "id": {"x": 1, "x": 2}}"#),
            "the key `x` occurs twice"
        );
        assert_eq!(
            refuse(r#"{"prompt": "p", "answer": "b", "label": 1, "group": [1]}"#),
            "group is neither a text nor a whole number, or is empty"
        );
        // Of the question that both lines are of.
        let two = |answer: &str, group: &str| {
            let line = r#"{"prompt": "p", "answer": "a", "label": 1, "group": 1}"#;
            let other =
                format!(r#"{{"prompt": "p", "answer": "{answer}", "label": 0, "group": {group}}}"#);
            refusal("d.jsonl", &format!("{line}\n{other}\n"))
        };
        assert_eq!(two("b", "2"), "d.jsonl, line 2: its group is `2`, and was `1` on line 1");
        assert_eq!(
            two("a ", "1"),
            "d.jsonl, line 1: the answers `a` and `a ` differ in blanks only, and one is true, the \
             other false"
        );
    }

    #[test]
    fn reads_questions_with_their_choices() {
        let text = r#"{"question": "1 + 1?", "choices": ["3", "2", "1"], "answer": 1, "category": "sums"}
            {"question": "Why?", "true": ["so", "thus"], "false": ["no"]}
            {"question": "1 + 1?", "choices": ["2", "11"], "answer": 0, "category": null}"#;
        let data = read("mc.jsonl", text).expect("sound");
        assert_eq!(data.kind, Kind::QuestionAnswer);
        let answers = |i: usize| -> Vec<(&str, bool)> {
            data.questions[i].answers.iter().map(|a| (a.text.as_str(), a.label)).collect()
        };
        assert_eq!(answers(0), [("3", false), ("2", true), ("1", false)]);
        assert_eq!(answers(1), [("so", true), ("thus", true), ("no", false)]);
        assert_eq!(answers(2), [("2", true), ("11", false)], "a line is a question of its own");
        let best: Vec<usize> = data.questions.iter().map(Question::best).collect();
        assert_eq!(best, [1, 0, 0]);
        assert_eq!(data.questions[0].category.as_deref(), Some("sums"));
        assert_eq!(data.questions[2].category, None);
    }

    #[test]
    fn refuses_flawed_choices_by_number() {
        let refuse = |line: &str| {
            let message = refusal("mc.jsonl", &format!("\n{line}\n"));
            message.strip_prefix("mc.jsonl, line 2: ").expect("names the line").to_owned()
        };
        for (answer, got) in [("2", "2"), ("-1", "-1"), ("\"b\"", "\"b\""), ("0.5", "0.5")] {
            assert_eq!(
                refuse(&format!(
                    r#"{{"question": "q", "choices": ["a", "b"], "answer": {answer}}}"#
                )),
                format!("answer is {got}, expected the index of a choice, 0 to 1")
            );
        }
        for (line, problem) in [
            (
                r#"{"question": "", "choices": ["a", "b"], "answer": 0}"#,
                "question is not a text, or is empty",
            ),
            (
                r#"{"question": "q", "choices": "ab", "answer": 0}"#,
                "choices is not a list of texts",
            ),
            (
                r#"{"question": "q", "choices": ["a", 2], "answer": 0}"#,
                "choices[1] is not a text, or is empty",
            ),
            (
                r#"{"question": "q", "choices": ["a", "a"], "answer": 0}"#,
                "the answer `a` occurs twice",
            ),
            (
                r#"{"question": "q", "choices": ["a"], "answer": 0}"#,
                "a question needs at least two answers",
            ),
            (r#"{"question": "q", "true": ["a"], "false": ["a"]}"#, "the answer `a` occurs twice"),
            (
                r#"{"question": "q", "true": ["a"], "false": [""]}"#,
                "false[0] is not a text, or is empty",
            ),
            (
                r#"{"question": "q", "choices": ["a", "b"], "answer": 0, "category": 7}"#,
                "category is not a text, or is empty",
            ),
        ] {
            assert_eq!(refuse(line), problem);
        }
        assert!(
            refuse(r#"{"question": "q", "choices": ["a", "b"]}"#)
                .ends_with("got choices, question")
        );
    }

    #[test]
    fn refuses_lines_that_are_not_utf8() {
        let error = parse_lines(b"\n\"\xff\"").expect_err("not UTF-8");
        assert_eq!((error.line, error.problem.as_str()), (Some(2), "is not UTF-8"));
    }
}
