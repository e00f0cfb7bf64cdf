//! What one decode is asked to do, token by token.

use super::order::{Place, SeqSet};
use crate::ffi::context::BatchArrays;

/// Tokens for one [`Session::decode`](super::Session::decode), each with its position, the
/// sequences it belongs to, the bank row that steers it, and what is wanted of it.
///
/// A token that belongs to several sequences is computed once and seen by all of them: that is how
/// a shared prefix is shared. Tokens of a sequence come in order, and a shared prefix before what
/// continues it.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    pub(super) arrays: BatchArrays,
    pub(super) rows: Vec<i32>,
    pub(super) want: Vec<i32>,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A prompt at the start of sequence 0, the last token marked for output.
    #[must_use]
    pub fn prompt(tokens: &[i32]) -> Self {
        let mut batch = Self::new();
        for (position, &token) in tokens.iter().enumerate() {
            batch.push(token, position, &[0]);
        }
        if let Some(last) = batch.len().checked_sub(1) {
            batch.output(last);
        }
        batch
    }

    /// Appends a token and gives its index in the batch.
    pub fn push(&mut self, token: i32, position: usize, seqs: &[usize]) -> usize {
        let arrays = &mut self.arrays;
        arrays.tokens.push(token);
        arrays.positions.push(to_i32(position));
        arrays.seqs.extend(seqs.iter().map(|&seq| to_i32(seq)));
        arrays.n_seq.push(to_i32(seqs.len()));
        arrays.output.push(0);
        if !arrays.groups.is_empty() {
            arrays.groups.push(-1);
        }
        self.rows.push(0);
        arrays.tokens.len() - 1
    }

    /// Steers token `i` by bank row `row`; 0, the default, adds nothing.
    ///
    /// # Panics
    /// If the batch has no token `i`.
    pub fn steer(&mut self, i: usize, row: usize) {
        self.rows[i] = to_i32(row);
    }

    /// Steers every token by bank row `row`.
    pub fn steer_all(&mut self, row: usize) {
        self.rows.fill(to_i32(row));
    }

    /// Asks for the logits of token `i`.
    ///
    /// # Panics
    /// If the batch has no token `i`.
    pub fn output(&mut self, i: usize) {
        self.arrays.output[i] = 1;
    }

    /// Asks for the head outputs of token `i` in the session's observed layers. Indices are given
    /// in ascending order; the n-th of them is `i_want = n` in
    /// [`Session::observed`](super::Session::observed).
    pub fn observe(&mut self, i: usize) {
        self.want.push(to_i32(i));
    }

    /// Counts token `i` in a group, where the session adds up layers' outputs by groups. Once any is in
    /// one, those that are in none count nowhere.
    #[cfg(feature = "sight")]
    pub(crate) fn group(&mut self, i: usize, group: i8) {
        let n = self.len();
        self.arrays.groups.resize(n, -1);
        self.arrays.groups[i] = group;
    }

    /// Whether all tokens belong to the same sequences.
    pub(super) fn is_one_set(&self) -> bool {
        let BatchArrays { seqs, n_seq, .. } = &self.arrays;
        let Some(&n) = n_seq.first() else { return true };
        // Then the list of all sequences repeats itself after the first token's.
        let next = seqs.iter().skip(usize::try_from(n).unwrap_or(0));
        n_seq.iter().all(|&other| other == n) && seqs.iter().zip(next).all(|(a, b)| a == b)
    }

    /// The sequences of every token; `None` where one is beyond what llama.cpp knows.
    pub(super) fn places(&self) -> Option<Vec<Place>> {
        let mut rest = self.arrays.seqs.as_slice();
        let place = |&n: &i32| {
            let (ids, next) = rest.split_at_checked(usize::try_from(n).ok()?)?;
            rest = next;
            Some(Place { set: SeqSet::new(ids)?, first: *ids.first()? })
        };
        self.arrays.n_seq.iter().map(place).collect()
    }

    /// The id of token `i`.
    ///
    /// # Panics
    /// If the batch has no token `i`.
    #[must_use]
    pub fn token(&self, i: usize) -> i32 {
        self.arrays.tokens[i]
    }

    /// Tokens in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.arrays.tokens.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What does not fit becomes `i32::MAX`, which as a position, a sequence, a row or an index is
/// beyond every session and refused as such.
fn to_i32(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_whether_its_tokens_are_of_one_sequence_set() {
        let is_one_set = |sets: &[&[usize]]| {
            let mut batch = Batch::new();
            for seqs in sets {
                batch.push(1, 0, seqs);
            }
            batch.is_one_set()
        };
        assert!(is_one_set(&[]) && is_one_set(&[&[3]]) && is_one_set(&[&[0, 1], &[0, 1]]));
        assert!(!is_one_set(&[&[0], &[1]]) && !is_one_set(&[&[0, 1], &[0]]));
        assert!(!is_one_set(&[&[0], &[0, 0]]));
    }
}
