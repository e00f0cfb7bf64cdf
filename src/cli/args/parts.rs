//! Sidecars times factors, as people write them: `truth.gguf`, `truth.gguf*0.5`.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::steer::{Positions, Sidecar};
use crate::{Error, Result};

/// A sidecar and what its strength is multiplied by.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct Part {
    pub(in crate::cli) path: PathBuf,
    pub(in crate::cli) factor: Option<f32>,
}

impl From<OsString> for Part {
    /// What follows the last `*` is the factor, where it is a number; else all is the path.
    fn from(text: OsString) -> Self {
        let split = text.to_str().and_then(|text| {
            let (path, factor) = text.rsplit_once('*')?;
            let factor = factor.trim().parse().ok().filter(|factor: &f32| factor.is_finite())?;
            Some(Self { path: path.trim_end().into(), factor: Some(factor) })
        });
        split.unwrap_or_else(|| Self { path: text.into(), factor: None })
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.factor {
            None => write!(f, "{path}"),
            Some(factor) => write!(f, "{path}*{factor}"),
        }
    }
}

impl Part {
    /// Refuses what was to be a factor and is no number, unless there is a file of that name.
    pub(in crate::cli) fn check(&self) -> Result<()> {
        let text = self.path.to_string_lossy();
        match text.rsplit_once('*') {
            Some((path, factor)) if self.factor.is_none() && !self.path.exists() => {
                let problem =
                    format!("`{factor}` is not a number: expected FILE*FACTOR, as {path}*0.5");
                Err(Error::invalid(text.as_ref(), problem))
            }
            _ => Ok(()),
        }
    }

    /// The factor, 1 where none was given.
    pub(in crate::cli) fn factor(&self) -> f32 {
        self.factor.unwrap_or(1.0)
    }
}

/// The sum of some sidecars, read by `read`, and what it is called: one without a factor is itself.
pub(in crate::cli) fn combine(
    parts: &[Part],
    positions: Option<Positions>,
    force: bool,
    read: impl Fn(&Path) -> Result<Sidecar>,
) -> Result<(PathBuf, Sidecar)> {
    parts.iter().try_for_each(Part::check)?;
    let sidecars = parts.iter().map(|part| read(&part.path)).collect::<Result<Vec<_>>>()?;
    let mut sidecars = sidecars;
    if let ([Part { path, factor: None }], [_]) = (parts, sidecars.as_slice()) {
        return Ok((path.clone(), sidecars.remove(0)));
    }
    let list = parts.iter().map(Part::to_string).collect::<Vec<_>>().join(" + ");
    let names: Vec<&str> = sidecars.iter().map(|sidecar| sidecar.about.name.as_str()).collect();
    let weighed: Vec<_> = sidecars.iter().zip(parts.iter().map(Part::factor)).collect();
    let mixed = Sidecar::mix(&weighed, &names.join(" + "), positions, force)?;
    Ok((list.into(), mixed))
}

/// Refuses --alpha beside anything but one sidecar without a factor.
pub(in crate::cli) fn check_alpha(parts: &[Part], alpha: Option<f32>) -> Result<()> {
    match parts {
        [] | [Part { factor: None, .. }] => Ok(()),
        _ if alpha.is_none() => Ok(()),
        _ => {
            let problem = "sets the strength of one vector: with several, or with a factor, give \
                           each its own, as in --steer 'FILE*0.5'";
            Err(Error::invalid("--alpha", problem))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_factor_follows_the_last_star() {
        let part = |text: &str| {
            let part = Part::from(OsString::from(text));
            (part.path.display().to_string(), part.factor)
        };
        assert_eq!(part("a.gguf"), ("a.gguf".to_owned(), None));
        assert_eq!(part("a.gguf*-0.3"), ("a.gguf".to_owned(), Some(-0.3)));
        assert_eq!(part("a*b.gguf * 2"), ("a*b.gguf".to_owned(), Some(2.0)));
        assert_eq!(part("a*b.gguf"), ("a*b.gguf".to_owned(), None));
        assert_eq!(part("a.gguf*inf"), ("a.gguf*inf".to_owned(), None));
        assert_eq!(Part::from(OsString::from("a*0.50")).to_string(), "a*0.5");
    }

    #[test]
    fn a_factor_that_is_no_number_is_named() {
        let message = |text: &str| {
            Part::from(OsString::from(text)).check().map_err(|error| error.to_string())
        };
        assert!(message("absent.gguf*foo").unwrap_err().contains("`foo` is not a number"));
        assert!(message("absent.gguf*2").is_ok() && message("absent.gguf").is_ok());
    }

    #[test]
    fn alpha_is_for_one_vector() {
        let parts = |texts: &[&str]| -> Vec<Part> {
            texts.iter().map(|text| OsString::from(text).into()).collect()
        };
        assert!(check_alpha(&parts(&["a"]), Some(2.0)).is_ok());
        assert!(check_alpha(&parts(&["a", "b*2"]), None).is_ok());
        for several in [&["a", "b"][..], &["a*2"]] {
            assert!(check_alpha(&parts(several), Some(2.0)).is_err());
        }
    }
}
