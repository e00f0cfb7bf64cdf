//! What the tokens of a sequence were computed under.

use super::Session;
use super::batch::Batch;
use crate::{Error, Result};

/// What was added to the model for a token: a hash of it, 0 for nothing.
pub(super) type Key = u128;

/// A program's own function changed the token: nothing says how.
pub(super) const EDITED: Key = Key::MAX;

/// A hash of some bytes that is no other key.
pub(super) fn key_of(bytes: &[u8]) -> Key {
    let hash = *blake3::hash(bytes).as_bytes();
    let (key, _) = hash.split_first_chunk().expect("a hash has 32 bytes");
    Key::from_le_bytes(*key).clamp(1, EDITED - 1)
}

/// The key of each token of a sequence, as runs: from which token on, ascending, and what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Under(Vec<(usize, Key)>);

impl Under {
    /// Notes a token, which is the last one then.
    pub(super) fn push(&mut self, token: usize, key: Key) {
        self.cut(token);
        if self.0.last().map_or(0, |(_, key)| *key) != key {
            self.0.push((token, key));
        }
    }

    /// Forgets tokens from this one on.
    pub(super) fn cut(&mut self, from: usize) {
        self.0.truncate(self.0.partition_point(|(start, _)| *start < from));
    }

    /// Forgets `discard` tokens from `keep` on, and moves down those after them.
    pub(super) fn shift(&mut self, keep: usize, discard: usize) {
        let end = keep + discard;
        let after = self.0.iter().rev().find(|(start, _)| *start <= end).map_or(0, |run| run.1);
        let moved: Vec<_> = self.0.iter().filter(|(start, _)| *start > end).copied().collect();
        self.push(keep, after);
        for (start, key) in moved {
            self.push(start - discard, key);
        }
    }

    /// The keys of the first `n_token` tokens, each once for every run.
    pub(super) fn keys(&self, n_token: usize) -> impl Iterator<Item = Key> {
        let plain = self.0.first().is_none_or(|(start, _)| *start > 0).then_some(0);
        let runs = self.0.iter().filter(move |(start, _)| *start < n_token);
        plain.into_iter().chain(runs.map(|(_, key)| *key))
    }

    /// The runs, to be written down.
    pub(super) fn runs(&self) -> &[(usize, Key)] {
        &self.0
    }

    /// Runs that were written down; `None` where they are none.
    pub(super) fn of(runs: Vec<(usize, Key)>) -> Option<Self> {
        runs.is_sorted_by(|a, b| a.0 < b.0 && a.1 != b.1).then_some(Self(runs))
    }
}

impl Session {
    /// What a token is computed under that is steered by this row.
    fn key_at(&self, row: usize) -> Key {
        let of_row = self.keys.get(&row).copied().unwrap_or(0);
        match (self.context.is_edited(), self.outputs.control_key, of_row) {
            (true, ..) => EDITED,
            (false, 0, key) | (false, key, 0) => key,
            (false, all, own) => key_of(&[all.to_le_bytes(), own.to_le_bytes()].concat()),
        }
    }

    /// Notes what the tokens of a batch were computed under.
    pub(super) fn note(&mut self, batch: &Batch) {
        let arrays = &batch.arrays;
        let mut rest = arrays.seqs.as_slice();
        // Neighbours mostly share a row, whose key may take a hash.
        let mut last = (0, self.key_at(0));
        for (i, &n) in arrays.n_seq.iter().enumerate() {
            let (ids, next) = rest.split_at(usize::try_from(n).unwrap_or(0).min(rest.len()));
            rest = next;
            let row = usize::try_from(batch.rows[i]).unwrap_or(0);
            if row != last.0 {
                last = (row, self.key_at(row));
            }
            let position = usize::try_from(arrays.positions[i]).unwrap_or(0);
            for seq in ids.iter().filter_map(|&id| usize::try_from(id).ok()) {
                if let Some(under) = self.under.get_mut(seq) {
                    under.push(position, last.1);
                }
            }
        }
    }

    /// Refuses what was computed under something that this session adds nowhere.
    pub(super) fn check_under(&self, under: &Under, n_token: usize) -> Result<()> {
        let rows = std::iter::once(0).chain(self.keys.keys().copied());
        let own: Vec<Key> = rows.map(|row| self.key_at(row)).collect();
        if under.keys(n_token).all(|key| key == EDITED || own.contains(&key)) {
            return Ok(());
        }
        let problem = "it was computed under a vector or strength that no row of this session holds: load \
                       that into a row first, or compute the text again";
        Err(Error::invalid("state", problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same, token by token.
    fn plain(under: &Under, n: usize) -> Vec<Key> {
        let key = |token| under.0.iter().rev().find(|run| run.0 <= token).map_or(0, |run| run.1);
        (0..n).map(key).collect()
    }

    #[test]
    fn runs_say_what_a_list_of_all_tokens_would() {
        let mut state = 1_u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % n
        };
        for _ in 0..200 {
            let (mut under, mut list) = (Under::default(), Vec::new());
            for _ in 0..30 {
                match next(5) {
                    0 if !list.is_empty() => {
                        let from = next(list.len() + 1);
                        list.truncate(from);
                        under.cut(from);
                    }
                    1 if list.len() > 1 => {
                        let keep = next(list.len());
                        let discard = next(list.len() - keep);
                        list.drain(keep..keep + discard);
                        under.shift(keep, discard);
                    }
                    _ => {
                        let key = next(3) as Key;
                        under.push(list.len(), key);
                        list.push(key);
                    }
                }
                assert_eq!(plain(&under, list.len()), list);
                assert_eq!(Under::of(under.runs().to_vec()), Some(under.clone()));
                let keys: Vec<Key> = under.keys(list.len()).collect();
                assert!(list.iter().all(|key| keys.contains(key)), "{keys:?}: {list:?}");
            }
        }
    }
}
