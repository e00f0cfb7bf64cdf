//! How far a vector moves its heads, in a unit that heads have in common: what a control has to do, too.

use super::{Development, SteeredHead, SteeringVector};
use crate::probe::Activations;
use crate::{Result, Site};

/// How far a head is moved at strength 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Push {
    /// In standard deviations of its output along the direction.
    Deviations(f32),
    /// In its output's own units, where that does not vary along the direction.
    Length(f32),
}

impl Development {
    /// How far a vector moves each of its heads, by site, measured on these rows. Of a vector that is made
    /// of this development it is one standard deviation; σ of a sum holds the factors of its parts, σ of
    /// trained strengths their shares, and σ of an import whatever its maker put there.
    ///
    /// # Errors
    /// As [`Development::given`].
    pub fn pushes(&self, source: &impl Activations, vector: &SteeringVector) -> Result<Vec<Push>> {
        if vector.heads().is_empty() {
            return Ok(Vec::new());
        }
        let directions: Vec<(Site, Vec<f32>)> =
            vector.heads().iter().map(|head| (head.site, head.direction.clone())).collect();
        let measured = self.given(source, &directions)?;
        let push = |(head, here): (&SteeredHead, &SteeredHead)| match here.sigma {
            0.0 => Push::Length(head.sigma),
            sigma => Push::Deviations(head.sigma / sigma),
        };
        Ok(vector.heads().iter().zip(measured.heads()).map(push).collect())
    }
}

impl SteeringVector {
    /// The same directions, where σ is the standard deviation along each, in heads that are moved this
    /// far: the first push for the first head by site, and so on.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) where a product overflows.
    pub fn pushed(&self, pushes: &[Push]) -> Result<Self> {
        let mut heads = self.heads().to_vec();
        for (head, push) in heads.iter_mut().zip(pushes) {
            head.sigma = match *push {
                Push::Deviations(n) => n * head.sigma,
                Push::Length(length) => length,
            };
        }
        Self::new(self.n_layer(), self.n_head(), self.d_head(), heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Memory;
    use crate::steer::{DirectionKind, FitParams};

    #[test]
    fn a_control_is_moved_as_far_as_the_vector() {
        let source = Memory::random([2, 4, 3], 80, &[]);
        let questions: Vec<usize> = (0..40).collect();
        let fit = Development::fit(&source, &questions, &FitParams::default(), || ()).unwrap();
        let own = fit.vector(&source, 3, DirectionKind::MassMean).unwrap();
        assert_eq!(fit.pushes(&source, &own).unwrap(), [Push::Deviations(1.0); 3]);
        // A sum of two parts on the same heads: half of one, three of the other.
        let sum = (&own * 0.5).plus(&(&own * 3.0)).unwrap();
        let pushes = fit.pushes(&source, &sum).unwrap();
        let random = fit.random(&source, 3, 7).unwrap();
        let pushed = random.pushed(&pushes).unwrap();
        for (head, plain) in pushed.heads().iter().zip(random.heads()) {
            assert_eq!((head.site, &head.direction), (plain.site, &plain.direction));
            assert!((head.sigma / plain.sigma - 3.5).abs() < 1e-5, "{}", head.sigma / plain.sigma);
        }
    }

    #[test]
    fn a_head_that_does_not_vary_is_moved_by_the_same_length() {
        let random = {
            let source = Memory::random([1, 2, 3], 80, &[]);
            let questions: Vec<usize> = (0..40).collect();
            let fit = Development::fit(&source, &questions, &FitParams::default(), || ()).unwrap();
            fit.random(&source, 1, 7).unwrap()
        };
        assert_eq!(random.pushed(&[Push::Length(0.25)]).unwrap().heads()[0].sigma, 0.25);
        assert!(random.pushed(&[Push::Deviations(f32::INFINITY)]).is_err());
    }
}
