//! Texts through the model, and what its heads gave.
//!
//! They are parted into batches as `candor capture` does it, by the same planner under the same
//! limits, so that texts in the same order give the same bits.

use candor::capture::plan::{Limits, PlannedBatch, Text as Planned, plan};
use candor::session::SessionParams;
use candor::steer::Positions;
use candor::{Error, Session};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::model::{Shared, Steer};
use crate::text::Text;
use crate::work::Ticket;

/// Tokens and texts of a batch: those of a capture.
const N_TOKEN: usize = 512;
const N_SEQ: usize = 64;

/// Most memory for the logits of a batch, in bytes.
const LOGITS_BYTES: usize = 256 << 20;

/// The session of such calls.
pub(crate) struct Reader {
    session: Session,
    /// Tokens of the largest batch.
    n_token: usize,
    n_row: usize,
}

/// What is asked for.
pub(crate) struct Request {
    pub(crate) texts: Vec<Text>,
    /// The token of each text that is looked at, negative ones counted from the end; `None`: all.
    pub(crate) position: Option<isize>,
    /// Layers whose heads are looked at, ascending.
    pub(crate) heads: Vec<usize>,
    pub(crate) logits: bool,
    /// What steers: nothing, one sum of vectors for all texts, or one for each.
    pub(crate) steer: Vec<Steer>,
    /// Which tokens.
    pub(crate) positions: Positions,
}

/// What was found. Rows are the tokens that were looked at, text after text.
pub(crate) struct Found {
    /// Of each text.
    n_row: Vec<usize>,
    /// F32 `[n_row, n_vocab]`, empty where nobody asked.
    logits: Vec<f32>,
    /// Of each layer F32 `[n_row, n_head * d_head]`.
    heads: Vec<(usize, Vec<f32>)>,
}

impl Request {
    pub(crate) fn read(
        &self,
        shared: &Shared,
        reader: &mut Option<Reader>,
        ticket: &Ticket,
    ) -> candor::Result<Found> {
        let model = &shared.model;
        let texts = self.planned(shared)?;
        let rows: Vec<Vec<usize>> = texts
            .iter()
            .enumerate()
            .map(|(i, text)| self.looked_at(i, text.tokens.len()))
            .collect::<candor::Result<_>>()?;
        let longest = shared.settings.n_ctx.unwrap_or(model.n_ctx_train());
        // A model with a running state computes sequences in an order of its own: one at a time.
        let n_seq = if model.is_recurrent() { 1 } else { N_SEQ };
        let n_token = match self.position {
            None if self.logits => (LOGITS_BYTES / (4 * model.n_vocab().max(1))).clamp(64, N_TOKEN),
            _ => N_TOKEN,
        };
        let batches = plan(&texts, Limits { n_token, longest, n_seq }, |i| format!("text {i}"))?;
        let largest = batches.iter().map(PlannedBatch::n_token).max().unwrap_or(1);
        let session = Reader::open(reader, shared, largest, n_seq, self.n_bank_row())?;
        session.observe(&self.heads)?;
        ticket.arm(session);
        self.load_common(session)?;

        let n_all: usize = rows.iter().map(Vec::len).sum();
        let geometry = model.geometry();
        let (width, n_vocab) = (geometry.n_head * geometry.d_head, model.n_vocab());
        let zeros = |n: usize| vec![0.0f32; n_all * n];
        let mut found = Found {
            n_row: rows.iter().map(Vec::len).collect(),
            logits: if self.logits { zeros(n_vocab) } else { Vec::new() },
            heads: self.heads.iter().map(|&layer| (layer, zeros(width))).collect(),
        };
        ticket.expect(texts.len());
        let mut n_before = 0;
        for planned in &batches {
            self.load_own(session, planned)?;
            let (mut batch, paths) = planned.to_batch(&texts);
            let looked_at = |(path, text): (&Vec<usize>, usize)| {
                rows[text].iter().map(|&position| path[position]).collect::<Vec<_>>()
            };
            let places: Vec<Vec<usize>> =
                paths.iter().zip(planned.texts.clone()).map(looked_at).collect();
            let mut wanted: Vec<usize> = places.iter().flatten().copied().collect();
            wanted.sort_unstable();
            wanted.dedup();
            for &i in &wanted {
                batch.observe(i);
                if self.logits {
                    batch.output(i);
                }
            }
            session.clear();
            session.decode(&mut batch)?;
            for &place in places.iter().flatten() {
                let i_want = wanted.partition_point(|&other| other < place);
                for (i_layer, (_, values)) in found.heads.iter_mut().enumerate() {
                    values[n_before * width..][..width]
                        .copy_from_slice(session.observed(i_layer, i_want));
                }
                if self.logits {
                    found.logits[n_before * n_vocab..][..n_vocab]
                        .copy_from_slice(session.logits(place)?);
                }
                n_before += 1;
            }
            ticket.done(planned.texts.end)?;
        }
        self.unload(session)?;
        Ok(found)
    }

    /// The texts as tokens, each with what steers it.
    fn planned(&self, shared: &Shared) -> candor::Result<Vec<Planned>> {
        let n_text = self.texts.len();
        if self.steer.len() > 1 && self.steer.len() != n_text {
            return Err(Error::Invalid {
                what: "steering".to_owned(),
                problem: format!(
                    "there are {} vectors for {n_text} texts: give one for each, or one for all",
                    self.steer.len()
                ),
            });
        }
        for (sidecar, _) in self.steer.iter().flatten() {
            check(shared, sidecar)?;
        }
        let text = |(i, text): (usize, &Text)| {
            let tokens = text.tokens(&shared.model, false)?;
            let row = match self.steer.len() {
                0 => 0,
                1 => 1,
                _ => 1 + i % N_SEQ,
            };
            let steer_from = match self.positions {
                Positions::All => 0,
                Positions::Generated => tokens.len().saturating_sub(1),
            };
            Ok(Planned { tokens, row, steer_from })
        };
        self.texts.iter().enumerate().map(text).collect()
    }

    /// The positions of a text that are looked at.
    fn looked_at(&self, text: usize, n_token: usize) -> candor::Result<Vec<usize>> {
        let Some(position) = self.position else { return Ok((0..n_token).collect()) };
        let from_end = || n_token.checked_sub(position.unsigned_abs());
        let place = if position < 0 { from_end() } else { usize::try_from(position).ok() };
        match place.filter(|&place| place < n_token) {
            Some(place) => Ok(vec![place]),
            None => Err(Error::Invalid {
                what: format!("text {text}"),
                problem: format!("has {n_token} tokens, so none at position {position}"),
            }),
        }
    }

    /// Rows of the banks: one for nothing, and one for each text of a batch where they differ.
    fn n_bank_row(&self) -> usize {
        if self.steer.len() > 1 { 1 + N_SEQ } else { 2 }
    }

    /// Loads what steers all texts.
    fn load_common(&self, session: &mut Session) -> candor::Result<()> {
        match self.steer.as_slice() {
            [steer] => load(session, 1, steer),
            _ => Ok(()),
        }
    }

    /// Loads what steers each text of a batch.
    fn load_own(&self, session: &mut Session, planned: &PlannedBatch) -> candor::Result<()> {
        if self.steer.len() < 2 {
            return Ok(());
        }
        planned.texts.clone().try_for_each(|i| load(session, 1 + i % N_SEQ, &self.steer[i]))
    }

    fn unload(&self, session: &mut Session) -> candor::Result<()> {
        let n = self.steer.len().min(N_SEQ);
        (1..=n).try_for_each(|row| session.set_vector(row, None))
    }
}

/// Refuses a vector of another model.
pub(crate) fn check(shared: &Shared, sidecar: &candor::steer::Sidecar) -> candor::Result<()> {
    let (made_for, model) = (&sidecar.about.model_fingerprint, shared.model.fingerprint());
    if made_for == model {
        return Ok(());
    }
    Err(Error::Invalid {
        what: format!("vector `{}`", sidecar.about.name),
        problem: format!(
            "it was made for another model: its fingerprint is {made_for}, this model's is {model}"
        ),
    })
}

/// Loads a sum of vectors into a row.
pub(crate) fn load(session: &mut Session, row: usize, steer: &Steer) -> candor::Result<()> {
    session.set_vector(row, steer.iter().map(|(sidecar, alpha)| (&sidecar.vector, *alpha)))
}

impl Reader {
    /// A session for batches of so many tokens, the one that is there where it has room.
    fn open<'r>(
        reader: &'r mut Option<Self>,
        shared: &Shared,
        n_token: usize,
        n_seq: usize,
        n_row: usize,
    ) -> candor::Result<&'r mut Session> {
        let n_token = n_token.max(N_TOKEN);
        let fits = |reader: &Self| reader.n_token >= n_token && reader.n_row >= n_row;
        let open = match reader.take().filter(fits) {
            Some(open) => open,
            None => {
                let params = SessionParams {
                    n_ctx: n_token,
                    n_batch: n_token,
                    n_seq_max: n_seq,
                    n_row,
                    ..shared.settings.session()
                };
                Self { session: Session::new(&shared.model, &params)?, n_token, n_row }
            }
        };
        Ok(&mut reader.insert(open).session)
    }
}

impl Found {
    /// `(n_row, logits or None, {layer: heads})`
    pub(crate) fn into_python<'py>(
        self,
        py: Python<'py>,
        model: &candor::Model,
    ) -> PyResult<Bound<'py, PyAny>> {
        let geometry = model.geometry();
        let n_all: usize = self.n_row.iter().sum();
        let heads = PyDict::new(py);
        for (layer, values) in self.heads {
            let array = PyArray1::from_vec(py, values);
            heads.set_item(layer, array.reshape([n_all, geometry.n_head, geometry.d_head])?)?;
        }
        let logits = match self.logits.is_empty() {
            true => py.None().into_bound(py),
            false => {
                PyArray1::from_vec(py, self.logits).reshape([n_all, model.n_vocab()])?.into_any()
            }
        };
        let parts = [self.n_row.into_pyobject(py)?.into_any(), logits, heads.into_any()];
        Ok(PyTuple::new(py, parts)?.into_any())
    }
}
