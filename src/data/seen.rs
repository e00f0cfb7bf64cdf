//! Which questions something was fitted on, in a few bytes each.

use super::{PromptForm, Question, sha256};

/// Bits of a question's hash: few enough for every program that reads numbers as doubles, and enough
/// that of two sets of a thousand questions one pair in 280 million is taken for equal.
pub(crate) const SEEN_BITS: u32 = 48;

impl Question {
    /// What tells the question from others, wherever it stands in whichever file: the first 48 bits of
    /// SHA-256 over its text in lower case, its words parted by single spaces. Of statements and pairs,
    /// which ask nothing, over their texts in alphabetical order, a line each: another label makes no
    /// other question.
    #[must_use]
    pub fn hash(&self) -> u64 {
        match self.text.trim() {
            "" => self.hash_of_answers(),
            text => hash(&plain(text)),
        }
    }

    /// Of all answers, in alphabetical order.
    fn hash_of_answers(&self) -> u64 {
        let mut texts: Vec<String> = self.answers.iter().map(|a| plain(&a.text)).collect();
        texts.sort_unstable();
        hash(&texts.join("\n"))
    }

    /// Whether it is among questions, statements or pairs of these hashes, ascending: by its own text,
    /// as the pair of its answers, or as the statement that one of its answers makes, alone or after the
    /// question.
    #[must_use]
    pub fn is_among(&self, hashes: &[u64]) -> bool {
        let is_in = |hash: u64| hashes.binary_search(&hash).is_ok();
        let makes_one = |text: &str| {
            is_in(hash(&plain(text))) || is_in(hash(&plain(&format!("{} {text}", self.text))))
        };
        is_in(self.hash())
            || is_in(self.hash_of_answers())
            || self.answers.iter().any(|answer| makes_one(&answer.text))
    }

    /// As [`Question::is_among`], and also where either side is whole prompts (`Q: Who? A:`) and the
    /// other is asked in just that form: `form` is how this question is asked, `other` how those were.
    pub(crate) fn is_among_prompts(
        &self,
        form: &PromptForm,
        hashes: &[u64],
        other: Option<&PromptForm>,
    ) -> bool {
        let is_in = |text: &str| hashes.binary_search(&hash(&plain(text))).is_ok();
        self.is_among(hashes)
            || form.asks() && is_in(&form.prompt(&self.text))
            || other
                .and_then(|other| other.question_in(&self.text))
                .is_some_and(|text| is_in(&text))
    }
}

/// The first 48 bits of SHA-256.
fn hash(text: &str) -> u64 {
    let digits = sha256(text.as_bytes());
    u64::from_str_radix(&digits[..SEEN_BITS as usize / 4], 16).unwrap_or_default()
}

/// A text in lower case, its words parted by single spaces: what a question is known by.
pub(crate) fn plain(text: &str) -> String {
    text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The hashes of these questions, ascending, each once.
#[must_use]
pub fn hashes<'q>(questions: impl IntoIterator<Item = &'q Question>) -> Vec<u64> {
    let mut hashes: Vec<u64> = questions.into_iter().map(Question::hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    hashes
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    #[test]
    fn a_question_is_known_again_in_another_file() {
        let one = read(
            "a.csv",
            "Question,Best Answer,Correct Answers,Incorrect Answers\nWhat is  up?,a,a,b\nWho?,a,a,b\n",
        );
        let other = "{\"question\": \"Who?\", \"true\": [\"x\"], \"false\": [\"y\"]}\n\
                     {\"question\": \" what is up? \", \"true\": [\"x\"], \"false\": [\"y\"]}\n";
        let (one, other) = (one.unwrap(), read("b.jsonl", other).unwrap());
        assert_eq!(hashes(&one.questions), hashes(&other.questions));
        assert_eq!(hashes(&one.questions).len(), 2);
        let both = one.questions.iter().chain(&other.questions);
        assert_eq!(super::super::firsts(both), [0, 1, 1, 0]);
        // As any program computes it: `printf 'who?' | sha256sum | cut -c1-12`.
        assert!(hashes(&one.questions).iter().all(|hash| hash >> SEEN_BITS == 0));
        assert_eq!(format!("{:012x}", one.questions[1].hash()), sha256(b"who?")[..12]);
    }

    #[test]
    fn a_question_is_known_again_in_a_whole_prompt() {
        let question = r#"{"question": "Who is it?", "true": ["I."], "false": ["You."]}"#;
        let prompt = "{\"prompt\": \"Q: Who  is it? A:\", \"answer\": \" I.\", \"label\": 1}\n\
                      {\"prompt\": \"Q: Who  is it? A:\", \"answer\": \" You.\", \"label\": 0}\n";
        let [question, prompt] =
            [question, prompt].map(|text| read("q.jsonl", text).unwrap().questions[0].clone());
        let [asked, bare] = ["Q: {question} A: {answer}", "{question}{answer}"]
            .map(|f| PromptForm::parse(f).unwrap());
        assert!(bare.is_bare() && !asked.is_bare());
        let (of_question, of_prompt) = ([question.hash()], [prompt.hash()]);
        assert!(!question.is_among(&of_prompt) && !prompt.is_among(&of_question));
        assert!(question.is_among_prompts(&asked, &of_prompt, Some(&bare)));
        assert!(prompt.is_among_prompts(&bare, &of_question, Some(&asked)));
        // In another form nobody can tell.
        let other = PromptForm::parse("Question: {question} Answer: {answer}").unwrap();
        assert!(!question.is_among_prompts(&other, &of_prompt, Some(&bare)));
        assert!(!prompt.is_among_prompts(&bare, &of_question, Some(&other)));
    }

    #[test]
    fn a_statement_is_known_by_its_text() {
        let of = |text: &str| hashes(&read("s.csv", text).unwrap().questions);
        let one = of("statement,label\nSnow is white.,1\nSnow is black.,0\n");
        assert_eq!(one, of("statement,label\nSnow is black.,1\nSnow  is white.,0\n"));
        assert_ne!(one, of("statement,label\nSnow is red.,1\nSnow is black.,0\n"));
        // And in a question that it answers.
        let asked = |line: &str| read("q.jsonl", line).unwrap().questions[0].clone();
        for line in [
            r#"{"question": "What is so?", "true": ["Snow is  white."], "false": ["Grass is red."]}"#,
            r#"{"question": "Snow is", "true": ["white."], "false": ["blue."]}"#,
        ] {
            assert!(asked(line).is_among(&one), "{line}");
        }
        let other =
            r#"{"question": "What colour is snow?", "true": ["White."], "false": ["Black."]}"#;
        assert!(!asked(other).is_among(&one));
        let pair = "{\"positive\": \"Yes!\", \"negative\": \"No!\"}\n";
        let pair = hashes(&read("p.jsonl", pair).unwrap().questions);
        let line = r#"{"question": "Well?", "true": ["no!"], "false": ["yes!"]}"#;
        assert!(asked(line).is_among(&pair));
    }
}
