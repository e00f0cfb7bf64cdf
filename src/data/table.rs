//! Comma-separated tables: TruthfulQA's and plain statements with labels.

use std::collections::HashMap;

use csv::{ByteRecord, Position, Reader, ReaderBuilder, StringRecord};

use super::{Answer, Flaw, Kind, Question, UNDERSTOOD, label};
use crate::error::shown;

/// Reads a table whose header is TruthfulQA's or holds `statement` and `label`.
pub(super) fn parse(bytes: &[u8]) -> Result<(Kind, Vec<Question>), Flaw> {
    let mut records = Records::of(bytes);
    let Some((_, header)) = records.next().transpose()? else {
        return Err(Flaw::file("holds no rows"));
    };
    let column = |name: &str| header.iter().position(|title| title.trim() == name);

    if let (Some(question), Some(best), Some(correct), Some(incorrect)) = (
        column("Question"),
        column("Best Answer"),
        column("Correct Answers"),
        column("Incorrect Answers"),
    ) {
        let columns = Columns { question, best, correct, incorrect, category: column("Category") };
        let question = |record: Result<(u64, StringRecord), Flaw>| {
            let (line, record) = record?;
            columns.question(line, &record).map_err(|problem| Flaw::line(line, problem))
        };
        let questions = records.map(question).collect::<Result<_, _>>()?;
        return Ok((Kind::QuestionAnswer, questions));
    }
    if let (Some(statement), Some(label)) = (column("statement"), column("label")) {
        let group = column("group");
        return Ok((Kind::Statement, statements(records, statement, label, group)?));
    }
    let titles = header.iter().collect::<Vec<_>>().join(", ");
    Err(Flaw::line(1, format!("{UNDERSTOOD}; the columns here are {}", shown(&titles))))
}

/// Where TruthfulQA's columns stand.
struct Columns {
    question: usize,
    best: usize,
    correct: usize,
    incorrect: usize,
    category: Option<usize>,
}

impl Columns {
    /// One question. Its answers stand in one cell, parted by semicolons; the best answer comes
    /// first, and an answer that is repeated counts once.
    fn question(&self, line: u64, record: &StringRecord) -> Result<Question, String> {
        let cell = |column: usize| record.get(column).unwrap_or_default().trim();
        let text = cell(self.question);
        if text.is_empty() {
            return Err("the question is empty".into());
        }
        let category = self.category.map(|column| cell(column).to_owned());
        let mut question = Question { text: text.into(), category, ..Question::new(line) };
        let best = cell(self.best);
        if best.is_empty() {
            return Err("the best answer is empty".into());
        }
        question.add(best, true, true)?;
        for (column, label) in [(self.correct, true), (self.incorrect, false)] {
            let answers = cell(column).split(';').map(str::trim);
            for answer in answers.filter(|answer| !answer.is_empty()) {
                question.add(answer, label, false)?;
            }
        }
        question.drop_repeated();
        Ok(question)
    }
}

/// One question per distinct statement, so that no split has a repeated statement on both sides.
/// Every row is kept, also where two rows disagree about a statement, as real collections do.
fn statements(
    records: Records,
    statement_column: usize,
    label_column: usize,
    group_column: Option<usize>,
) -> Result<Vec<Question>, Flaw> {
    let mut questions: Vec<Question> = Vec::new();
    let mut known = HashMap::new();
    for record in records {
        let (line, record) = record?;
        let cell = |column: usize| record.get(column).unwrap_or_default().trim();
        let text = cell(statement_column).to_owned();
        if text.is_empty() {
            return Err(Flaw::line(line, "the statement is empty"));
        }
        let label = label(cell(label_column)).ok_or_else(|| {
            let label = shown(cell(label_column));
            let problem = format!("the label is `{label}`, expected 0 or 1");
            Flaw::line(line, problem)
        })?;
        let index = *known.entry(text.clone()).or_insert_with(|| {
            questions.push(Question::new(line));
            questions.len() - 1
        });
        let group = group_column.map(cell).filter(|group| !group.is_empty());
        let joined = questions[index].join(group.map(str::to_owned));
        joined.map_err(|problem| Flaw::line(line, problem))?;
        questions[index].answers.push(Answer { text, label, best: false });
    }
    Ok(questions)
}

/// The records one after the other, the header first, each with the line on which it begins.
///
/// The `csv` crate reads a quote that is never closed as text up to the end of the file, so quotes
/// are counted here: a record holds an even number of them.
struct Records<'a> {
    bytes: &'a [u8],
    reader: Reader<&'a [u8]>,
    /// Of the header.
    n_column: Option<usize>,
}

impl<'a> Records<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        let reader = ReaderBuilder::new()
            .delimiter(b',')
            .quote(b'"')
            .double_quote(true)
            .escape(None)
            .comment(None)
            .has_headers(false)
            .flexible(true)
            .from_reader(bytes);
        Self { bytes, reader, n_column: None }
    }

    fn read(&mut self) -> Result<Option<(u64, StringRecord)>, Flaw> {
        let mut record = ByteRecord::new();
        let start = self.reader.position().clone();
        let more = self
            .reader
            .read_byte_record(&mut record)
            .map_err(|error| Flaw::line(line_at(self.bytes, &start), error.to_string()))?;
        if !more {
            return Ok(None);
        }
        let line = line_at(self.bytes, &start);
        let raw = &self.bytes[start.byte() as usize..self.reader.position().byte() as usize];
        if raw.iter().filter(|&&byte| byte == b'"').count() % 2 != 0 {
            return Err(Flaw::line(line, "a quote is opened and never closed"));
        }
        let expected = *self.n_column.get_or_insert(record.len());
        if record.len() != expected {
            let problem = format!("has {} columns, the header has {expected}", record.len());
            return Err(Flaw::line(line, problem));
        }
        let text =
            StringRecord::from_byte_record(record).map_err(|_| Flaw::line(line, "is not UTF-8"))?;
        Ok(Some((line, text)))
    }
}

impl Iterator for Records<'_> {
    type Item = Result<(u64, StringRecord), Flaw>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// The line of the record that the reader finds next: `start` may still lie before the line break
/// that ends the record before it, and before blank lines.
fn line_at(bytes: &[u8], start: &Position) -> u64 {
    let rest = &bytes[start.byte() as usize..];
    let breaks = rest.iter().take_while(|&&byte| matches!(byte, b'\r' | b'\n'));
    start.line() + breaks.filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read, refusal, shared};
    use super::*;

    const HEADER: &str = "Type,Category,Question,Best Answer,Correct Answers,Incorrect Answers\n";

    #[test]
    fn reads_truthfulqa_with_the_best_answer_first() {
        let text = format!(
            "\u{feff}{HEADER}t,Law,\"Why, then?\",Because ,No; Because;; No ;So, Yes;Maybe \n"
        );
        let data = read("TruthfulQA.csv", &text).expect("sound");
        let question = &data.questions[0];
        assert_eq!(data.kind, Kind::QuestionAnswer);
        assert_eq!(question.text, "Why, then?");
        assert_eq!(question.category.as_deref(), Some("Law"));
        assert_eq!(question.line, 2);
        let answers: Vec<_> =
            question.answers.iter().map(|a| (a.text.as_str(), a.label, a.best)).collect();
        assert_eq!(
            answers,
            [
                ("Because", true, true),
                ("No", true, false),
                ("So", true, false),
                ("Yes", false, false),
                ("Maybe", false, false),
            ]
        );
    }

    #[test]
    fn refuses_flawed_questions_by_line() {
        let refuse = |row: &str| refusal("t.csv", &format!("{HEADER}t,c,Q?,B,B,W\n{row}\n"));
        assert_eq!(refuse("t,c,Q?,B,B"), "t.csv, line 3: has 5 columns, the header has 6");
        assert_eq!(refuse("t,c,,B,B,W"), "t.csv, line 3: the question is empty");
        assert_eq!(refuse("t,c,Q?, ,B,W"), "t.csv, line 3: the best answer is empty");
        assert_eq!(
            refuse("t,c,Q?,B,B,\"W\nt,c,Q?,B,B,W"),
            "t.csv, line 3: a quote is opened and never closed"
        );
    }

    #[test]
    fn keeps_an_answer_that_is_called_both_true_and_false() {
        let data = read("t.csv", &format!("{HEADER}t,c,Q?,B,B;Unknown,Unknown\n")).expect("sound");
        let labels: Vec<_> = data.rows().map(|row| row.label).collect();
        assert_eq!(labels, [true, true, false]);
    }

    #[test]
    fn refuses_flawed_statements_by_line() {
        let refuse = |row: &str| refusal("s.csv", &format!("statement,label\na,1\n{row}\n"));
        assert_eq!(refuse("b"), "s.csv, line 3: has 1 columns, the header has 2");
        assert_eq!(refuse("b,1,c"), "s.csv, line 3: has 3 columns, the header has 2");
        assert_eq!(refuse("b,maybe"), "s.csv, line 3: the label is `maybe`, expected 0 or 1");
        assert_eq!(refuse("b,"), "s.csv, line 3: the label is ``, expected 0 or 1");
        assert_eq!(refuse(" ,1"), "s.csv, line 3: the statement is empty");
        assert_eq!(refuse("\"b,1"), "s.csv, line 3: a quote is opened and never closed");
    }

    #[test]
    fn refuses_what_is_not_utf8() {
        let bytes = b"statement,label\na,1\n\xff\xfe,1\n";
        let error = super::super::Dataset::from_bytes("s.csv".as_ref(), bytes);
        assert_eq!(error.expect_err("not UTF-8").to_string(), "s.csv, line 3: is not UTF-8");
    }

    #[test]
    fn refuses_unknown_columns_and_lists_them() {
        let message = refusal("s.csv", "text,truth\na,1\n");
        assert!(message.ends_with("the columns here are text, truth"), "{message}");
    }

    #[test]
    fn counts_lines_through_quoted_breaks_blank_lines_and_carriage_returns() {
        for end in ["\n", "\r\n"] {
            let rows = ["statement,label", "\"a", "b\",1", "", "", "c,0", "\"d\",2", "e,1"];
            let message = refusal("s.csv", &(rows.join(end) + end));
            assert_eq!(message, "s.csv, line 7: the label is `2`, expected 0 or 1");
        }
        let data = read("s.csv", "label,statement\r\n1,\"a\r\nb\"\r\n\r\n0,c").expect("sound");
        let lines: Vec<_> = data.questions.iter().map(|question| question.line).collect();
        assert_eq!(lines, [2, 5]);
    }

    #[test]
    fn keeps_a_repeated_statement_in_one_question() {
        let data = read("s.csv", "statement,label\na,True\nb,no\na,FALSE\n").expect("sound");
        assert_eq!(data.kind, Kind::Statement);
        assert_eq!(data.questions.len(), 2);
        let rows: Vec<_> = data.rows().map(|row| (row.group, row.label)).collect();
        assert_eq!(rows, [(0, true), (0, false), (1, false)]);
    }

    #[test]
    fn reads_the_real_truthfulqa() {
        let Some(data) = shared("truthfulqa/TruthfulQA.csv") else { return };
        assert_eq!(data.questions.len(), 817);
        let true_rows = data.rows().filter(|row| row.label).count();
        assert_eq!((true_rows, data.n_row() - true_rows), (2837, 3369));
        assert!(data.questions.iter().all(|question| {
            question.answers[0].best && question.answers.iter().filter(|a| a.best).count() == 1
        }));
        data.require_two_classes().expect("two classes");
    }

    #[test]
    fn reads_the_real_statements() {
        for (name, n_row, n_question) in [
            ("animals", 1008, 1008),
            ("capitals", 1458, 1438),
            ("cities", 10_000, 7573),
            ("companies", 1200, 1200),
            ("elements", 930, 930),
            ("facts", 612, 598),
            ("inventions", 876, 876),
        ] {
            let Some(data) = shared(&format!("true-false/{name}_true_false.csv")) else { return };
            assert_eq!((data.n_row(), data.questions.len()), (n_row, n_question), "{name}");
        }
    }
}
