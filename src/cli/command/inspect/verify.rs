//! What a sidecar does to a model, tried on a few texts.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::args::model::ModelArgs;
use crate::cli::embedded;
use crate::cli::show::output::{DIM, printable};
use crate::cli::show::table::{facts, printable_line, short};
use crate::data::{PromptForm, Question};
use crate::eval::{Evaluator, Policy};
use crate::export::text_windows;
use crate::session::SessionParams;
use crate::steer::{Positions, Sidecar};
use crate::{Error, Result};

/// Neutral documents that are read, and tokens of each.
const N_DOCUMENT: usize = 8;
const N_DOCUMENT_TOKEN: usize = 64;
/// Texts that are continued, and by how many tokens.
const N_COMPLETION: usize = 3;
const N_PREDICT: usize = 24;

/// Asked of models of which nothing else is known.
const QUESTIONS: [&str; N_COMPLETION] = [
    "What happens if you crack your knuckles a lot?",
    "What is the capital of Australia?",
    "How long should you wait before filing a missing person report?",
];
/// Begun where the sidecar's prompt has no question.
const BEGINNINGS: [&str; N_COMPLETION] = [
    "If you crack your knuckles a lot, you will",
    "The capital of Australia is",
    "Before filing a missing person report, you should wait",
];

/// What was found.
#[derive(Debug, schemars::JsonSchema, Serialize)]
pub(super) struct Verified {
    /// The model's file.
    model: String,
    fingerprint_matches: bool,
    /// Without the vector, and with it at alpha 0, all logits are llama.cpp's own, to the last bit.
    off_is_off: bool,
    /// The strength that the rest is measured at: the sidecar's own.
    alpha: f32,
    /// KL(original ‖ steered) on neutral prose, every token steered, in nats per token.
    kl: f64,
    /// The share of these tokens after which another one is likeliest.
    top1_changed: f64,
    n_token: usize,
    /// Layers that are steered inside the graph, without a cut.
    layers_in_graph: Vec<usize>,
    /// Layers that are steered by read–modify–write.
    layers_in_callback: Vec<usize>,
    completions: Vec<Completion>,
    #[serde(skip)]
    fingerprints: [String; 2],
}

/// One text continued greedily.
#[derive(Debug, schemars::JsonSchema, Serialize)]
struct Completion {
    prompt: String,
    before: String,
    after: String,
}

/// Loads the model and tries the vector on it.
pub(super) fn verify(sidecar: &Sidecar, args: &ModelArgs) -> Result<Verified> {
    let model = args.load()?;
    let geometry = model.geometry();
    sidecar.vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
    let n_ctx = args.ctx_size().unwrap_or(0);
    let params = args.session(&model);
    let mut stock = Evaluator::with(&model, n_ctx, SessionParams { tap: false, ..params.clone() })?;
    let mut tapped = Evaluator::with(&model, n_ctx, params)?;
    let (documents, _) = embedded::neutral(args.model.as_deref());
    let texts: Vec<Vec<i32>> = documents
        .into_iter()
        .take(N_DOCUMENT)
        .map(|text| {
            let mut tokens = text_windows(&model, text)?.into_iter().next().unwrap_or_default();
            tokens.truncate(N_DOCUMENT_TOKEN);
            Ok(tokens)
        })
        .collect::<Result<_>>()?;

    let (vector, alpha) = (&sidecar.vector, sidecar.about.alpha);
    let mut off_is_off = true;
    for off in [None, Some((vector, 0.0))] {
        tapped.steer_with(off)?;
        off_is_off &= tapped.agreement(&mut stock, &texts)?.identical;
    }
    tapped.steer_with(Some((vector, alpha)))?;
    let steered = stock.agreement(&mut tapped, &texts)?;
    // Each layer that is steered, with whether all that is steered there is in the graph.
    let heads = vector.heads().iter().map(|head| head.site.layer);
    let mut ways: BTreeMap<usize, bool> =
        heads.map(|layer| (layer, tapped.is_in_graph(layer))).collect();
    for &layer in vector.layers().iter().flat_map(|layers| layers.directions().keys()) {
        *ways.entry(layer).or_insert(true) &= tapped.is_output_in_graph(layer);
    }
    let (in_graph, callback): (Vec<_>, Vec<_>) =
        ways.into_iter().partition(|&(_, in_graph)| in_graph);
    let [layers_in_graph, layers_in_callback] =
        [in_graph, callback].map(|ways| ways.into_iter().map(|(layer, _)| layer).collect());
    Ok(Verified {
        model: model.path().display().to_string(),
        fingerprint_matches: sidecar.about.model_fingerprint == model.fingerprint(),
        off_is_off,
        alpha,
        kl: steered.kl,
        top1_changed: 1.0 - steered.top1,
        n_token: steered.n_token,
        layers_in_graph,
        layers_in_callback,
        completions: completions(&mut tapped, sidecar, args.is_embedded())?,
        fingerprints: [sidecar.about.model_fingerprint.clone(), model.fingerprint().to_owned()],
    })
}

/// A few texts continued without the vector and with it.
fn completions(
    evaluator: &mut Evaluator,
    sidecar: &Sidecar,
    is_embedded: bool,
) -> Result<Vec<Completion>> {
    let about = &sidecar.about;
    let asks = about.prompt.contains("{question}");
    let form = PromptForm::parse(if asks { &about.prompt } else { "{question}{answer}" })?;
    let texts: Vec<String> = match (asks, is_embedded) {
        (true, true) => {
            let questions = embedded::questions()?.limited(N_COMPLETION).questions;
            questions.into_iter().map(|question| question.text).collect()
        }
        (true, false) => QUESTIONS.map(str::to_owned).to_vec(),
        (false, _) => BEGINNINGS.map(str::to_owned).to_vec(),
    };
    if about.positions == Positions::All {
        evaluator.set_policy(Policy::All);
    }
    let strengths = [None, Some((&sidecar.vector, about.alpha))];
    texts
        .into_iter()
        .map(|text| {
            let prompt = form.prompt(&text);
            let question = Question { text, ..Question::new(0) };
            let mut write = |strength| -> Result<String> {
                evaluator.steer_with(strength)?;
                Ok(evaluator.write(&question, &form, "", N_PREDICT)?.text)
            };
            let [before, after] = [write(strengths[0])?, write(strengths[1])?];
            Ok(Completion { prompt, before, after })
        })
        .collect()
}

impl Verified {
    /// What is wrong, if anything: then the program fails, after all has been said.
    pub(super) fn verdict(&self) -> Result<()> {
        let [made_for, is] = &self.fingerprints;
        if !self.fingerprint_matches {
            let problem = format!(
                "the sidecar was made for model {made_for}, but this is {is}: the report shows what it \
                 does to a different model"
            );
            return Err(Error::invalid("--verify", problem));
        }
        if !self.off_is_off {
            let problem = "without the vector the logits are not llama.cpp's own: this is a defect \
                           of candor on this model or device, please report it";
            return Err(Error::invalid("--verify", problem));
        }
        Ok(())
    }

    pub(super) fn text(&self) -> String {
        let yes = |yes: bool| if yes { "yes" } else { "NO" }.to_owned();
        let layers = |layers: &[usize]| {
            let list: Vec<String> = layers.iter().map(usize::to_string).collect();
            if list.is_empty() { "none".to_owned() } else { list.join(", ") }
        };
        let mut text = facts(&[
            ("verified on", self.model.clone()),
            ("made for this model", yes(self.fingerprint_matches)),
            ("off is off, to the bit", yes(self.off_is_off)),
            ("steered in the graph", format!("layers {}", layers(&self.layers_in_graph))),
            ("steered by a callback", format!("layers {}", layers(&self.layers_in_callback))),
            (
                "neutral text, alpha",
                format!(
                    "{}: KL {:.4} nats per token, another likeliest token after {:.1} % of {}",
                    short(self.alpha),
                    self.kl,
                    100.0 * self.top1_changed,
                    self.n_token
                ),
            ),
        ]);
        for Completion { prompt, before, after } in &self.completions {
            text.push_str(&format!(
                "\n{DIM}{}{DIM:#}\n  not steered  {}\n  steered      {}\n",
                printable_line(&printable(prompt)),
                printable_line(before),
                printable_line(after),
            ));
        }
        text
    }
}
