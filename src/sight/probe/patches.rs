//! Where attention pooling looks in a picture to read the answer.

use std::path::PathBuf;

use ndarray::Axis;
use serde::Serialize;

use super::learned::Cells;
use super::stages::{Place, Stage, Stages};
use crate::Result;

/// Where the reader that attends to patches looks.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Patches {
    /// The layer of the encoder whose patches it reads: the one that it reads best.
    pub layer: usize,
    /// Cells along each side of a picture.
    pub side: usize,
    /// Some of the pictures that are tested on.
    pub pictures: Vec<Glance>,
}

/// One picture.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
pub struct Glance {
    /// Its file.
    pub path: PathBuf,
    /// The true answer.
    pub truth: String,
    /// What the reader reads.
    pub read: String,
    /// `[side * side]` how much it looks at each cell, row by row: the mean over its queries, which sums
    /// up to 1.
    pub weights: Vec<f32>,
}

/// Pictures that are shown.
const N_SHOWN: usize = 6;

impl Stages<'_> {
    /// Where attention pooling looks in the layer that it reads best; `None` where nothing attends, or
    /// cells make no square.
    pub(super) fn patches(&self, stages: &[Stage], paths: &[PathBuf]) -> Result<Option<Patches>> {
        let of_encoder = stages.iter().filter(|stage| stage.place == Place::Encoder);
        let with_attention =
            of_encoder.filter_map(|stage| Some((stage.layer?, stage.attention?.all.mean)));
        let Some((layer, _)) = with_attention.max_by(|a, b| a.1.total_cmp(&b.1)) else {
            return Ok(None);
        };
        let name = format!("layer.{layer}.cells");
        let width = self.pictures.matrix(&format!("layer.{layer}"), &[0])?.ncols();
        let Some((_, reader, scales)) = self.attention(&name, width)? else { return Ok(None) };
        let test = &self.task.test;
        let shown: Vec<usize> = (0..N_SHOWN.min(test.len()))
            .map(|i| test[i * test.len() / N_SHOWN.min(test.len())])
            .collect();
        let mut values = self.cells(&name, width, &shown)?;
        scales.apply(&mut values);
        let n_cell = values.nrows() / shown.len().max(1);
        let side = n_cell.isqrt();
        if side * side != n_cell || n_cell < 2 {
            return Ok(None);
        }
        let read = reader.read(Cells { values: &values, n_cell });
        let looks = values.axis_chunks_iter(Axis(0), n_cell).map(|x| reader.looks(x));
        let glance = |((&i, read), weights): ((&usize, usize), Vec<f32>)| {
            let item = &self.task.items[i];
            Glance {
                path: paths[item.picture].clone(),
                truth: self.task.answers[item.label].clone(),
                read: self.task.answers[read].clone(),
                weights,
            }
        };
        let pictures = shown.iter().zip(read).zip(looks).map(glance).collect();
        Ok(Some(Patches { layer, side, pictures }))
    }
}
