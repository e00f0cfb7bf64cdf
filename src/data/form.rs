//! How a question and an answer become one text.

use std::fmt;

use super::{Kind, plain};
use crate::error::{Error, Result, shown};

/// A template that turns a question and an answer into one text, such as
/// `Q: {question} A: {answer}`.
///
/// The text falls into a [`prompt`](Self::prompt) and an [`answer`](Self::answer): the spaces
/// before the answer belong to the answer, because tokenizers join a space to the word after it.
/// For every question and answer, the prompt followed by the answer is the [`text`](Self::text).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromptForm {
    template: String,
    /// What stands before the question; `None` in a form without one.
    opening: Option<String>,
    /// What stands between the question (or the start) and the answer, without its last spaces.
    middle: String,
    /// Those spaces.
    space: String,
    /// What stands after the answer.
    ending: String,
    /// Of a form that a chat template made.
    chat: Option<Chat>,
}

/// What a chat template adds to a form.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Chat {
    /// What stands between an answer and the next question; `None` where the template has no place
    /// for one.
    between: Option<String>,
}

impl PromptForm {
    /// Reads a template. It holds `{answer}` once and `{question}` at most once, before it; all
    /// else is verbatim.
    ///
    /// # Errors
    /// [`Error::Invalid`] for any other template.
    pub fn parse(template: &str) -> Result<Self> {
        let refuse = |problem: &str| {
            Error::invalid(
                format!("prompt form `{}`", shown(template)),
                format!("{problem}, as in `Q: {{question}} A: {{answer}}`"),
            )
        };
        let (before, ending) = template
            .split_once("{answer}")
            .filter(|(_, ending)| !ending.contains("{answer}"))
            .ok_or_else(|| refuse("must hold {answer} once"))?;
        let (opening, middle) = match before.split_once("{question}") {
            Some((opening, middle)) => (Some(opening.to_owned()), middle),
            None => (None, before),
        };
        if middle.contains("{question}") || ending.contains("{question}") {
            return Err(refuse("may hold {question} once, before {answer}"));
        }
        let (middle, space) = middle.split_at(middle.trim_end_matches(' ').len());
        Ok(Self {
            template: template.to_owned(),
            opening,
            middle: middle.to_owned(),
            space: space.to_owned(),
            ending: ending.to_owned(),
            chat: None,
        })
    }

    /// Reads a template that a chat template was rendered to, control tokens spelt out, with
    /// `{question}` in the user's message and `{answer}` at the start of the model's. `between` is
    /// what stands between an answer and the user's next message.
    ///
    /// # Errors
    /// As [`PromptForm::parse`]; also for a template without a question.
    pub fn parse_chat(template: &str, between: Option<String>) -> Result<Self> {
        let form = Self::parse(template)?;
        if form.opening.is_none() {
            let problem = "holds no {question}: the chat template drops what the user says";
            return Err(Error::invalid(format!("prompt form `{}`", shown(template)), problem));
        }
        Ok(Self { chat: Some(Chat { between }), ..form })
    }

    /// Whether a chat template made it: then its text spells out control tokens.
    #[must_use]
    pub fn is_chat(&self) -> bool {
        self.chat.is_some()
    }

    /// Whether it has a place for a question.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.opening.is_some()
    }

    /// Whether prompts are taken as they are: nothing but blanks stands around the question, so that what
    /// the data call a question may be a whole prompt, such as `Q: Who? A:`.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        let is_blank = |text: &String| text.trim().is_empty();
        self.opening.as_ref().is_some_and(is_blank) && is_blank(&self.middle)
    }

    /// The question in a prompt of this form, in lower case and with single spaces; `None` where the
    /// prompt is of another one.
    pub(crate) fn question_in(&self, prompt: &str) -> Option<String> {
        let prompt = plain(prompt);
        let question = prompt.strip_prefix(&plain(self.opening.as_ref()?))?;
        let question = question.strip_suffix(&plain(&self.middle))?.trim();
        (!question.is_empty()).then(|| question.to_owned())
    }

    /// The form for data of one kind: `Q: {question} A: {answer}` for questions, the form of the
    /// ITI paper's code; prompts and their answers as they are; statements and pairs alone.
    #[must_use]
    pub fn default_for(kind: Kind) -> Self {
        let template = match kind {
            Kind::QuestionAnswer => "Q: {question} A: {answer}",
            Kind::PromptAnswer => "{question}{answer}",
            Kind::Statement | Kind::Pair => "{answer}",
        };
        Self::parse(template).expect("the default forms are well-formed")
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self, question: &str, answer: &str) -> String {
        self.prompt(question) + &self.answer(answer)
    }

    /// Everything before the answer, without the form's spaces there.
    #[must_use]
    pub fn prompt(&self, question: &str) -> String {
        self.opening_with(question).unwrap_or_default() + &self.middle
    }

    /// Everything before the answer, where something stands before the question: examples, an
    /// instruction. In a chat that is part of the user's message, else it comes before all.
    #[must_use]
    pub fn prompt_after(&self, preamble: &str, question: &str) -> String {
        match self.chat {
            Some(_) => self.prompt(&format!("{preamble}{question}")),
            None => format!("{preamble}{}", self.prompt(question)),
        }
    }

    /// What all prompts after a preamble begin with.
    #[must_use]
    pub fn start(&self, preamble: &str) -> String {
        match (&self.chat, &self.opening) {
            (Some(_), Some(opening)) => format!("{opening}{preamble}"),
            _ => preamble.to_owned(),
        }
    }

    /// The answer as it follows the prompt: the form's spaces, the answer, what the form ends in.
    #[must_use]
    pub fn answer(&self, answer: &str) -> String {
        format!("{}{answer}{}", self.space, self.ending)
    }

    /// The text, a space and the start of another question: `Q: … A: … Q: {next}`, the form at whose
    /// last token the ITI paper's code measures σ; in a chat, the next message of the user. `None`
    /// where the form holds no question.
    #[must_use]
    pub fn text_then(&self, question: &str, answer: &str, next: &str) -> Option<String> {
        if let Some(chat) = &self.chat {
            let between = chat.between.as_ref()?;
            return Some(format!("{}{between}{next}", self.text(question, answer)));
        }
        let next = self.opening_with(next)?;
        Some(format!("{} {next}", self.text(question, answer)))
    }

    /// The template.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.template
    }

    /// The start of the text up to the end of the question.
    fn opening_with(&self, question: &str) -> Option<String> {
        self.opening.as_ref().map(|opening| format!("{opening}{question}"))
    }
}

impl fmt::Display for PromptForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.template)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn default_forms_read_as_the_field_writes_them() {
        let form = PromptForm::default_for(Kind::QuestionAnswer);
        assert_eq!(form.text("Why?", "So."), "Q: Why? A: So.");
        assert_eq!(form.prompt("Why?"), "Q: Why? A:");
        assert_eq!(form.answer("So."), " So.");
        assert_eq!(form.text_then("Why?", "So.", "How?").unwrap(), "Q: Why? A: So. Q: How?");

        let form = PromptForm::default_for(Kind::PromptAnswer);
        assert_eq!(form.text("Why? ", "So."), "Why? So.");
        assert_eq!((form.prompt("Why? "), form.answer("So.")), ("Why? ".into(), "So.".into()));

        let form = PromptForm::default_for(Kind::Statement);
        assert_eq!(form.text("", "Snow is white."), "Snow is white.");
        assert_eq!(form.prompt(""), "");
        assert_eq!(form.text_then("", "Snow is white.", ""), None);
    }

    #[test]
    fn inserts_braces_verbatim() {
        let form = PromptForm::parse("{a} {question}\n  {answer} {b}").unwrap();
        assert_eq!(form.prompt("{answer}"), "{a} {answer}\n");
        assert_eq!(form.answer("{question}"), "  {question} {b}");
        assert_eq!(form.to_string(), "{a} {question}\n  {answer} {b}");
    }

    #[test]
    fn a_chat_puts_what_comes_before_a_question_into_the_users_message() {
        let form = PromptForm::parse_chat(
            "<s><user>{question}</user><model> {answer}",
            Some("</model><user>".to_owned()),
        )
        .unwrap();
        assert!(form.is_chat());
        assert_eq!(
            form.prompt_after("Be brief. ", "Why?"),
            "<s><user>Be brief. Why?</user><model>"
        );
        assert_eq!(form.start("Be brief. "), "<s><user>Be brief. ");
        assert_eq!(form.answer("So."), " So.");
        assert_eq!(
            form.text_then("Why?", "So.", "How?").unwrap(),
            "<s><user>Why?</user><model> So.</model><user>How?"
        );
        let plain = PromptForm::parse("Q: {question} A: {answer}").unwrap();
        assert_eq!(plain.prompt_after("Be brief. ", "Why?"), "Be brief. Q: Why? A:");
        assert_eq!((plain.start("Be brief. "), plain.is_chat()), ("Be brief. ".into(), false));
        assert!(PromptForm::parse_chat("<s>{answer}", None).is_err());
    }

    #[test]
    fn refuses_malformed_templates() {
        for (template, problem) in [
            ("", "must hold {answer} once"),
            ("{question}", "must hold {answer} once"),
            ("{answer}{answer}", "must hold {answer} once"),
            ("{answer} {question}", "may hold {question} once, before {answer}"),
            ("{question} {question} {answer}", "may hold {question} once, before {answer}"),
        ] {
            let message = PromptForm::parse(template).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
    }

    proptest! {
        #[test]
        fn prompt_and_answer_make_the_text(
            template in "(.{0,8}\\{question\\})?.{0,8}\\{answer\\}.{0,8}",
            question in ".*",
            answer in ".*",
        ) {
            let form = PromptForm::parse(&template).unwrap();
            let whole = template.replacen("{answer}", "\0", 1).replacen("{question}", &question, 1);
            prop_assume!(!question.contains('\0') && !template.contains('\0'));
            prop_assert_eq!(form.text(&question, &answer), whole.replacen('\0', &answer, 1));
        }
    }
}
