//! What `candor eval` scores.

use std::path::PathBuf;

use crate::cli::args::steer::GateArgs;
use crate::cli::show::heads::chosen_by;
use crate::eval::Policy;
use crate::steer::{DirectionKind, Positions, Sidecar};
use crate::study::{FittedOn, Protocol, Report, Seen};
use crate::{Model, Result};

/// What is scored.
pub(super) enum Vector {
    /// One for each half of the questions, fitted on the other.
    TwoFold,
    /// One that is there already, with its strength.
    Sidecar(PathBuf, Box<Sidecar>, f32),
    /// The model as it is.
    None,
}

impl Vector {
    /// Whether it can steer through a gate, where one is asked for.
    pub(super) fn check(&self, gate: &GateArgs) -> Result<()> {
        match self {
            Self::TwoFold => Ok(()),
            Self::Sidecar(_, sidecar, _) => gate.check(Some(&sidecar.vector)),
            Self::None => gate.check(None),
        }
    }

    /// What it was fitted on, and what is baked into the model; `None` where nothing acts that was not
    /// fitted here.
    pub(super) fn fitted_on(&self, model: &Model) -> Option<FittedOn> {
        let own = match self {
            Self::Sidecar(_, sidecar, alpha) if *alpha != 0.0 => Some(FittedOn::of(&sidecar.about)),
            _ => None,
        };
        let baked = model.baked().filter(|baked| baked.acts()).map(FittedOn::of_baked);
        match (own, baked) {
            (Some(own), Some(baked)) => Some(own.and(baked)),
            (own, baked) => own.or(baked),
        }
    }

    /// As reports name it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::TwoFold => "2-fold".to_owned(),
            Self::Sidecar(path, ..) => path.display().to_string(),
            Self::None => "none".to_owned(),
        }
    }

    pub(super) fn fingerprint(&self) -> Option<String> {
        match self {
            Self::Sidecar(_, sidecar, _) => Some(sidecar.fingerprint()),
            Self::TwoFold | Self::None => None,
        }
    }

    /// Heads and layers that a sidecar steers.
    pub(super) fn size(&self) -> Option<(usize, usize)> {
        let Self::Sidecar(_, sidecar, _) = self else { return None };
        let vector = &sidecar.vector;
        let n_layer = vector.layers().map_or(0, |layers| layers.directions().len());
        Some((vector.heads().len(), n_layer))
    }

    /// How its directions were found.
    pub(super) fn direction(&self, protocol: &Protocol) -> Option<DirectionKind> {
        match self {
            Self::TwoFold => Some(protocol.direction),
            Self::Sidecar(_, sidecar, _) => Some(sidecar.about.direction),
            Self::None => None,
        }
    }

    /// By what its heads were chosen, where it has any and that is known.
    pub(super) fn selection(&self, protocol: &Protocol) -> Option<&'static str> {
        match self {
            Self::TwoFold => Some(protocol.selection.name()),
            Self::Sidecar(_, sidecar, _) => {
                let Sidecar { vector, about } = sidecar.as_ref();
                chosen_by(about).filter(|_| !vector.heads().is_empty())
            }
            Self::None => None,
        }
    }

    /// The tokens that are steered: those of `given`, else those that the sidecar stores.
    pub(super) fn policy(&self, given: Option<Policy>) -> Policy {
        given.unwrap_or_else(|| match self {
            Self::Sidecar(_, sidecar, _) if sidecar.about.positions == Positions::All => {
                Policy::All
            }
            _ => Policy::default(),
        })
    }

    /// How many of the questions were seen in fitting; `None` where nothing acts that was fitted.
    /// `fitted`: what [`Vector::fitted_on`] gives.
    pub(super) fn seen(&self, report: &Report, fitted: Option<&FittedOn>) -> Option<Seen> {
        match (self, fitted) {
            (_, Some(fitted)) => Some(report.seen(fitted)),
            (Self::TwoFold, None) => Some(report.seen_in_folds()),
            (_, None) => None,
        }
    }

    /// Whether something is fitted, if only the scale of random directions.
    pub(super) fn needs_activations(&self) -> bool {
        !matches!(self, Self::None)
    }
}
