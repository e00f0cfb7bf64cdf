//! The tokens that every path computes.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{BenchPath, Phase};
use crate::session::Batch;

/// Most tokens in one decode of a prefill: llama.cpp's own default.
const N_BATCH: usize = 2048;

/// How much to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    /// Tokens of a prefill, over all sequences.
    pub(super) n_prompt: usize,
    /// Tokens to decode in each sequence.
    pub(super) n_generate: usize,
    pub(super) n_sequence: usize,
    pub(super) n_vector: usize,
}

impl Size {
    /// Cells of the KV cache that either phase needs.
    pub(super) fn n_cell(self) -> usize {
        self.n_prompt.max(self.n_generate * self.n_sequence)
    }

    /// Most tokens in one decode.
    pub(super) fn n_batch(self) -> usize {
        self.n_prompt.min(N_BATCH).max(self.n_sequence)
    }

    /// Tokens that a phase computes.
    pub(super) fn n_token(self, phase: Phase) -> usize {
        match phase {
            Phase::Prefill => self.n_prompt,
            Phase::Decode => self.n_generate * self.n_sequence,
            Phase::SetVector => 0,
        }
    }

    /// The bank row of a sequence: the vectors by turns.
    pub(super) fn row(self, seq: usize) -> usize {
        1 + seq % self.n_vector
    }

    /// The length of a sequence's prompt: the tokens of a prefill are dealt out evenly.
    fn n_prompt_of(self, seq: usize) -> usize {
        let Self { n_prompt, n_sequence, .. } = self;
        n_prompt / n_sequence + usize::from(seq < n_prompt % n_sequence)
    }
}

/// Token ids, the same for every path: `[max(n_prompt, n_generate * n_sequence)]`.
pub(super) fn draw_tokens(size: Size, n_vocab: usize, seed: u64) -> Vec<i32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let n_vocab = i32::try_from(n_vocab).unwrap_or(i32::MAX).max(1);
    (0..size.n_cell()).map(|_| rng.random_range(0..n_vocab)).collect()
}

/// The batches of one phase as a path computes them, from an empty cache on. Each has the tokens
/// whose logits are asked for.
pub(super) fn batches(
    phase: Phase,
    path: BenchPath,
    size: Size,
    tokens: &[i32],
) -> Vec<(Batch, Vec<usize>)> {
    let steps: Vec<Vec<Token>> = match phase {
        Phase::Prefill => prompts(size).chunks(size.n_batch()).map(<[Token]>::to_vec).collect(),
        Phase::Decode => (0..size.n_generate).map(|position| one_each(size, position)).collect(),
        Phase::SetVector => Vec::new(),
    };
    let mut tokens = tokens.iter();
    let to_batch = |step: Vec<Token>| {
        let mut batch = Batch::new();
        let mut outputs = Vec::new();
        for Token { seq, position, is_last } in step {
            let i = batch.push(tokens.next().copied().unwrap_or(0), position, &[seq]);
            if path.steers() {
                batch.steer(i, size.row(seq));
            }
            if is_last {
                batch.output(i);
                outputs.push(i);
                if path == BenchPath::Observe {
                    batch.observe(i);
                }
            }
        }
        (batch, outputs)
    };
    steps.into_iter().map(to_batch).collect()
}

#[derive(Clone)]
struct Token {
    seq: usize,
    position: usize,
    /// The last of its prompt: what a user wants to know of it.
    is_last: bool,
}

fn prompts(size: Size) -> Vec<Token> {
    let prompt = |seq: usize| {
        let n = size.n_prompt_of(seq);
        (0..n).map(move |position| Token { seq, position, is_last: position + 1 == n })
    };
    (0..size.n_sequence).flat_map(prompt).collect()
}

fn one_each(size: Size, position: usize) -> Vec<Token> {
    (0..size.n_sequence).map(|seq| Token { seq, position, is_last: true }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size { n_prompt: 10, n_generate: 3, n_sequence: 4, n_vector: 2 };

    #[test]
    fn a_prefill_is_dealt_out_to_all_sequences() {
        let tokens = draw_tokens(SIZE, 100, 1);
        let batches = batches(Phase::Prefill, BenchPath::InGraph, SIZE, &tokens);
        assert_eq!(batches.len(), 1);
        let (batch, outputs) = &batches[0];
        // Prompts of 3, 3, 2 and 2 tokens.
        assert_eq!((batch.len(), outputs.as_slice()), (10, [2, 5, 7, 9].as_slice()));
        assert_eq!((0..4).map(|seq| SIZE.row(seq)).collect::<Vec<_>>(), [1, 2, 1, 2]);
    }

    #[test]
    fn a_long_prefill_takes_several_decodes() {
        let size = Size { n_prompt: 5000, n_sequence: 1, n_vector: 1, ..SIZE };
        let tokens = draw_tokens(size, 100, 1);
        let batches = batches(Phase::Prefill, BenchPath::Plain, size, &tokens);
        let lengths: Vec<_> = batches.iter().map(|(batch, out)| (batch.len(), out.len())).collect();
        assert_eq!(lengths, [(2048, 0), (2048, 0), (904, 1)]);
    }

    #[test]
    fn every_step_of_a_decode_has_a_token_of_every_sequence() {
        let tokens = draw_tokens(SIZE, 100, 1);
        let paths = [BenchPath::Plain, BenchPath::Callback];
        let [plain, steered] = paths.map(|path| batches(Phase::Decode, path, SIZE, &tokens));
        assert_eq!(plain.len(), 3);
        for ((a, outputs), (b, _)) in plain.iter().zip(&steered) {
            assert_eq!(outputs, &[0, 1, 2, 3]);
            assert!((0..4).all(|i| a.token(i) == b.token(i)), "the same tokens");
        }
    }
}
