//! The control vector nearest to a head edit.
//!
//! A head edit adds to the input of a layer's output projection; what follows within the layer, the
//! feed-forward block, answers to it, token by token. A control vector adds a constant to what comes
//! out of the layer. None is the same as the edit, so two are made, and the nearer one is kept:
//!
//! - **mean**: of each layer, from the first one that is steered on, the mean over the tokens of some
//!   text of (its output where heads are edited − its output where the directions of the layers before
//!   it are added). The mean is the constant with the least squared error. What earlier directions do
//!   already is not counted twice, and layer 0, where llama.cpp adds nothing, is made up for in layer 1.
//! - **projection**: `wo · concat_h(alpha sigma theta_h)` of each steered layer, by construction from the
//!   weights, as if the feed-forward block did not answer. What layer 0 adds goes to layer 1.
//!
//! Directions of layers, which a vector may have besides, are what a control vector is: the second adds
//! them as they are, and is exact where there are no heads.
//!
//! Text is parted: every other document and question serves to make the vectors and to choose between
//! them, the rest says how near the chosen one is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::ControlVector;
use super::bake::project;
use crate::data::{PromptForm, Question};
use crate::eval::{Agreement, Evaluator, McScore, N_CHUNK, Policy, windows_of};
use crate::gguf::Gguf;
use crate::ledger::Ledger;
use crate::session::SessionParams;
use crate::steer::SteeringVector;
use crate::{Error, Model, Result};

/// Tokens of text that vectors are made from, at most.
const N_FIT_TOKEN: usize = 2048;
/// Tokens that are read at once; a longer text is read in several windows.
const N_TEXT_TOKEN: usize = 256;

/// How a control vector was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// From the mean difference of the layers' outputs.
    Mean,
    /// From the weights of the output projections.
    Projection,
}

impl Method {
    /// The name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Projection => "projection",
        }
    }
}

/// What is to be approximated, and on what.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// The head edit.
    pub vector: &'a SteeringVector,
    /// Its strength.
    pub alpha: f32,
    /// Documents that ask nothing, at least two, as tokens.
    pub neutral: Vec<Vec<i32>>,
    /// Texts of a data set, as tokens: none, or at least two.
    pub texts: Vec<Vec<i32>>,
    /// Its questions that have true and false answers.
    pub questions: Vec<&'a Question>,
    /// How they are asked.
    pub form: PromptForm,
}

/// What is known of one way to run the model, measured on the text that nothing was made from.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Row {
    /// `base`, `exact` (heads edited at every token), `exact_generated` (from the last token of the
    /// prompt on), or the name of a [`Method`].
    pub name: &'static str,
    /// KL(exact ‖ this) and top-1 agreement with it, on neutral prose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub neutral: Option<Agreement>,
    /// The same on texts of the data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Agreement>,
    /// Scores of the questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mc: Option<McScore>,
}

/// The nearest control vector, and how near it is.
#[derive(Debug, Clone)]
pub struct Nearest {
    /// The nearer one of the two.
    pub vector: ControlVector,
    /// How it was made.
    pub method: Method,
    /// What is known of no steering, of the edit, and of both vectors.
    pub rows: Vec<Row>,
    /// KL(exact ‖ control vector) on the text that they were made from, by which the choice was made.
    pub choice: Vec<(Method, Agreement)>,
    /// Why there is none by projection, where there is none.
    pub no_projection: Option<String>,
    /// Tokens that the mean is over.
    pub n_fit_token: usize,
    /// Questions that were scored.
    pub n_question: usize,
}

/// What a ledger keeps of an export.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub enum Record {
    /// One layer's direction.
    Direction(Vec<f32>),
    /// Two ways to run the model compared on some texts.
    Agreement(Agreement),
    /// MC1, MC2 and MC3 of some questions, summed, and how many they are.
    Mc([f64; 3], usize),
}

impl Task<'_> {
    /// Steps of [`nearest`] at most, for a progress bar.
    #[must_use]
    pub fn n_step(&self) -> usize {
        let chunks = |n: usize| (n / 2).div_ceil(N_CHUNK);
        let n_compared = 3 * (chunks(self.neutral.len()) + chunks(self.texts.len()));
        1 + self.vector.n_layer() + 2 + n_compared + 5 * chunks(self.questions.len())
    }

    /// Every other text, to make vectors from: documents and texts by turns, as many as fit.
    fn fit_texts(&self) -> Vec<Vec<i32>> {
        let [neutral, texts] = [&self.neutral, &self.texts].map(|all| all.iter().step_by(2));
        let n = neutral.len().max(texts.len());
        let mut n_token = 0;
        let by_turns = (0..n).flat_map(|i| [neutral.clone().nth(i), texts.clone().nth(i)]);
        by_turns
            .flatten()
            .take_while(|text| {
                n_token += text.len();
                n_token <= N_FIT_TOKEN.max(text.len())
            })
            .cloned()
            .collect()
    }
}

/// A text's tokens, in windows that are read each by itself; none where there is no token to predict.
///
/// # Errors
/// As [`Model::tokenize`].
pub fn text_windows(model: &Model, text: &str) -> Result<Vec<Vec<i32>>> {
    windows_of(model, text, N_TEXT_TOKEN.min(model.n_ctx_train()))
}

/// Makes both control vectors, keeps the nearer one and measures how near they are. What the ledger
/// holds is not computed again. `on_step` is called after each of at most [`Task::n_step`] steps and
/// may refuse to go on by an error.
///
/// # Errors
/// [`Error::Unsupported`] for an architecture whose graph llama.cpp adds no control vector to, or whose
/// layers' outputs it does not name; [`Error::Invalid`] for too little text, a vector of another
/// geometry, or one that changes no layer from 1 on; what evaluating gives.
pub fn nearest(
    model: &Model,
    session: &SessionParams,
    task: &Task,
    ledger: &mut Ledger<Record>,
    mut on_step: impl FnMut() -> Result<()>,
) -> Result<Nearest> {
    if task.neutral.len() < 2 || task.texts.len() == 1 {
        let problem = "two are needed at least: one to make a vector from, one to measure it on";
        return Err(Error::invalid("texts", problem));
    }
    let fit = task.fit_texts();
    let mut makers = Makers { model, session, task, fit: &fit };
    let mean = makers.mean(ledger, &mut on_step)?;
    let (projection, no_projection) = match makers.projection() {
        Ok(vector) => (Some(vector), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let candidates: Vec<(Method, ControlVector)> =
        [(Method::Mean, Some(mean)), (Method::Projection, projection)]
            .into_iter()
            .filter_map(|(method, vector)| Some((method, vector?)))
            .collect();

    let mut exact = makers.exact()?;
    let mut stock = makers.stock()?;
    check_applies(&mut stock, &candidates[0].1, &fit[..1])?;
    let mut choice = Vec::new();
    for (method, vector) in &candidates {
        stock.control_with(Some(vector))?;
        let name = format!("choice {}", method.name());
        let agreement = known(ledger, &name, || exact.agreement(&mut stock, &fit))?;
        choice.push((*method, agreement));
        on_step()?;
    }
    let rows = Rows { task, exact, stock, ledger, on_step: &mut on_step }.measure(&candidates)?;
    let nearer =
        |(_, a): &&(Method, Agreement), (_, b): &&(Method, Agreement)| a.kl.total_cmp(&b.kl);
    let method = choice.iter().min_by(nearer).map_or(Method::Mean, |(method, _)| *method);
    let vector = candidates.into_iter().find(|(of, _)| *of == method).map(|(_, vector)| vector);
    Ok(Nearest {
        vector: vector.ok_or_else(|| Error::invalid("control vector", "there is none"))?,
        method,
        rows,
        choice,
        no_projection,
        n_fit_token: fit.iter().map(Vec::len).sum(),
        n_question: task.questions.iter().skip(1).step_by(2).count(),
    })
}

/// The value that the ledger has, or that is found now and kept there.
fn known(
    ledger: &mut Ledger<Record>,
    name: &str,
    find: impl FnOnce() -> Result<Agreement>,
) -> Result<Agreement> {
    if let Some(Record::Agreement(agreement)) = ledger.get(name) {
        return Ok(*agreement);
    }
    let agreement = find()?;
    ledger.put([(name.to_owned(), Record::Agreement(agreement))])?;
    Ok(agreement)
}

/// Refuses a model to which llama.cpp does not add a control vector: some graphs leave it out.
fn check_applies(stock: &mut Evaluator, vector: &ControlVector, texts: &[Vec<i32>]) -> Result<()> {
    let mut logits = |vector: Option<&ControlVector>| -> Result<Vec<Vec<f32>>> {
        let mut rows = Vec::new();
        stock.control_with(vector)?;
        stock.read_all(texts, |logits| rows.push(logits.to_vec()))?;
        Ok(rows)
    };
    if logits(None)? != logits(Some(vector))? {
        return Ok(());
    }
    Err(Error::Unsupported {
        architecture: stock.model().architecture().to_owned(),
        problem: "llama.cpp's graph adds no control vector: steer with `candor run`, or bake the \
                  vector"
            .to_owned(),
    })
}

/// Makes control vectors.
struct Makers<'a> {
    model: &'a Model,
    session: &'a SessionParams,
    task: &'a Task<'a>,
    fit: &'a [Vec<i32>],
}

impl<'a> Makers<'a> {
    /// An evaluator that edits heads at every token.
    fn exact(&self) -> Result<Evaluator> {
        let mut exact = Evaluator::with(self.model, self.session.n_ctx, self.session.clone())?;
        exact.steer_with(Some((self.task.vector, self.task.alpha)))?;
        exact.set_policy(Policy::All);
        Ok(exact)
    }

    /// llama.cpp's own context.
    fn stock(&self) -> Result<Evaluator> {
        Evaluator::with(self.model, self.session.n_ctx, self.stock_params())
    }

    fn stock_params(&self) -> SessionParams {
        SessionParams { tap: false, ..self.session.clone() }
    }

    /// The layers that can be given a direction: from the first one that is steered on.
    fn layers(&self) -> std::ops::Range<usize> {
        let vector = self.task.vector;
        let of_heads = vector.heads().first().map(|head| head.site.layer);
        let of_outputs = vector.layers().and_then(|of| of.directions().keys().next().copied());
        let first = of_heads.into_iter().chain(of_outputs).min().unwrap_or(0);
        first.max(1)..vector.n_layer()
    }

    /// From the mean difference of the layers' outputs.
    fn mean(
        &mut self,
        ledger: &mut Ledger<Record>,
        mut on_step: impl FnMut() -> Result<()>,
    ) -> Result<ControlVector> {
        let Self { model, session, task, fit } = *self;
        let n_ctx = session.n_ctx;
        let mut edited = Evaluator::with_means(model, n_ctx, session.clone())?;
        edited.steer_with(Some((task.vector, task.alpha)))?;
        edited.read_all(fit, |_| ())?;
        on_step()?;
        let mut control = Evaluator::with_means(model, n_ctx, self.stock_params())?;
        let mut vector = self.zeros();
        for layer in self.layers() {
            let name = format!("direction {layer}");
            let known = match ledger.get(&name) {
                Some(Record::Direction(direction)) => Some(direction.clone()),
                _ => None,
            };
            let direction = match known {
                Some(direction) => Some(direction),
                None => {
                    control.control_with(Some(&vector))?;
                    control.reset_means();
                    control.read_all(fit, |_| ())?;
                    difference(edited.mean_of(layer), control.mean_of(layer))
                }
            };
            // A layer that is there for multi-token prediction alone never comes by.
            if let Some(direction) = direction {
                if direction.iter().any(|value| !value.is_finite()) {
                    let problem = format!("with it the output of layer {layer} is not finite");
                    return Err(Error::invalid("alpha", problem));
                }
                ledger.put([(name, Record::Direction(direction.clone()))])?;
                vector.directions.insert(layer, direction);
            }
            on_step()?;
        }
        if vector.directions.values().flatten().all(|&value| value == 0.0) {
            return Err(self.nothing());
        }
        Ok(vector)
    }

    /// From the weights of the output projections.
    fn projection(&self) -> Result<ControlVector> {
        let file = Gguf::open_model(self.model.path())?;
        let mut vector = self.zeros();
        for (layer, offset) in self.task.vector.offsets(self.task.alpha) {
            let added = project(&file, layer, &offset)?;
            if let Some(direction) = vector.directions.get_mut(&layer.max(1)) {
                let sums = direction.iter_mut().zip(added);
                sums.for_each(|(sum, value)| *sum = (f64::from(*sum) + value) as f32);
            }
        }
        for (layer, offset) in self.task.vector.layer_offsets(self.task.alpha) {
            if let Some(direction) = vector.directions.get_mut(&layer) {
                direction.iter_mut().zip(offset).for_each(|(sum, value)| *sum += value);
            }
        }
        vector.check()?;
        Ok(vector)
    }

    /// A direction for every layer that can have one, all zero.
    fn zeros(&self) -> ControlVector {
        let n_embd = self.model.geometry().n_embd;
        let directions: BTreeMap<usize, Vec<f32>> =
            (1..self.task.vector.n_layer()).map(|layer| (layer, vec![0.0; n_embd])).collect();
        ControlVector {
            model_hint: self.model.architecture().to_owned(),
            layer_count: directions.len(),
            directions,
            metadata: Vec::new(),
        }
    }

    fn nothing(&self) -> Error {
        Error::Unsupported {
            architecture: self.model.architecture().to_owned(),
            problem: "steering changes no layer's output that llama.cpp names `l_out-<il>`, from \
                      layer 1 on: there is nothing that a control vector could add"
                .to_owned(),
        }
    }
}

/// F32 `[n_embd]`; `None` where one is missing.
fn difference(a: Option<Vec<f64>>, b: Option<Vec<f64>>) -> Option<Vec<f32>> {
    Some(a?.iter().zip(b?).map(|(a, b)| (a - b) as f32).collect())
}

/// Measures on the text that nothing was made from.
struct Rows<'a, F> {
    task: &'a Task<'a>,
    exact: Evaluator,
    stock: Evaluator,
    ledger: &'a mut Ledger<Record>,
    on_step: F,
}

impl<F: FnMut() -> Result<()>> Rows<'_, F> {
    fn measure(mut self, candidates: &[(Method, ControlVector)]) -> Result<Vec<Row>> {
        let mut rows = vec![self.stock_row("base", None)?];
        for (name, policy) in [("exact", Policy::All), ("exact_generated", Policy::Generated)] {
            self.exact.set_policy(policy);
            rows.push(Row { name, neutral: None, data: None, mc: self.mc(name, false)? });
        }
        for (method, vector) in candidates {
            rows.push(self.stock_row(method.name(), Some(vector))?);
        }
        Ok(rows)
    }

    fn stock_row(&mut self, name: &'static str, vector: Option<&ControlVector>) -> Result<Row> {
        self.stock.control_with(vector)?;
        let task = self.task;
        Ok(Row {
            name,
            neutral: self.agreement(name, "neutral", &task.neutral)?,
            data: self.agreement(name, "data", &task.texts)?,
            mc: self.mc(name, true)?,
        })
    }

    fn agreement(
        &mut self,
        name: &str,
        what: &str,
        texts: &[Vec<i32>],
    ) -> Result<Option<Agreement>> {
        let texts: Vec<Vec<i32>> = texts.iter().skip(1).step_by(2).cloned().collect();
        let mut sum = Agreement::NONE;
        for (i, chunk) in texts.chunks(N_CHUNK).enumerate() {
            let find = || self.exact.agreement(&mut self.stock, chunk);
            sum = sum.join(known(self.ledger, &format!("{name} {what} {i}"), find)?);
            (self.on_step)()?;
        }
        Ok((sum.n_token > 0).then_some(sum))
    }

    fn mc(&mut self, name: &str, of_stock: bool) -> Result<Option<McScore>> {
        let questions: Vec<&Question> =
            self.task.questions.iter().skip(1).step_by(2).copied().collect();
        let (mut sum, mut n) = ([0.0; 3], 0);
        for (i, chunk) in questions.chunks(N_CHUNK).enumerate() {
            let key = format!("{name} mc {i}");
            let (of_chunk, n_chunk) = match self.ledger.get(&key) {
                Some(Record::Mc(sum, n)) => (*sum, *n),
                _ => {
                    let evaluator = if of_stock { &mut self.stock } else { &mut self.exact };
                    let scores = evaluator.score_answers(chunk, &self.task.form, "")?;
                    let mean = McScore::mean(&scores);
                    let sum = [mean.mc1, mean.mc2, mean.mc3].map(|mean| mean * scores.len() as f64);
                    self.ledger.put([(key, Record::Mc(sum, scores.len()))])?;
                    (sum, scores.len())
                }
            };
            sum.iter_mut().zip(of_chunk).for_each(|(sum, more)| *sum += more);
            n += n_chunk;
            (self.on_step)()?;
        }
        let [mc1, mc2, mc3] = sum.map(|sum| sum / n.max(1) as f64);
        Ok((n > 0).then_some(McScore { mc1, mc2, mc3 }))
    }
}
