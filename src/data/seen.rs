//! Which questions something was fitted on, in a few bytes each.

use super::Question;
use super::sha256;

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
        let plain = |text: &str| {
            let text = text.to_lowercase();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let text = match self.text.trim() {
            "" => {
                let mut texts: Vec<String> = self.answers.iter().map(|a| plain(&a.text)).collect();
                texts.sort_unstable();
                texts.join("\n")
            }
            text => plain(text),
        };
        let digits = sha256(text.as_bytes());
        u64::from_str_radix(&digits[..SEEN_BITS as usize / 4], 16).unwrap_or_default()
    }
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
        // As any program computes it: `printf 'who?' | sha256sum | cut -c1-12`.
        assert!(hashes(&one.questions).iter().all(|hash| hash >> SEEN_BITS == 0));
        assert_eq!(format!("{:012x}", one.questions[1].hash()), sha256(b"who?")[..12]);
    }

    #[test]
    fn a_statement_is_known_by_its_text() {
        let of = |text: &str| hashes(&read("s.csv", text).unwrap().questions);
        let one = of("statement,label\nSnow is white.,1\nSnow is black.,0\n");
        assert_eq!(one, of("statement,label\nSnow is black.,1\nSnow  is white.,0\n"));
        assert_ne!(one, of("statement,label\nSnow is red.,1\nSnow is black.,0\n"));
    }
}
