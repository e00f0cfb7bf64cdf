//! What steering does to neutral prose: CE and KL per token (ITI, section 7).

use serde::{Deserialize, Serialize};

use super::{Evaluator, log_sum_exp};
use crate::capture::plan::{Limits, Text, plan};
use crate::session::Batch;
use crate::vision::is_picture;
use crate::{Error, Model, Result, Special};

/// Means over the tokens of neutral text, in nats per token, every token steered.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Divergence {
    /// Cross-entropy of the next token under steering.
    pub ce: f64,
    /// KL(original ‖ steered) of the next token's distribution: of the model as it is from the
    /// steered one, as in the ITI paper's code.
    pub kl: f64,
    /// KL(steered ‖ original), the other way round.
    pub kl_reverse: f64,
    /// The share of tokens before which another one is the likeliest under steering, 0 to 1.
    pub changed: f64,
    /// The share of tokens that were steered: 1 under a vector, 0 without, between through a gate.
    pub steered: f64,
    /// The share of tokens behind ones that lay outside of what the probes were fitted to, which shuts a
    /// gate; 0 without a gate.
    #[serde(default)]
    pub outside: f64,
    /// Tokens that these are means over.
    pub n_token: usize,
}

impl Divergence {
    /// The mean over the tokens of all; zero where there are none.
    #[must_use]
    pub fn mean(of: &[Self]) -> Self {
        let n_token: usize = of.iter().map(|d| d.n_token).sum();
        let mean = |value: fn(&Self) -> f64| {
            of.iter().map(|d| d.n_token as f64 * value(d)).sum::<f64>() / n_token.max(1) as f64
        };
        Self {
            ce: mean(|d| d.ce),
            kl: mean(|d| d.kl),
            kl_reverse: mean(|d| d.kl_reverse),
            changed: mean(|d| d.changed),
            steered: mean(|d| d.steered),
            outside: mean(|d| d.outside),
            n_token,
        }
    }
}

/// Most tokens that are read at once: a longer document is read in several windows.
const N_WINDOW: usize = 512;

/// A part of a document, read by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) document: usize,
    pub(super) tokens: Vec<i32>,
    /// The first token whose prediction counts.
    from: usize,
}

/// What is added up over the tokens of one document under one vector.
type Sums = Vec<Vec<Divergence>>;

impl Evaluator {
    /// Reads each document with and without steering, side by side in one batch: all of it, in windows
    /// of at most 512 tokens, or of what the context holds.
    ///
    /// # Errors
    /// [`Error::Invalid`] for documents without a token to predict; what planning and decoding give.
    pub fn divergence(&mut self, documents: &[&str]) -> Result<Divergence> {
        Ok(Divergence::mean(&self.divergences(documents)?))
    }

    /// The same of each document by itself.
    ///
    /// # Errors
    /// As [`Evaluator::divergence`].
    pub fn divergences(&mut self, documents: &[&str]) -> Result<Vec<Divergence>> {
        let found = match self.gate {
            Some(_) => self.divergences_through_gate(documents)?,
            None => self.divergences_under(&[self.row], documents)?.remove(0),
        };
        if found.iter().all(|of| of.n_token == 0) {
            return Err(Error::invalid("neutral documents", "no token follows another in them"));
        }
        Ok(found)
    }

    /// Each document, read without steering and under each of some bank rows, side by side: for each
    /// row a value for each document.
    pub(super) fn divergences_under(&mut self, rows: &[usize], documents: &[&str]) -> Result<Sums> {
        let windows = self.windows(documents)?;
        let longest = windows.iter().map(|window| window.tokens.len()).max().unwrap_or(1);
        // All readings of a window stand in the cache at once.
        let n_cell = self.limits.longest + self.limits.n_token;
        let n_row = (n_cell / longest).min(self.limits.n_seq).saturating_sub(1).max(1);
        let mut sums = Vec::with_capacity(rows.len());
        for rows in rows.chunks(n_row) {
            let mut of = vec![vec![Divergence::default(); documents.len()]; rows.len()];
            let n_lane = 1 + rows.len();
            let mut rest = &windows[..];
            while let Some(window) = rest.first() {
                let n = n_that_fit(rest, n_lane, self.limits.n_token, self.limits.n_seq);
                match n {
                    0 => self.read_in_pieces(window, rows, &mut of)?,
                    _ => self.read_together(&rest[..n], rows, &mut of)?,
                }
                rest = &rest[n.max(1)..];
            }
            sums.extend(of);
        }
        sums.iter_mut().flatten().for_each(Divergence::finish);
        Ok(sums)
    }

    /// Tokens of documents that are predicted: what CE and KL are means over.
    ///
    /// # Errors
    /// As [`Model::tokenize`].
    pub fn n_neutral_token(&self, documents: &[&str]) -> Result<usize> {
        let windows = self.windows(documents)?;
        Ok(windows.iter().map(|window| window.tokens.len() - window.from).sum())
    }

    /// Each document in parts of about equal length, those without a token to predict left out. A part
    /// begins with what the model wants at the start, and with the last token of the part before.
    pub(super) fn windows(&self, documents: &[&str]) -> Result<Vec<Window>> {
        let Limits { n_token, longest, .. } = self.limits;
        let longest = N_WINDOW.min(longest).min((longest + n_token) / 2);
        let of = |(i, text): (usize, &&str)| {
            let (tokens, n_start) = begun(self.model(), text)?;
            Ok(windows(i, &tokens, n_start, longest))
        };
        Ok(documents.iter().enumerate().map(of).collect::<Result<Vec<_>>>()?.concat())
    }

    /// Reads windows that fit into one batch together, under every row.
    fn read_together(&mut self, windows: &[Window], rows: &[usize], sums: &mut Sums) -> Result<()> {
        let n_lane = 1 + rows.len();
        let lanes = || [0].into_iter().chain(rows.iter().copied());
        let texts: Vec<Text> = windows
            .iter()
            .flat_map(|window| {
                lanes().map(|row| Text { tokens: window.tokens.clone(), row, steer_from: 0 })
            })
            .collect();
        let name = |i: usize| format!("neutral document {}", windows[i / n_lane].document);
        for planned in plan(&texts, self.limits, name)? {
            let (mut batch, paths) = planned.to_batch(&texts);
            for &i in paths.iter().flat_map(|path| &path[..path.len() - 1]) {
                batch.output(i);
            }
            self.empty_sequences(paths.len(), 0)?;
            self.session.decode(&mut batch)?;
            self.count(paths.iter().map(Vec::len).sum(), planned.n_token());
            let firsts = planned.texts.clone().step_by(n_lane);
            for (paths, first) in paths.chunks_exact(n_lane).zip(firsts) {
                let window = &windows[first / n_lane];
                for position in window.predicted() {
                    let places = paths.iter().map(|path| path[position - 1]);
                    self.compare(window, position, places, sums)?;
                }
            }
        }
        Ok(())
    }

    /// Reads a window under every row, as much of it at once as fits into a batch.
    fn read_in_pieces(&mut self, window: &Window, rows: &[usize], sums: &mut Sums) -> Result<()> {
        self.hold(&[])?;
        self.session.clear();
        let n_lane = 1 + rows.len();
        let n_piece = (self.limits.n_token / n_lane).max(1);
        // What the last token predicts is not in the window.
        let read = &window.tokens[..window.tokens.len() - 1];
        for (piece, start) in read.chunks(n_piece).zip((0..).step_by(n_piece)) {
            let mut batch = Batch::new();
            for (lane, row) in [0].into_iter().chain(rows.iter().copied()).enumerate() {
                // Unsteered, there is but one reading.
                if lane > 0 && row == 0 {
                    continue;
                }
                for (&token, position) in piece.iter().zip(start..) {
                    let i = batch.push(token, position, &[lane]);
                    batch.steer(i, row);
                    batch.output(i);
                }
            }
            self.session.decode(&mut batch)?;
            self.count(n_lane * piece.len(), batch.len());
            let mut n_lane_read = 0;
            let mut firsts = vec![0];
            firsts.extend(rows.iter().map(|&row| {
                n_lane_read += usize::from(row != 0);
                if row == 0 { 0 } else { n_lane_read * piece.len() }
            }));
            let of_piece = start + 1..start + 1 + piece.len();
            for position in window.predicted().filter(|position| of_piece.contains(position)) {
                let places = firsts.iter().map(|first| first + position - 1 - start);
                self.compare(window, position, places, sums)?;
            }
        }
        self.session.clear();
        Ok(())
    }

    /// Adds what is predicted at a position of a window: `places` has the index in the batch of the
    /// token before it, unsteered and under each row.
    fn compare(
        &self,
        window: &Window,
        position: usize,
        mut places: impl Iterator<Item = usize>,
        sums: &mut Sums,
    ) -> Result<()> {
        let Some(i_base) = places.next() else { return Ok(()) };
        let base = Predicted::by(self.session.logits(i_base)?);
        for (i, sums) in places.zip(sums) {
            // Where nothing steers, both readings are the same tokens.
            let steered = if i == i_base { None } else { Some(self.session.logits(i)?) };
            let sum = &mut sums[window.document];
            sum.add(window.tokens[position], &base, steered, steered.is_some());
        }
        Ok(())
    }

    /// Counts tokens that were read, and those that this took.
    pub(super) fn count(&mut self, n_read: usize, n_computed: usize) {
        self.n_token.read += n_read as u64;
        self.n_token.computed += n_computed as u64;
    }
}

impl Window {
    /// The positions of tokens whose prediction counts: a picture is not predicted.
    pub(super) fn predicted(&self) -> impl Iterator<Item = usize> + '_ {
        (self.from..self.tokens.len()).filter(|&position| !is_picture(self.tokens[position]))
    }
}

impl Divergence {
    /// Adds what the logits before a token say of it, without steering and with it; `None`: the same.
    /// `is_steered`: whether the token before was.
    pub(super) fn add(
        &mut self,
        token: i32,
        base: &Predicted,
        steered: Option<&[f32]>,
        is_steered: bool,
    ) {
        let token = usize::try_from(token).unwrap_or(0);
        let ce = |of: &Predicted| of.log_total - f64::from(of.logits[token]);
        match steered.map(Predicted::by) {
            None => self.ce += ce(base),
            Some(steered) => {
                let (kl, reverse) = kls(base, &steered);
                self.ce += ce(&steered);
                self.kl += kl;
                self.kl_reverse += reverse;
                self.changed += f64::from(u8::from(base.likeliest != steered.likeliest));
            }
        }
        self.steered += f64::from(u8::from(is_steered));
        self.n_token += 1;
    }

    /// Makes means of sums.
    pub(super) fn finish(&mut self) {
        let n = self.n_token.max(1) as f64;
        let Self { ce, kl, kl_reverse, changed, steered, outside, .. } = self;
        for sum in [ce, kl, kl_reverse, changed, steered, outside] {
            *sum /= n;
        }
    }
}

/// A text's tokens in parts of at most `longest`, each beginning with what the model wants at the start.
pub(crate) fn windows_of(model: &Model, text: &str, longest: usize) -> Result<Vec<Vec<i32>>> {
    let (tokens, n_start) = begun(model, text)?;
    Ok(windows(0, &tokens, n_start, longest).into_iter().map(|window| window.tokens).collect())
}

/// A text's tokens, and how many of them the model wants at the start.
fn begun(model: &Model, text: &str) -> Result<(Vec<i32>, usize)> {
    let tokens = model.tokenize(text, Special::Start)?;
    let n_start = tokens.len() - model.tokenize(text, Special::None)?.len();
    Ok((tokens, n_start))
}

/// Parts of at most `longest` tokens, of which the first `n_start` stand before each.
fn windows(document: usize, tokens: &[i32], n_start: usize, longest: usize) -> Vec<Window> {
    let (start, body) = tokens.split_at(n_start);
    let longest = longest.max(n_start + 2);
    if tokens.len() <= longest {
        let whole = Window { document, tokens: tokens.to_vec(), from: 1 };
        return if tokens.len() < 2 { Vec::new() } else { vec![whole] };
    }
    // Each part but the first begins with a token that the one before has predicted.
    let n_part = (body.len() - 1).div_ceil(longest - n_start - 1);
    let n_new = (body.len() - 1).div_ceil(n_part);
    (0..body.len() - 1)
        .step_by(n_new)
        .map(|at| {
            let part = &body[at..body.len().min(at + n_new + 1)];
            let from = if at == 0 { 1 } else { n_start + 1 };
            Window { document, tokens: [start, part].concat(), from }
        })
        .collect()
}

/// How many of the windows, the first ones, fit one batch, each read `n_lane` times, even if nothing
/// is shared; 0 where the first one alone does not.
fn n_that_fit(windows: &[Window], n_lane: usize, n_token: usize, n_seq: usize) -> usize {
    let mut n = 0;
    let fits = |window: &&Window| {
        n += n_lane * window.tokens.len();
        n <= n_token
    };
    windows.iter().take_while(fits).count().min(n_seq / n_lane)
}

/// A distribution of the next token: its logits, their `log_sum_exp`, and the token they favour.
#[derive(Debug, Clone, Copy)]
pub(super) struct Predicted<'a> {
    logits: &'a [f32],
    log_total: f64,
    /// The first of the highest logits.
    pub(super) likeliest: usize,
}

impl<'a> Predicted<'a> {
    pub(super) fn by(logits: &'a [f32]) -> Self {
        let mut likeliest = 0;
        for (token, logit) in logits.iter().enumerate() {
            if *logit > logits[likeliest] {
                likeliest = token;
            }
        }
        Self { logits, log_total: log_sum_exp(logits), likeliest }
    }

    /// Log probabilities of every token in both distributions.
    fn beside<'b>(&'b self, other: &'b Self) -> impl Iterator<Item = (f64, f64)> + 'b {
        self.logits
            .iter()
            .zip(other.logits)
            .map(move |(&p, &q)| (f64::from(p) - self.log_total, f64::from(q) - other.log_total))
    }
}

/// What a token of log probability `p`, `q` adds to KL(p ‖ q).
fn term(p: f64, q: f64) -> f64 {
    // A token that is ruled out, whatever the other distribution says of it.
    if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }
}

/// KL(p ‖ q) in nats.
pub(super) fn kl(p: &Predicted, q: &Predicted) -> f64 {
    p.beside(q).map(|(p, q)| term(p, q)).sum()
}

/// KL(p ‖ q) and KL(q ‖ p) in nats.
fn kls(p: &Predicted, q: &Predicted) -> (f64, f64) {
    p.beside(q).fold((0.0, 0.0), |(there, back), (p, q)| (there + term(p, q), back + term(q, p)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_of_known_distributions() {
        let p = [0.75_f32.ln(), 0.25_f32.ln()];
        let q = [0.5_f32.ln(), 0.5_f32.ln()];
        let expected = 0.75 * 1.5_f64.ln() + 0.25 * 0.5_f64.ln();
        let [p, q] = [Predicted::by(&p), Predicted::by(&q)];
        assert!((kl(&p, &q) - expected).abs() < 1e-6);
        assert_eq!(kl(&p, &p), 0.0);
        assert_eq!(kls(&p, &q), (kl(&p, &q), kl(&q, &p)));
        assert!((kl(&q, &p) - kl(&p, &q)).abs() > 0.01, "the two differ");
        // A token that both rule out changes nothing.
        let ruled_out = [0.0, 0.0, f32::NEG_INFINITY];
        let [one, other] =
            [Predicted::by(&ruled_out), Predicted::by(&[0.0, 1.0, f32::NEG_INFINITY])];
        assert_eq!(kls(&one, &one), (0.0, 0.0));
        assert!(kl(&one, &other) > 0.0 && kl(&one, &other).is_finite());
    }

    #[test]
    fn the_mean_of_documents_is_over_their_tokens() {
        let of = |ce, kl, n_token| {
            let (changed, steered) = (kl / 2.0, 1.0);
            Divergence { ce, kl, kl_reverse: 2.0 * kl, changed, steered, outside: 0.0, n_token }
        };
        let mean = Divergence::mean(&[of(1.0, 0.5, 3), of(0.0, 0.0, 0), of(2.0, 0.1, 1)]);
        assert_eq!(mean, of(1.25, 0.4, 4));
        let gone = serde_json::to_string(&of(f64::NAN, f64::INFINITY, 2)).unwrap();
        // What is no number is no result, and is measured again.
        assert!(serde_json::from_str::<Divergence>(&gone).is_err());
    }

    #[test]
    fn a_batch_takes_all_readings_of_a_window() {
        let window = |n: usize| Window { document: 0, tokens: vec![1; n], from: 1 };
        let windows = [10, 30, 2].map(window);
        let n = |from: usize, n_token| n_that_fit(&windows[from..], 2, n_token, 4);
        assert_eq!([n(0, 64), n(1, 64), n(1, 60), n(0, 19)], [1, 2, 1, 0]);
        assert_eq!(n_that_fit(&windows[2..], 2, 64, 4), 1);
    }

    #[test]
    fn a_long_document_is_read_whole_and_once() {
        for (n, n_start, longest) in [(9, 1, 4), (9, 0, 4), (30, 1, 7), (5, 1, 4), (4, 1, 4)] {
            let tokens: Vec<i32> = (0..n).collect();
            let windows = windows(3, &tokens, n_start, longest);
            let mut predicted: Vec<i32> = Vec::new();
            for window in &windows {
                assert!(window.tokens.len() <= longest && window.document == 3, "{windows:?}");
                assert_eq!(window.tokens[..n_start], tokens[..n_start]);
                predicted.extend(&window.tokens[window.from..]);
                let after = &window.tokens[window.from.max(n_start)..];
                assert!(after.windows(2).all(|two| two[1] == two[0] + 1), "{windows:?}");
            }
            assert_eq!(predicted, tokens[1..], "{n} tokens in windows of {longest}");
            let lengths = || windows.iter().map(|window| window.tokens.len());
            assert!(windows.len() < 3 || lengths().min() > Some(2) || n < 10, "{windows:?}");
        }
        assert!(windows(0, &[1], 1, 4).is_empty() && windows(0, &[], 0, 4).is_empty());
    }
}
