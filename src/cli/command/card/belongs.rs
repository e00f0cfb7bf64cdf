//! Whether a report is one of this sidecar, on this model.

use super::report::{Document, Fold};
use crate::cli::show::table::{counted, short};
use crate::data::sha256;
use crate::error::shown;
use crate::steer::{Method, Sidecar};

/// What a card is written of.
pub(super) struct Subject<'a> {
    pub(super) sidecar: &'a Sidecar,
    /// Where that lies, and the model's file, as they are to be typed.
    pub(super) paths: [String; 2],
    /// Hash of the bytes of the model at hand.
    pub(super) content: &'a str,
}

/// Makes sure that a report is of this sidecar, or of vectors that were fitted as it was, and of the file
/// that it was fitted on or the one at hand; gives what a reader has to know besides.
pub(super) fn check(document: &Document, subject: &Subject) -> Result<Vec<String>, String> {
    let Document { settings, model, .. } = document;
    let sidecar = subject.sidecar;
    if model.fingerprint != sidecar.about.model_fingerprint {
        let problem = "is of another model than the sidecar: measure this one with `candor eval`";
        return Err(problem.to_owned());
    }
    let is_own = match &settings.vector_fingerprint {
        Some(fingerprint) if *fingerprint == sidecar.fingerprint() => true,
        Some(_) => {
            let vector = shown(&settings.vector);
            return Err(format!("is of another vector ({vector}): measure this one"));
        }
        None if settings.vector == "none" => {
            return Err("is of the model as it is, without a vector: measure this one".to_owned());
        }
        None => false,
    };
    if !is_own {
        check_fit(document, subject)?;
    }
    let mut notes = check_content(document, subject, is_own)?;
    if is_own {
        let about = &sidecar.about;
        if !about.prompt.is_empty() && settings.prompt.as_ref() != Some(&about.prompt) {
            let prompt = settings.prompt.as_deref().unwrap_or("an unknown form");
            notes.push(format!(
                "Questions were asked in another form than it was fitted in: {}",
                shown(prompt)
            ));
        }
    } else if sidecar.about.evidence.kl_budget.is_some() && !is_searched(document) {
        notes.push("K and α were chosen on all of these questions".to_owned());
    }
    if let Some(preamble) = settings.preamble.as_ref().filter(|text| !text.is_empty()) {
        let n = preamble.chars().count();
        notes.push(format!("A text of {} stood before every question", counted(n, "character")));
    }
    if let Some(baked) = &model.baked {
        notes.push(format!("In all rows the model has something baked in: {}", shown(baked)));
    }
    Ok(notes)
}

/// Whether the bytes that were measured are those that the vector was fitted on, or those at hand.
fn check_content(
    document: &Document,
    subject: &Subject,
    is_own: bool,
) -> Result<Vec<String>, String> {
    let short = |hash: &str| shown(hash.get(..16).unwrap_or(hash));
    let Some(measured) = &document.model.content else {
        let problem = "does not say which file of the model it was measured on, since an older candor \
                       wrote it: measure again";
        return Err(problem.to_owned());
    };
    let fitted = sidecar_content(subject);
    let is_at_hand = measured == subject.content;
    match fitted {
        Some(fitted) if fitted == measured => Ok(Vec::new()),
        Some(fitted) if is_own && is_at_hand => Ok(vec![format!(
            "It was measured on a file with other bytes (content {}) than the one that the vector was \
             fitted on ({}): another quantization of it, or another model that shares its fingerprint",
            short(measured),
            short(fitted)
        )]),
        None if is_at_hand && subject.sidecar.about.is_imported() => Ok(Vec::new()),
        None if is_at_hand => {
            Ok(vec!["The sidecar does not say on which file of the model it was fitted".to_owned()])
        }
        Some(fitted) => Err(format!(
            "was measured on a file with other bytes (content {}) than the one that the vector was fitted \
             on ({}): another quantization, or another model that shares its fingerprint; {}",
            short(measured),
            short(fitted),
            match is_own {
                true =>
                    "measure the vector on that one, or name the file that was measured with -m, and the \
                     card will say so",
                false => "measure vectors that are fitted on that one",
            }
        )),
        None => Err(format!(
            "was measured on another file (content {}) than the model at hand ({}), and the sidecar does \
             not say on which it was fitted: name the file that was measured with -m",
            short(measured),
            short(subject.content)
        )),
    }
}

fn sidecar_content<'a>(subject: &'a Subject) -> Option<&'a String> {
    subject.sidecar.about.evidence.content.as_ref()
}

/// Whether each fold chose its K and α by trying.
fn is_searched(document: &Document) -> bool {
    document.folds.iter().all(|fold| fold.mc1.is_some())
}

/// Makes sure that two vectors, each fitted on one half, were fitted as this one was.
fn check_fit(document: &Document, subject: &Subject) -> Result<(), String> {
    let Document { settings, data, folds, .. } = document;
    let Sidecar { about, vector } = subject.sidecar;
    let evidence = &about.evidence;
    let [path, model] = &subject.paths;
    let own =
        format!("measure it by itself, with `candor eval -m {model} --steer {path} --report DIR`");
    let origin = match about.method {
        _ if about.is_imported() => Some("was made by another program".to_owned()),
        _ if about.is_mixed() => Some("is a sum of vectors".to_owned()),
        Method::Iti => None,
        method => Some(format!("has strengths that were trained ({})", method.name())),
    };
    if let Some(origin) = origin {
        return Err(format!(
            "is of two vectors fitted on halves of the data by Inference-Time Intervention, and this one \
             {origin}: {own}"
        ));
    }
    let k = vector.heads().len();
    let amount = |k: usize, alpha: f32| format!("{} at alpha {}", counted(k, "head"), short(alpha));
    let mut differs = Vec::new();
    let mut compare = |what: &str, report: String, sidecar: String| {
        if report != sidecar {
            differs.push(format!("{what} {} instead of {}", shown(&report), shown(&sidecar)));
        }
    };
    let unknown = || "unknown".to_owned();
    if data.sha256 != about.data_sha256 {
        let hashed = |name: &str, hash: &str| format!("{name} ({})", hash.get(..8).unwrap_or(hash));
        compare(
            "data",
            hashed(&data.name, &data.sha256),
            hashed(&about.data_name, &about.data_sha256),
        );
    }
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(unknown);
    compare("prompt", or_unknown(&settings.prompt), about.prompt.clone());
    compare("directions", or_unknown(&settings.direction), about.direction.name().to_owned());
    compare("heads chosen by", or_unknown(&settings.selection), about.selection.name().to_owned());
    let positions = if settings.policy == "all" { "all" } else { "generated" };
    compare("tokens steered:", positions.to_owned(), about.positions.to_string());
    // An older sidecar says nothing of these two.
    if evidence.content.is_some() {
        let preamble = settings.preamble.as_deref().filter(|text| !text.is_empty());
        let named = |hash: Option<String>| {
            hash.map_or_else(|| "none".to_owned(), |hash| hash.chars().take(8).collect())
        };
        let hash = preamble.map(|text| sha256(text.as_bytes()));
        compare("text before questions (SHA-256)", named(hash), named(evidence.preamble.clone()));
    }
    let is_given = |fold: &Fold| fold.k == k && short(fold.alpha) == short(about.alpha);
    let budget = |budget: Option<f64>| budget.unwrap_or(f64::INFINITY);
    let as_searched = evidence.kl_budget.filter(|_| is_searched(document));
    match as_searched {
        Some(own) if budget(settings.kl_budget) == own => {}
        _ if folds.iter().all(is_given) => {}
        Some(own) => {
            compare("budget of KL", budget(settings.kl_budget).to_string(), own.to_string())
        }
        None => {
            let all: Vec<String> = folds.iter().map(|fold| amount(fold.k, fold.alpha)).collect();
            compare("steering", all.join(" and "), amount(k, about.alpha));
        }
    }
    if differs.is_empty() {
        return Ok(());
    }
    Err(format!(
        "is of vectors that were not fitted as this one was: {}; {own}, or fit the halves in the same \
         way, with `candor eval --cv 2 -k {k} --alpha {}` and the options of its `candor fit`",
        differs.join("; "),
        about.alpha
    ))
}
