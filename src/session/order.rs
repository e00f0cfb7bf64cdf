//! The order in which llama.cpp computes the tokens of a batch.
//!
//! A batch is cut into ubatches of at most `n_ubatch` tokens. With one KV cache for all sequences
//! they follow the batch (`split_simple` in `llama-batch.cpp`). Separate caches and running states
//! want the same number of tokens of every sequence in a ubatch, sequence by sequence
//! (`split_equal`): the tokens are taken apart. The tap knows a token by its place in that order
//! only, so it is worked out here, and the tap checks it against the graph's own token ids.

use std::collections::HashMap;

use crate::Model;

/// How a model's memory cuts a batch of several sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// In the batch's order.
    InOrder,
    /// As many tokens of each sequence in a ubatch; `sequential`: see [`split_equal`].
    Equal { sequential: bool },
}

impl Split {
    /// `is_unified`: one KV cache for all sequences.
    pub(super) fn of(model: &Model, is_unified: bool) -> Self {
        match is_unified {
            true if !model.is_recurrent() => Self::InOrder,
            _ => Self::Equal { sequential: !is_unified },
        }
    }

    /// Whether every sequence has a cache of its own.
    pub(super) fn is_separate(self) -> bool {
        self == Self::Equal { sequential: true }
    }

    /// The batch's indices in the order of their computation; `None`: as they are.
    pub(super) fn order(self, places: &[Place], n_ubatch: usize) -> Option<Vec<usize>> {
        match self {
            Self::InOrder => None,
            Self::Equal { sequential } => Some(split_equal(places, n_ubatch, sequential)),
        }
    }
}

/// Most sequences that llama.cpp knows (`LLAMA_MAX_SEQ`).
const N_SEQ: usize = 256;

/// The sequences that a token belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct SeqSet([u64; N_SEQ / 64]);

impl SeqSet {
    /// `None` for an id that llama.cpp refuses.
    pub(super) fn new(ids: &[i32]) -> Option<Self> {
        let mut set = Self::default();
        for &id in ids {
            let id = usize::try_from(id).ok().filter(|&id| id < N_SEQ)?;
            set.0[id / 64] |= 1 << (id % 64);
        }
        Some(set)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }
}

/// A token as the order sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) set: SeqSet,
    /// The first sequence that the batch names for it.
    pub(super) first: i32,
}

/// The tokens of one set, in the batch's order, and how many of them are placed.
struct Group {
    set: SeqSet,
    tokens: Vec<usize>,
    n_placed: usize,
}

/// The batch's indices in the order of `split_equal`. `sequential`: a ubatch takes sequences of
/// consecutive ids only, as separate caches need it.
pub(super) fn split_equal(places: &[Place], n_ubatch: usize, sequential: bool) -> Vec<usize> {
    let mut groups: Vec<Group> = Vec::new();
    let mut by_set = HashMap::new();
    let mut group_of = Vec::with_capacity(places.len());
    for (i, place) in places.iter().enumerate() {
        let g = *by_set.entry(place.set).or_insert_with(|| {
            groups.push(Group { set: place.set, tokens: Vec::new(), n_placed: 0 });
            groups.len() - 1
        });
        // The token's group, and its place in it.
        group_of.push((g, groups[g].tokens.len()));
        groups[g].tokens.push(i);
    }
    let mut order = Vec::with_capacity(places.len());
    while order.len() < places.len() {
        let chosen = choose(places, &groups, &group_of, n_ubatch, sequential);
        let left = |&g: &usize| groups[g].tokens.len() - groups[g].n_placed;
        let shortest = chosen.iter().map(left).min().unwrap_or(0);
        let n_each = shortest.min((n_ubatch / chosen.len().max(1)).max(1));
        for g in chosen {
            let Group { tokens, n_placed, .. } = &mut groups[g];
            order.extend(&tokens[*n_placed..*n_placed + n_each]);
            *n_placed += n_each;
        }
    }
    order
}

/// The groups of the next ubatch: in the batch's order, as long as they share no sequence.
fn choose(
    places: &[Place],
    groups: &[Group],
    group_of: &[(usize, usize)],
    n_ubatch: usize,
    sequential: bool,
) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    let mut last = None;
    for (place, &(g, at)) in places.iter().zip(group_of) {
        let is_placed = at < groups[g].n_placed;
        let is_next = !sequential || last.is_none_or(|last: i32| place.first == last + 1);
        if is_placed
            || !is_next
            || chosen.iter().any(|&other| groups[other].set.overlaps(&place.set))
        {
            continue;
        }
        chosen.push(g);
        last = Some(place.first);
        // One more than fits: llama.cpp counts after it added.
        if chosen.len() > n_ubatch {
            break;
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(sets: &[&[i32]]) -> Vec<Place> {
        let place = |ids: &&[i32]| Place { set: SeqSet::new(ids).unwrap(), first: ids[0] };
        sets.iter().map(place).collect()
    }

    #[test]
    fn takes_as_many_tokens_of_every_sequence() {
        let batch = places(&[&[0], &[0], &[0], &[1], &[1], &[2]]);
        assert_eq!(split_equal(&batch, 512, true), [0, 3, 5, 1, 4, 2]);
        assert_eq!(split_equal(&batch, 512, false), [0, 3, 5, 1, 4, 2]);
        // Two sequences of two tokens fill a ubatch of four.
        assert_eq!(split_equal(&batch[..5], 4, true), [0, 1, 3, 4, 2]);
        assert_eq!(split_equal(&batch[..5], 2, true), [0, 3, 1, 4, 2]);
    }

    #[test]
    fn takes_consecutive_sequences_only_where_caches_are_separate() {
        let batch = places(&[&[0], &[2], &[1], &[0], &[2], &[1]]);
        assert_eq!(split_equal(&batch, 512, true), [0, 3, 2, 5, 1, 4]);
        assert_eq!(split_equal(&batch, 512, false), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn a_shared_token_waits_for_nobody_and_lets_nobody_pass() {
        let batch = places(&[&[0, 1], &[0], &[1], &[0], &[1], &[2]]);
        assert_eq!(split_equal(&batch, 512, false), [0, 5, 1, 3, 2, 4]);
    }

    #[test]
    fn ids_that_llama_cpp_does_not_know_make_no_set() {
        assert!(SeqSet::new(&[255]).is_some());
        assert!(SeqSet::new(&[256]).is_none() && SeqSet::new(&[-1]).is_none());
    }

    proptest! {
        /// Whatever the batch: every token once, and those of one sequence in their order where no
        /// token is shared.
        #[test]
        fn places_every_token_once_and_keeps_each_sequence_in_order(
            seqs in prop::collection::vec(0..5i32, 1..40),
            n_ubatch in 1..9usize,
            sequential: bool,
        ) {
            let sets: Vec<[i32; 1]> = seqs.iter().map(|&seq| [seq]).collect();
            let batch = places(&sets.iter().map(<[i32; 1]>::as_slice).collect::<Vec<_>>());
            let order = split_equal(&batch, n_ubatch, sequential);
            let mut sorted = order.clone();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..seqs.len()).collect::<Vec<_>>());
            for seq in 0..5 {
                prop_assert!(order.iter().filter(|&&i| seqs[i] == seq).is_sorted());
            }
        }
    }
}
