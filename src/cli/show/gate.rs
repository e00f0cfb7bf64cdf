//! What steering through a gate is, and what it leaves of steering, in words.

use crate::cli::show::table::{percent, short};
use crate::study::Row;

/// What the gate is, what it decides of the answers, and what it leaves in neutral text. `reach`: the share
/// of answers of which it decides a token.
pub(in crate::cli) fn gate_text(rows: &[Row], gate: f32, reach: f64) -> String {
    let gate = short(gate);
    let mut text = format!(
        "Through the gate: within an answer, a token is steered only if the probes read the token before \
         it as true with a probability below {gate}; tokens before the first reading are always steered."
    );
    text += &match reach {
        0.0 => " No answer here has more than two tokens, counting the full stop, and for those the gate \
                decides nothing: MC1 is the same as without it by construction."
            .to_owned(),
        reach => format!(" It decides part of {} % of the answers.", percent(reach)),
    };
    let of = |name: &str| {
        let row = rows.iter().find(|row| row.name == name)?;
        Some((row.steered?, row.changed?, row.outside))
    };
    if let (Some((steered, changed, outside)), Some((_, always, _))) = (of("gated"), of("iti")) {
        text += &format!(
            " Of the neutral tokens, {} % were steered; {} % followed a token unlike anything the probes \
             were fitted on, which shuts the gate; the most likely next token changes after {} % of them, \
             and after {} % if steering is always on.",
            percent(steered),
            percent(outside.unwrap_or(0.0)),
            percent(changed),
            percent(always),
        );
    }
    text
}
