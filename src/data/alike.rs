//! Which questions belong together: those that ask the same, those that the data put into one group,
//! and statements of one fact in nearly the same words. Splits keep them on one side, labels are
//! shuffled for all of them at once, and intervals take them for one.
//!
//! A statement counts for its words: lower case, each once, without [`PLAIN`] ones. Two statements
//! belong together where all words of the one, at least [`N_WORD`], stand in the other, which has at
//! most a quarter more, or a single one; so the order of words, articles and a word of emphasis make no
//! other fact. It is a rule that takes too much rather than too little: what belongs together and is
//! not known to lets probes read what they were fitted to, and what is put together needlessly costs a
//! little data. Other wordings share fewer words, and no rule tells them from sentences of one pattern:
//! those have to be named, by `group`.

use std::collections::BTreeMap;

use super::Question;
use super::seen::plain;

/// Words of English that say how a sentence is built, and little of what it is about.
const PLAIN: [&str; 36] = [
    "a", "am", "an", "and", "are", "as", "at", "be", "been", "being", "by", "did", "do", "does",
    "for", "from", "had", "has", "have", "in", "is", "it", "its", "of", "on", "or", "that", "the",
    "there", "these", "this", "those", "to", "was", "were", "with",
];

/// Fewest words of a statement that stands, with others, in a longer one.
const N_WORD: usize = 3;

/// A word of more statements than this tells none from others, and is not looked up.
const N_LOOK: usize = 2000;

/// The part of the words of two statements that both have, above which they may be one fact.
const OVERLAP: f64 = 0.6;

/// Of every question, the place of the first that it belongs with: its own where none stands before it.
/// Questions belong together that ask the same ([`Question::hash`]), have the same
/// [`group`](Question::group), or are statements or pairs in nearly the same words.
#[must_use]
pub fn firsts<'q>(questions: impl IntoIterator<Item = &'q Question>) -> Vec<usize> {
    let questions: Vec<&Question> = questions.into_iter().collect();
    let mut parts = Parts((0..questions.len()).collect());
    let (mut asked, mut named) = (BTreeMap::new(), BTreeMap::new());
    for (place, question) in questions.iter().enumerate() {
        parts.join(*asked.entry(question.hash()).or_insert(place), place);
        if let Some(group) = &question.group {
            parts.join(*named.entry(group).or_insert(place), place);
        }
    }
    for (a, b) in Statements::of(&questions).nearly_same() {
        parts.join(a, b);
    }
    (0..questions.len()).map(|place| parts.first(place)).collect()
}

/// Statements that share more than six tenths of their words, the rarest among them, with one of the
/// same label that they are not known to belong with: they may state one fact in other words. Where
/// more than a tenth of a data set does, it probably needs groups.
///
/// `firsts` is what [`firsts()`] gives of the same questions: `[questions.len()]`.
#[must_use]
pub fn n_overlapping(questions: &[Question], firsts: &[usize]) -> usize {
    let statements = Statements::of(&questions.iter().collect::<Vec<_>>());
    let label = |place: usize| {
        let mut labels = questions[place].answers.iter().map(|answer| answer.label);
        let first = labels.next()?;
        labels.all(|label| label == first).then_some(first)
    };
    let overlaps = |(place, words): &&(usize, Vec<u32>)| {
        let n = statements.rarest(words);
        let rare = words.iter().filter(|&&word| n <= N_LOOK && statements.n_with(word) == n);
        rare.flat_map(|&word| statements.with(word)).any(|(other, others)| {
            firsts[*other] != firsts[*place]
                && label(*other).is_some_and(|it| label(*place) == Some(it))
                && statements.rarest(others) == n
                && overlap(words, others) > OVERLAP
        })
    };
    statements.words.iter().filter(overlaps).count()
}

/// Statements and pairs by their words.
struct Statements {
    /// Places, each with the numbers of its words, ascending.
    words: Vec<(usize, Vec<u32>)>,
    /// Of each word those that have it, as indices into `words`.
    with: Vec<Vec<usize>>,
}

impl Statements {
    fn of(questions: &[&Question]) -> Self {
        let mut numbers: BTreeMap<String, u32> = BTreeMap::new();
        let (mut words, mut with) = (Vec::new(), Vec::new());
        let is_statement = |question: &Question| question.text.trim().is_empty();
        for (place, question) in questions.iter().enumerate().filter(|(_, it)| is_statement(it)) {
            let mut own: Vec<u32> = Vec::new();
            for text in question.answers.iter().map(|answer| plain(&answer.text)) {
                let all = text.split(|c: char| !c.is_alphanumeric());
                for word in all.filter(|word| !word.is_empty() && !PLAIN.contains(word)) {
                    let n = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
                    own.push(*numbers.entry(word.to_owned()).or_insert(n));
                }
            }
            own.sort_unstable();
            own.dedup();
            with.resize_with(numbers.len(), Vec::new);
            own.iter().for_each(|&word| with[word as usize].push(words.len()));
            if !own.is_empty() {
                words.push((place, own));
            }
        }
        Self { words, with }
    }

    fn with(&self, word: u32) -> impl Iterator<Item = &(usize, Vec<u32>)> {
        self.with[word as usize].iter().map(|&i| &self.words[i])
    }

    fn n_with(&self, word: u32) -> usize {
        self.with[word as usize].len()
    }

    /// How many statements have the rarest of these words that stands in more than one.
    fn rarest(&self, words: &[u32]) -> usize {
        words.iter().map(|&word| self.n_with(word)).filter(|&n| n > 1).min().unwrap_or(0)
    }

    /// Pairs of places whose statements say nearly the same.
    fn nearly_same(&self) -> Vec<(usize, usize)> {
        let mut known: BTreeMap<&[u32], usize> = BTreeMap::new();
        let mut found = Vec::new();
        for (place, words) in &self.words {
            let first = *known.entry(words).or_insert(*place);
            if first != *place {
                found.push((first, *place));
                continue;
            }
            let n = words.len();
            let most = n + (n / 4).max(1);
            let rarest = words.iter().min_by_key(|&&word| self.n_with(word));
            let Some(&word) = rarest.filter(|&&word| n >= N_WORD && self.n_with(word) <= N_LOOK)
            else {
                continue;
            };
            let longer = self.with(word).filter(|(_, others)| {
                (n + 1..=most).contains(&others.len()) && n_shared(words, others) == n
            });
            found.extend(longer.map(|(other, _)| (*place, *other)));
        }
        found
    }
}

/// Numbers that both lists, which ascend, have.
fn n_shared(a: &[u32], b: &[u32]) -> usize {
    a.iter().filter(|word| b.binary_search(word).is_ok()).count()
}

fn overlap(a: &[u32], b: &[u32]) -> f64 {
    let n = n_shared(a, b);
    n as f64 / (a.len() + b.len() - n) as f64
}

/// Parts of a whole that grow together. Of each place one that stands before it in its part, or itself.
struct Parts(Vec<usize>);

impl Parts {
    fn first(&mut self, mut place: usize) -> usize {
        while self.0[place] != place {
            self.0[place] = self.0[self.0[place]];
            place = self.0[place];
        }
        place
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.first(a), self.first(b));
        self.0[a.max(b)] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{read, shared};
    use super::*;

    fn of(rows: &[(&str, u8)]) -> (Vec<usize>, usize) {
        let rows = rows.iter().map(|(text, label)| format!("\"{text}\",{label}\n"));
        let text = format!("statement,label\n{}", rows.collect::<String>());
        let data = read("s.csv", &text).unwrap();
        let firsts = firsts(&data.questions);
        let n = n_overlapping(&data.questions, &firsts);
        (firsts, n)
    }

    #[test]
    fn statements_in_nearly_the_same_words_belong_together() {
        let (firsts, n_overlap) = of(&[
            ("The city of Paris is in France.", 1),
            ("The city of Lyon is in France.", 1),
            ("Paris is a city in France", 1),
            ("PARIS: a city of the France!", 0),
            ("Paris is a nice city in France.", 1),
            ("The city of Paris is in Spain.", 0),
            ("Paris is no city in France at any time.", 0),
        ]);
        assert_eq!(firsts, [0, 1, 0, 0, 0, 5, 6]);
        assert_eq!(n_overlap, 0, "other facts in the same pattern share no rare word");
        // What no rule tells from a pattern is told of.
        let (firsts, n_overlap) = of(&[
            ("Water boils at a hundred degrees Celsius.", 1),
            ("At a hundred degrees Celsius water starts boiling.", 1),
            ("Gold is a metal.", 1),
        ]);
        assert_eq!((firsts, n_overlap), (vec![0, 1, 2], 0));
        let (firsts, n_overlap) = of(&[
            ("Water boils at a hundred degrees Celsius.", 1),
            ("Water turns to steam at a hundred degrees Celsius.", 1),
            ("Water turns to gas at a hundred degrees Celsius.", 0),
            ("Water becomes steam at a hundred degrees Celsius.", 1),
        ]);
        assert_eq!((firsts, n_overlap), (vec![0, 1, 2, 3], 2));
    }

    #[test]
    fn a_group_holds_whatever_is_in_it_together() {
        let text = "statement,label,group\nSnow is white.,1,a\nGrass is green.,1,\nFlakes have no hue.,1,a\n\
                    Grass is green indeed.,1,b\nLawns are of that colour.,1,b\n";
        let data = read("s.csv", text).unwrap();
        assert_eq!(firsts(&data.questions), [0, 1, 0, 3, 3]);
        let lines = [
            r#"{"question": "1 + 1?", "choices": ["2", "3"], "answer": 0, "group": 7}"#,
            r#"{"question": "2 + 2?", "choices": ["4", "3"], "answer": 0, "group": "x"}"#,
            r#"{"question": "One and one?", "choices": ["2", "3"], "answer": 0, "group": 7}"#,
            r#"{"question": "2 + 2?", "choices": ["4", "5"], "answer": 0}"#,
        ];
        let data = read("q.jsonl", &lines.join("\n")).unwrap();
        assert_eq!(firsts(&data.questions), [0, 1, 0, 1]);
    }

    /// Seven collections of one-sentence facts, most of them in a few patterns.
    #[test]
    fn real_statements_of_one_pattern_stay_apart() {
        for name in
            ["animals", "capitals", "cities", "companies", "elements", "facts", "inventions"]
        {
            let Some(data) = shared(&format!("true-false/{name}_true_false.csv")) else { return };
            let firsts = firsts(&data.questions);
            let n = firsts.len();
            let n_joined =
                firsts.iter().enumerate().filter(|(place, first)| place != *first).count();
            assert!(n_joined * 20 < n, "{name}: {n_joined} of {n} join another");
            let n_overlap = n_overlapping(&data.questions, &firsts);
            assert!(n_overlap * 10 < n, "{name}: {n_overlap} of {n} overlap");
        }
    }
}
