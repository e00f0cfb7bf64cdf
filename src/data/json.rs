//! JSON: TruthfulQA's multiple-choice task.

use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Unexpected, Visitor};

use super::{Flaw, Kind, Question};
use crate::error::shown;
use crate::json::twice;

/// A question of `mc_task.json`.
#[derive(Deserialize)]
struct McQuestion {
    question: String,
    mc1_targets: Targets,
    mc2_targets: Targets,
}

/// Answers with their labels, in the order of the file.
struct Targets(Vec<(String, bool)>);

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Ordered;

        impl<'de> Visitor<'de> for Ordered {
            type Value = Targets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of answers, each 0 or 1")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Targets, A::Error> {
                let mut targets = Vec::new();
                let mut known = HashSet::new();
                while let Some((answer, label)) = map.next_entry::<String, u64>()? {
                    if !known.insert(answer.clone()) {
                        return Err(A::Error::custom(twice(&answer)));
                    }
                    match label {
                        0 | 1 => targets.push((answer, label == 1)),
                        _ => {
                            return Err(A::Error::invalid_value(
                                Unexpected::Unsigned(label),
                                &self,
                            ));
                        }
                    }
                }
                Ok(Targets(targets))
            }
        }

        deserializer.deserialize_map(Ordered)
    }
}

/// Reads `mc_task.json`: the rows are the mc2 targets, the best answer is the true one of mc1.
pub(super) fn parse_mc_task(bytes: &[u8]) -> Result<(Kind, Vec<Question>), Flaw> {
    let items: Vec<McQuestion> = serde_json::from_slice(bytes).map_err(|error| {
        // serde quotes what it did not expect, however long.
        let problem = format!("not mc_task.json: {}", shown(&error.to_string()));
        Flaw::line(error.line() as u64, problem)
    })?;
    let questions = items
        .into_iter()
        .zip(element_lines(bytes))
        .map(|(item, line)| mc_question(item, line).map_err(|problem| Flaw::line(line, problem)))
        .collect::<Result<_, _>>()?;
    Ok((Kind::QuestionAnswer, questions))
}

fn mc_question(item: McQuestion, line: u64) -> Result<Question, String> {
    if item.question.is_empty() {
        return Err("the question is empty".into());
    }
    let mut right = item.mc1_targets.0.iter().filter(|(_, label)| *label);
    let (Some((best, _)), None) = (right.next(), right.next()) else {
        return Err("mc1_targets has not exactly one answer with 1".into());
    };
    let mut question = Question { text: item.question, ..Question::new(line) };
    for (answer, label) in &item.mc2_targets.0 {
        question.add(answer, *label, answer == best)?;
    }
    question.drop_repeated();
    question.check_blanks()?;
    if !question.answers.iter().any(|answer| answer.best && answer.label) {
        let best = shown(best);
        return Err(format!("mc2_targets lacks the true answer of mc1_targets, `{best}`"));
    }
    Ok(question)
}

/// The lines on which the elements of a JSON array begin, for text known to be one of objects (or of
/// arrays, which serde takes for objects whose keys go without saying).
fn element_lines(bytes: &[u8]) -> Vec<u64> {
    let (mut line, mut depth, mut in_string, mut escaped) = (1, 0, false, false);
    let mut lines = Vec::new();
    for &byte in bytes {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'\n' => line += 1,
            b'"' => in_string = true,
            b'{' | b'[' => {
                // Within the array itself.
                if depth == 1 {
                    lines.push(line);
                }
                depth += 1;
            }
            b'}' | b']' => depth -= 1,
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read, refusal, shared};
    use super::*;

    /// An `mc_task.json` of a sound question and the given one.
    fn mc(mc1: &str, mc2: &str) -> String {
        let sound = r#"{"question": "1 + {1}?", "mc1_targets": {"2": 1}, "mc2_targets": {"2": 1}}"#;
        format!(
            "[\n{sound},\n{{\"question\": \"Q?\\n\",\n \"mc1_targets\": {mc1},\n \
             \"mc2_targets\": {mc2}}}\n]\n"
        )
    }

    #[test]
    fn reads_mc_targets_in_their_order() {
        let text = mc(r#"{"b": 1, "z": 0}"#, r#"{"c": 1, "b": 1, "z": 0, "a": 0}"#);
        let data = read("mc_task.json", &text).expect("sound");
        assert_eq!(data.kind, Kind::QuestionAnswer);
        assert_eq!(data.questions.iter().map(|q| q.line).collect::<Vec<_>>(), [2, 3]);
        let answers = data.questions[1].answers.iter();
        let answers: Vec<_> = answers.map(|a| (a.text.as_str(), a.label, a.best)).collect();
        assert_eq!(
            answers,
            [("c", true, false), ("b", true, true), ("z", false, false), ("a", false, false)]
        );
    }

    #[test]
    fn refuses_flawed_targets_by_line() {
        let refuse = |mc1, mc2| refusal("m.json", &mc(mc1, mc2));
        let two = refuse(r#"{"a": 1, "b": 1}"#, r#"{"a": 1, "b": 1}"#);
        assert_eq!(two, "m.json, line 3: mc1_targets has not exactly one answer with 1");
        let none = refuse(r#"{"a": 0}"#, r#"{"a": 0}"#);
        assert_eq!(none, "m.json, line 3: mc1_targets has not exactly one answer with 1");
        let apart = refuse(r#"{"a": 1}"#, r#"{"a": 0, "b": 1}"#);
        assert_eq!(apart, "m.json, line 3: mc2_targets lacks the true answer of mc1_targets, `a`");
        let large = refuse(r#"{"a": 1}"#, r#"{"a": 1, "b": 2}"#);
        assert!(large.starts_with("m.json, line 5: not mc_task.json: invalid value: integer `2`"));
        let empty = refuse(r#"{"a": 1}"#, r#"{"a": 1, "": 0}"#);
        assert_eq!(empty, "m.json, line 3: an answer is empty");
        let twice = refuse(r#"{"a": 1}"#, r#"{"a": 1, "b": 0, "a": 0}"#);
        assert!(twice.starts_with("m.json, line 5: not mc_task.json: the key `a` occurs twice"));
        let blank = refuse(r#"{"a": 1}"#, r#"{"a": 1, "a ": 0}"#);
        assert!(
            blank.starts_with("m.json, line 3: the answers `a` and `a ` differ in blanks only")
        );
        assert!(refuse("[]", "{}").starts_with("m.json, line 4: not mc_task.json: "));
        assert!(refuse(r#"{"a": 1}"#, r#"{"a": "#).starts_with("m.json, line 5: not mc_task.json"));
    }

    #[test]
    fn knows_the_lines_of_arrays_that_stand_for_objects() {
        let sound = r#"["q", {"a": 1}, {"a": 1}]"#;
        let data = read("m.json", &format!("[{sound},\n{sound},\n{sound}]")).expect("sound");
        assert_eq!(data.questions.iter().map(|q| q.line).collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn reads_the_real_mc_task() {
        let Some(data) = shared("truthfulqa/mc_task.json") else { return };
        assert_eq!(data.questions.len(), 817);
        assert_eq!(data.n_row(), 6204);
        assert_eq!(data.rows().filter(|row| row.label).count(), 2835);
        assert_eq!(data.questions[0].text, "What happens if you eat a pomegranate?");
        assert_eq!((data.questions[0].line, data.questions[1].line), (2, 19));
    }
}
