//! Pictures among tokens: each token of a picture has a number of its own, below all that a vocabulary
//! has, so that whatever plans, shares, cuts and steers tokens does so with pictures as well.

use std::sync::Arc;

/// The number of the first picture token; the others follow downwards. (-1 is llama.cpp's own
/// "no token".)
const FIRST: i32 = -2;

/// Whether a token stands for a part of a picture.
#[must_use]
pub fn is_picture(token: i32) -> bool {
    token <= FIRST
}

/// The embeddings of a picture or tile, F32 `[n_token, n_embd]`.
pub(crate) enum Embedding {
    /// In memory.
    #[cfg_attr(not(feature = "sight"), allow(dead_code))]
    Owned(Vec<f32>),
    /// In a file, little-endian, from this byte on, so many floats.
    #[cfg_attr(not(feature = "sight"), allow(dead_code))]
    Mapped(Arc<crate::ffi::map::FileMap>, usize, usize),
}

impl Embedding {
    /// Row `i` of `n_embd` values, appended to `out`.
    fn read(&self, i: usize, n_embd: usize, out: &mut Vec<f32>) {
        match self {
            Self::Owned(values) => out.extend_from_slice(&values[i * n_embd..(i + 1) * n_embd]),
            Self::Mapped(map, start, _) => {
                let bytes = &map[start + i * n_embd * 4..start + (i + 1) * n_embd * 4];
                let (words, _) = bytes.as_chunks();
                out.extend(words.iter().copied().map(f32::from_le_bytes));
            }
        }
    }

    /// All of it.
    #[cfg(feature = "sight")]
    pub(super) fn to_vec(&self) -> Vec<f32> {
        let mut all = Vec::with_capacity(self.len());
        self.read(0, self.len(), &mut all);
        all
    }

    /// Floats in all.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Owned(values) => values.len(),
            Self::Mapped(_, _, n) => *n,
        }
    }
}

/// A picture, or one tile of one, as the decoder reads it: consecutive tokens.
pub(crate) struct Run {
    pub(crate) embedding: Embedding,
    /// Positions that it takes of a sequence: as many as tokens, or fewer where tokens have rows and
    /// columns (M-RoPE).
    pub(crate) n_pos: usize,
    /// `[n_token]` time, row and column of each, from the run's first position on; empty where they
    /// follow each other as text does.
    pub(crate) places: Vec<[i32; 3]>,
    /// Whether its tokens see each other whatever their order.
    pub(crate) is_mutual: bool,
}

/// Where a picture token stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The run, counted over all.
    pub(crate) run: usize,
    /// The token in it.
    pub(crate) token: usize,
}

/// All runs that have a number.
#[derive(Default)]
pub(crate) struct Gallery {
    runs: Vec<Arc<Run>>,
    /// The first token of each run, counted over all, and how many there are in all.
    starts: Vec<usize>,
    n_token: usize,
    n_embd: usize,
}

impl Gallery {
    /// An empty one, of embeddings as wide as a model's input.
    #[cfg_attr(not(feature = "sight"), allow(dead_code))]
    pub(crate) fn new(n_embd: usize) -> Self {
        Self { n_embd, ..Self::default() }
    }

    /// Gives a run of `n_token` tokens its numbers; `None` when all are taken.
    #[cfg_attr(not(feature = "sight"), allow(dead_code))]
    pub(crate) fn hang(&mut self, run: Run) -> Option<Vec<i32>> {
        let n_token = run.embedding.len() / self.n_embd.max(1);
        let number = |i: usize| FIRST.checked_sub(i32::try_from(i).ok()?);
        let tokens = (self.n_token..self.n_token + n_token).map(number).collect::<Option<Vec<_>>>();
        self.runs.push(Arc::new(run));
        self.starts.push(self.n_token);
        self.n_token += n_token;
        tokens
    }

    /// Where a picture token stands; `None` for a number that none has.
    pub(crate) fn place(&self, token: i32) -> Option<Place> {
        let i = usize::try_from(FIRST.checked_sub(token)?).ok().filter(|&i| i < self.n_token)?;
        let run = self.starts.partition_point(|&start| start <= i).checked_sub(1)?;
        Some(Place { run, token: i - self.starts[run] })
    }

    /// The run of a place of this gallery.
    pub(crate) fn run(&self, run: usize) -> &Run {
        &self.runs[run]
    }

    /// Tokens of a run.
    pub(crate) fn n_token(&self, run: usize) -> usize {
        self.starts.get(run + 1).copied().unwrap_or(self.n_token) - self.starts[run]
    }

    /// Appends what stands for a token to `out`.
    pub(crate) fn read(&self, place: Place, out: &mut Vec<f32>) {
        self.runs[place.run].embedding.read(place.token, self.n_embd, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_has_its_place_and_row() {
        let mut gallery = Gallery::new(2);
        let run = |values: &[f32]| Run {
            embedding: Embedding::Owned(values.to_vec()),
            n_pos: values.len() / 2,
            places: Vec::new(),
            is_mutual: false,
        };
        assert_eq!(gallery.hang(run(&[1.0, 2.0, 3.0, 4.0])).unwrap(), [-2, -3]);
        assert_eq!(gallery.hang(run(&[5.0, 6.0])).unwrap(), [-4]);
        assert_eq!(gallery.place(-3), Some(Place { run: 0, token: 1 }));
        assert_eq!(gallery.place(-4), Some(Place { run: 1, token: 0 }));
        for none in [0, 7, -1, -5, i32::MIN] {
            assert_eq!(gallery.place(none), None, "{none}");
        }
        let mut rows = Vec::new();
        for token in [-4, -2] {
            gallery.read(gallery.place(token).unwrap(), &mut rows);
        }
        assert_eq!(rows, [5.0, 6.0, 1.0, 2.0]);
        assert_eq!((gallery.n_token(0), gallery.n_token(1)), (2, 1));
        assert!(is_picture(-2) && !is_picture(-1) && !is_picture(0));
    }
}
