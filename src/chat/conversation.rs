//! What was said, and how much of it the model is still told.

use std::ops::ControlFlow;

use super::completion::{Completion, CompletionParams, complete};
use super::message::{Message, Role};
use super::template::ChatTemplate;
use crate::probe::Reading;
use crate::{Result, Session};

/// A question and its answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// What the user asked.
    pub question: String,
    /// What the model answered.
    pub answer: String,
    /// What the probes read in the answer, where there was a meter.
    pub reading: Option<Reading>,
    /// The strength that the answer was steered with; 0: not steered.
    pub alpha: f32,
}

/// A system prompt and the turns so far.
///
/// When the context grows full, the model is no longer told the oldest turns; the conversation
/// keeps them all.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    system: Option<String>,
    turns: Vec<Turn>,
    n_dropped: usize,
}

impl Conversation {
    /// A conversation in which nothing was said yet.
    #[must_use]
    pub fn new(system: Option<String>) -> Self {
        Self { system, ..Self::default() }
    }

    /// The system prompt.
    #[must_use]
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// All turns, oldest first.
    #[must_use]
    pub fn turns(&self) -> &[Turn] {
        &self.turns
    }

    /// The oldest turns that the model is no longer told, because the context could not hold them.
    #[must_use]
    pub fn n_dropped(&self) -> usize {
        self.n_dropped
    }

    /// Adds a turn.
    pub fn push(&mut self, turn: Turn) {
        self.turns.push(turn);
    }

    /// Takes back the last turn.
    pub fn pop(&mut self) -> Option<Turn> {
        let turn = self.turns.pop();
        self.n_dropped = self.n_dropped.min(self.turns.len());
        turn
    }

    /// Forgets what was said, not the system prompt.
    pub fn reset(&mut self) {
        self.turns.clear();
        self.n_dropped = 0;
    }

    /// Answers a question that follows the turns so far; the text is without space around it.
    /// [`Conversation::push`] makes the answer part of the conversation.
    ///
    /// Where the context could not hold the answer, the oldest turns are dropped first.
    ///
    /// # Errors
    /// [`Error::Template`](crate::Error::Template), and what [`complete`] gives.
    pub fn answer(
        &mut self,
        session: &mut Session,
        template: &ChatTemplate,
        question: &str,
        params: &CompletionParams,
        mut on_text: impl FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Completion> {
        let model = session.model();
        let render = |messages: &[Message]| template.tokens(model, messages);
        let prompt = self.fit(question, session.n_ctx(), params.n_predict, render)?;
        let mut begun = false;
        let mut completion = complete(session, &prompt, params, |text| {
            let text = if begun { text } else { text.trim_start() };
            begun |= !text.is_empty();
            on_text(text)
        })?;
        completion.text = completion.text.trim().to_owned();
        Ok(completion)
    }

    /// The prompt's tokens, after dropping the oldest turns where they leave no room for an answer
    /// of `n_predict` tokens (or of half the context, if that is less). Then as many go as it takes
    /// to halve the context: dropping means to compute what remains anew, so it should be seldom.
    fn fit(
        &mut self,
        question: &str,
        n_ctx: usize,
        n_predict: usize,
        render: impl Fn(&[Message]) -> Result<Vec<i32>>,
    ) -> Result<Vec<i32>> {
        let half = n_ctx / 2;
        let mut tokens = render(&self.messages(question))?;
        if tokens.len() + n_predict.min(half) > n_ctx {
            while tokens.len() > half && self.n_dropped < self.turns.len() {
                self.n_dropped += 1;
                tokens = render(&self.messages(question))?;
            }
        }
        Ok(tokens)
    }

    /// What the model is told: the system prompt, the turns that were not dropped, the question.
    #[must_use]
    pub fn messages(&self, question: &str) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new(Role::System, text));
        let turns = self.turns[self.n_dropped..].iter().flat_map(|turn| {
            [Message::new(Role::User, &turn.question), Message::new(Role::Assistant, &turn.answer)]
        });
        system.chain(turns).chain([Message::new(Role::User, question)]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(question: &str) -> Turn {
        Turn { question: question.into(), answer: "yes".into(), reading: None, alpha: 0.0 }
    }

    fn conversation(n_turn: usize) -> Conversation {
        let mut conversation = Conversation::new(Some("rules".to_owned()));
        (0..n_turn).for_each(|i| conversation.push(turn(&i.to_string())));
        conversation
    }

    /// Ten tokens a message.
    fn render(messages: &[Message]) -> Result<Vec<i32>> {
        Ok(vec![0; 10 * messages.len()])
    }

    #[test]
    fn tells_everything_while_there_is_room() {
        let mut conversation = conversation(3);
        // The system prompt, three turns and the question: 80 tokens.
        assert_eq!(conversation.fit("why?", 100, 20, render).unwrap().len(), 80);
        assert_eq!(conversation.n_dropped(), 0);
    }

    #[test]
    fn drops_the_oldest_turns_but_never_the_system_prompt() {
        let mut conversation = conversation(3);
        assert_eq!(conversation.fit("why?", 100, 21, render).unwrap().len(), 40);
        assert_eq!((conversation.n_dropped(), conversation.turns().len()), (2, 3));
        let told: Vec<_> =
            conversation.messages("why?").into_iter().map(|message| message.content).collect();
        assert_eq!(told, ["rules", "2", "yes", "why?"]);
    }

    #[test]
    fn a_long_answer_may_have_half_the_context() {
        let mut conversation = conversation(1);
        assert_eq!(conversation.fit("why?", 80, 1000, render).unwrap().len(), 40);
        assert_eq!(conversation.n_dropped(), 0);
    }

    #[test]
    fn a_question_that_is_too_long_alone_drops_all_turns_and_no_more() {
        let mut conversation = conversation(2);
        assert_eq!(conversation.fit("why?", 10, 5, render).unwrap().len(), 20);
        assert_eq!(conversation.n_dropped(), 2);
        assert_eq!(conversation.pop().unwrap().question, "1");
        assert_eq!(conversation.messages("why?").len(), 2);
    }
}
