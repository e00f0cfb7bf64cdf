//! What people have: labelled data sets, read strictly into one model.
//!
//! Seven forms are understood, told apart by the extension and by the header or the first keys:
//!
//! | file | form | one question is |
//! |---|---|---|
//! | `.csv` | TruthfulQA: `Question, Best Answer, Correct Answers, Incorrect Answers` | a line |
//! | `.csv` | statements: `statement, label` | a distinct statement |
//! | `.json` | TruthfulQA's `mc_task.json`: `question, mc1_targets, mc2_targets` | an object |
//! | `.jsonl` | `{"prompt", "answer", "label"}` | a distinct prompt |
//! | `.jsonl` | `{"question", "choices", "answer"}` or `{"question", "true", "false"}` | a line |
//! | `.jsonl` | `{"positive", "negative"}` | a line |
//! | `.jsonl` | `{"prompt", "chosen", "rejected"}`, as preferences are kept (TRL) | a line |
//!
//! Of choices, `answer` is the index of the true one, counted from 0; `true` and `false` are lists of
//! answers, the first true one is the best. Further columns and keys are allowed and ignored, save
//! `category` beside a question, and `group`, a text or a whole number, in lines of JSON and beside
//! statements: what has the same group is one question to splits, shuffles and intervals ([`firsts`]). A
//! label is `0`, `1`, `true`, `false`, `yes` or `no`. A key that stands twice in an object is refused. What breaks a form is refused with the line it stands on, never guessed at or skipped.

mod alike;
mod form;
mod json;
mod jsonl;
mod seen;
pub mod split;
mod table;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub use self::alike::{firsts, n_overlapping};
pub use self::form::PromptForm;
pub use self::seen::hashes;
pub(crate) use self::seen::{SEEN_BITS, plain};
use crate::error::{Error, Result, shown};
use crate::file::{DATA_MAX, folder_of, read_up_to, stem};
use crate::vision::{place_pictures, shows_picture};

/// A labelled data set: questions (groups) with answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// The file's stem: `TruthfulQA` of `data/TruthfulQA.csv`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// SHA-256 of the file's bytes, in lowercase hex.
    pub sha256: String,
    /// What the texts are.
    pub kind: Kind,
    /// The questions in the order in which the file first names them, at least one.
    pub questions: Vec<Question>,
}

/// What the texts of a data set are, and so how they become prompts by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Questions with true and false answers.
    QuestionAnswer,
    /// Statements that stand alone.
    Statement,
    /// Prompts with completions, joined as they are.
    PromptAnswer,
    /// A positive and a negative text each.
    Pair,
}

impl Kind {
    /// Whether there are questions, or prompts, before the texts.
    pub(crate) fn asks(self) -> bool {
        matches!(self, Self::QuestionAnswer | Self::PromptAnswer)
    }
}

/// One question and its candidate answers: the unit by which data is split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The question or prompt; empty for statements and pairs.
    pub text: String,
    /// The category, where the file has one.
    pub category: Option<String>,
    /// What it shares with others that state the same in other words, where the file says so.
    pub group: Option<String>,
    /// The line of the file on which the question first stands, counted from 1.
    pub line: u64,
    /// The pictures that belong to it, in the order of their places ([`PLACE`](crate::vision::PLACE))
    /// in its texts, or before them; none once they were shown to a model ([`Dataset::show`]).
    pub images: Vec<PathBuf>,
    /// The answers in the order of the file, save that a best answer comes first where the file
    /// names it apart.
    pub answers: Vec<Answer>,
}

/// One candidate answer, statement, or side of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text, never empty.
    pub text: String,
    /// Whether it is true (or positive).
    pub label: bool,
    /// Whether it is the answer that MC1 asks for.
    pub best: bool,
}

/// One labelled text: answer `answer` of question `group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Index into [`Dataset::questions`].
    pub group: usize,
    /// Index into [`Question::answers`].
    pub answer: usize,
    /// The answer's label.
    pub label: bool,
}

impl Dataset {
    /// Reads a data set; the [module's table](self) says what is understood.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read, [`Error::Data`] with the line if it breaks its
    /// form, is of no known form, or holds no rows.
    pub fn open(path: &Path) -> Result<Self> {
        let bytes = read_up_to(DATA_MAX, path)?;
        Self::from_bytes(path, &bytes)
    }

    /// Reads a data set from the bytes of a file, such as one embedded in a program. `path` stands
    /// for the file in errors, and its extension says the format.
    ///
    /// # Errors
    /// [`Error::Data`], as for [`Dataset::open`].
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let parse = match path.extension().and_then(|extension| extension.to_str()) {
            Some("csv") => table::parse,
            Some("json") => json::parse_mc_task,
            Some("jsonl") => jsonl::parse_lines,
            _ => return Err(Flaw::file(UNDERSTOOD).at(path)),
        };
        let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let (kind, mut questions) = parse(text).map_err(|flaw| flaw.at(path))?;
        for image in questions.iter_mut().flat_map(|question| &mut question.images) {
            *image = folder_of(path).join(&*image);
        }
        if questions.is_empty() {
            return Err(Flaw::file("holds no rows").at(path));
        }
        Ok(Self { name: stem(path), path: path.to_owned(), sha256: sha256(bytes), kind, questions })
    }

    /// Whether pictures belong to it that no model was shown yet.
    #[must_use]
    pub fn has_images(&self) -> bool {
        self.questions.iter().any(|question| !question.images.is_empty())
    }

    /// Whether pictures belong to it, shown or not. Then answers are scored as they stand; behind those to
    /// other questions a full stop is put where they have none, as TruthfulQA's own code does.
    #[must_use]
    pub fn is_of_pictures(&self) -> bool {
        self.questions.iter().any(Question::is_of_pictures)
    }

    /// Shows every picture to a model, each file once, and puts its marker into the texts. `show` gives
    /// a file's marker, which tells the picture from all others; [`Dataset::sha256`] counts them in.
    ///
    /// # Errors
    /// What `show` gives; [`Error::Data`] with the line where a text names another number of places
    /// than there are pictures.
    pub fn show(&mut self, mut show: impl FnMut(&Path) -> Result<String>) -> Result<()> {
        let mut markers = HashMap::new();
        let mut all = self.sha256.clone();
        for question in &mut self.questions {
            if question.images.is_empty() {
                continue;
            }
            let mut own = Vec::new();
            for image in std::mem::take(&mut question.images) {
                let marker = match markers.get(&image) {
                    Some(marker) => marker,
                    None => {
                        let marker: String = show(&image)?;
                        markers.entry(image).or_insert(marker)
                    }
                };
                all.push_str(marker);
                own.push(marker.clone());
            }
            let own: Vec<&str> = own.iter().map(String::as_str).collect();
            let place = |text: &mut String| {
                let placed = place_pictures(text, &own);
                let flaw = |error: Error| Flaw::line(question.line, error.to_string());
                *text = placed.map_err(|error| flaw(error).at(&self.path))?;
                Ok::<_, Error>(())
            };
            // What has no question carries its picture in each of its texts.
            if self.kind.asks() {
                place(&mut question.text)?;
            } else {
                question.answers.iter_mut().try_for_each(|answer| place(&mut answer.text))?;
            }
        }
        if !markers.is_empty() {
            self.sha256 = sha256(all.as_bytes());
        }
        Ok(())
    }

    /// At most `n` of the questions, spread evenly; 0 takes all.
    #[must_use]
    pub fn limited(mut self, n: usize) -> Self {
        let n_all = self.questions.len();
        if n > 0 && n < n_all {
            self.questions = (0..n).map(|i| self.questions[i * n_all / n].clone()).collect();
        }
        self
    }

    /// The number of labelled texts: answers, summed over the questions.
    #[must_use]
    pub fn n_row(&self) -> usize {
        self.questions.iter().map(|question| question.answers.len()).sum()
    }

    /// Every labelled text, question by question.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        self.questions.iter().enumerate().flat_map(|(group, question)| {
            let answers = question.answers.iter().enumerate();
            answers.map(move |(answer, &Answer { label, .. })| Row { group, answer, label })
        })
    }

    /// Makes sure that there is something to tell apart.
    ///
    /// # Errors
    /// [`Error::Data`] if all rows are true, all are false, or there are none.
    pub fn require_two_classes(&self) -> Result<()> {
        let has = |label| self.rows().any(|row| row.label == label);
        let problem = match (has(true), has(false)) {
            (true, true) => return Ok(()),
            (true, false) => "holds only true rows: a probe needs false ones, too",
            (false, true) => "holds only false rows: a probe needs true ones, too",
            (false, false) => "holds no rows",
        };
        Err(Flaw::file(problem).at(&self.path))
    }
}

impl Question {
    /// One that is empty, of a line.
    pub(crate) fn new(line: u64) -> Self {
        let (text, images, answers) = (String::new(), Vec::new(), Vec::new());
        Self { text, category: None, group: None, line, images, answers }
    }

    /// The answer that MC1 asks for, an index into [`Question::answers`]: the one marked best, else
    /// the first true one, else the first.
    #[must_use]
    pub fn best(&self) -> usize {
        let marked = self.answers.iter().position(|answer| answer.best);
        marked.or_else(|| self.answers.iter().position(|answer| answer.label)).unwrap_or(0)
    }

    /// Whether it has true and false answers.
    #[must_use]
    pub fn is_two_sided(&self) -> bool {
        [true, false].iter().all(|&label| self.answers.iter().any(|answer| answer.label == label))
    }

    /// Whether pictures belong to it, shown or not.
    #[must_use]
    pub fn is_of_pictures(&self) -> bool {
        let mut answers = self.answers.iter();
        !self.images.is_empty()
            || shows_picture(&self.text)
            || answers.any(|answer| shows_picture(&answer.text))
    }

    /// Refuses a question whose pictures no model was shown, and would not see.
    pub(crate) fn require_shown(&self) -> Result<()> {
        let Some(image) = self.images.first() else { return Ok(()) };
        let problem =
            "no model was shown it: Dataset::show does that for all pictures of a data set";
        Err(Error::Picture { path: image.clone(), problem: problem.to_owned() })
    }

    /// The same question with its best answer and the false ones: all that MC1, and the log odds of
    /// the best answer against the false ones, look at.
    #[must_use]
    pub fn deciding(&self) -> Self {
        let best = self.best();
        let answers = self.answers.iter().enumerate();
        let decides = |(i, answer): &(usize, &Answer)| *i == best || !answer.label;
        Self {
            answers: answers.filter(decides).map(|(_, answer)| answer.clone()).collect(),
            ..self.clone()
        }
    }

    /// Puts it into a group; one that a further line says no more of stays where it is.
    ///
    /// # Errors
    /// A problem where it is in another.
    fn join(&mut self, group: Option<String>) -> Result<(), String> {
        match (&self.group, group) {
            (Some(known), Some(group)) if *known != group => {
                let (known, group) = (shown(known), shown(&group));
                Err(format!("its group is `{group}`, and was `{known}` on line {}", self.line))
            }
            (None, group) => {
                self.group = group;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Refuses two answers of which the one is called true and the other false, and which differ in blanks
    /// only: one of them is a slip.
    fn check_blanks(&self) -> Result<(), String> {
        let words = |answer: &Answer| answer.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut known: HashMap<String, &Answer> = HashMap::new();
        for answer in &self.answers {
            let before = *known.entry(words(answer)).or_insert(answer);
            if before.text != answer.text && before.label != answer.label {
                let (a, b) = (shown(&before.text), shown(&answer.text));
                return Err(format!(
                    "the answers `{a}` and `{b}` differ in blanks only, and one is true, the other false"
                ));
            }
        }
        Ok(())
    }

    /// Adds an answer.
    ///
    /// # Errors
    /// A problem if the answer is empty.
    fn add(&mut self, text: &str, label: bool, best: bool) -> Result<(), String> {
        if text.is_empty() {
            return Err("an answer is empty".into());
        }
        self.answers.push(Answer { text: text.into(), label, best });
        Ok(())
    }

    /// Drops answers that came before with the same label. With the other label they stay, for real
    /// collections, TruthfulQA among them, disagree with themselves here and there.
    fn drop_repeated(&mut self) {
        let answers = &self.answers;
        let mut order: Vec<usize> = (0..answers.len()).collect();
        order.sort_by_key(|&i| (&answers[i].text, answers[i].label));
        // Among equals, which stand in the order of the file, the first stays.
        let is_same = |a: &usize, b: &usize| {
            (&answers[*a].text, answers[*a].label) == (&answers[*b].text, answers[*b].label)
        };
        let mut stays = vec![false; answers.len()];
        let mut best = vec![false; answers.len()];
        for same in order.chunk_by(is_same) {
            stays[same[0]] = true;
            best[same[0]] = same.iter().any(|&i| answers[i].best);
        }
        let mut places = stays.into_iter().zip(best);
        self.answers.retain_mut(|answer| {
            let (stays, best) = places.next().unwrap_or_default();
            answer.best = best;
            stays
        });
    }
}

/// What [`Dataset::open`] says when it cannot tell what a file is.
const UNDERSTOOD: &str = "not a known form of data; understood are TruthfulQA.csv \
    (Question, Best Answer, Correct Answers, Incorrect Answers), other .csv files with the columns \
    statement and label, mc_task.json, and .jsonl files of {\"prompt\", \"answer\", \"label\"}, \
    {\"question\", \"choices\", \"answer\"}, {\"question\", \"true\", \"false\"}, \
    {\"prompt\", \"chosen\", \"rejected\"} or {\"positive\", \"negative\"}";

/// What a parser found wrong, still without the name of the file.
#[derive(Debug)]
struct Flaw {
    line: Option<u64>,
    problem: String,
}

impl Flaw {
    /// A flaw of the file as a whole.
    fn file(problem: impl Into<String>) -> Self {
        Self { line: None, problem: problem.into() }
    }

    /// A flaw of one line.
    fn line(line: u64, problem: impl Into<String>) -> Self {
        Self { line: Some(line), problem: problem.into() }
    }

    fn at(self, path: &Path) -> Error {
        Error::Data { path: path.to_owned(), line: self.line, problem: self.problem }
    }
}

/// SHA-256 in lowercase hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The truth value that a label spells, in any case.
fn label(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" => Some(true),
        "0" | "false" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
