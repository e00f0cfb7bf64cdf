//! A forward pass of an encoder of pictures and its projector in plain f64, written for reading.
//!
//! It follows SigLIP and the two layers of `janus_pro`: patches, learned positions, pre-norm blocks with
//! full attention, a last norm, two matrices with the encoder's activation between. A weight
//! `[n_out, n_in]` is applied as `x · Wᵀ` to rows `x` `[n_place, n_in]`.

use std::path::Path;

use candor::gguf::Gguf;
use candor::vision::{Picture, ProjectorShape};
use half::f16;
use ndarray::{Array1, Array2, Array4, Axis, s};

/// What a pass gives.
pub struct Forward {
    /// Per layer `[n_place, n_head * d_head]`: the heads' outputs before the output projection.
    pub heads: Vec<Array2<f64>>,
    /// Per layer `[n_place, n_embd]`.
    pub layers: Vec<Array2<f64>>,
    /// `[n_token, n_out]`
    pub embedding: Array2<f64>,
}

/// The pass over a picture of exactly the encoder's size. `rounded`: the patches, their kernel, and what
/// goes into GELU and comes out are rounded to F16, as ggml's convolution and its table of GELU do.
pub fn forward(path: &Path, picture: &Picture, rounded: bool) -> Forward {
    let file = Gguf::open(path).expect("the file is sound");
    let shape = ProjectorShape::read(&file).expect("the file is a projector");
    let of = |name: &str| {
        let tensor = file.tensor(name).unwrap_or_else(|| panic!("{name}"));
        let dims: Vec<usize> = tensor.dims.iter().rev().map(|&n| n as usize).collect();
        let values = file.f32s_of(tensor).expect("F32");
        (dims, values.into_iter().map(f64::from).collect::<Vec<f64>>())
    };
    let vector = |name: &str| Array1::from_vec(of(name).1);
    let matrix = |name: &str| {
        let (dims, values) = of(name);
        Array2::from_shape_vec((dims[0], dims[1]), values).expect("two dimensions")
    };
    let linear = |x: &Array2<f64>, name: &str| {
        x.dot(&matrix(&format!("{name}.weight")).t()) + vector(&format!("{name}.bias"))
    };
    let eps = file.opt_float("clip.vision.attention.layer_norm_epsilon").unwrap().unwrap();
    let norm = |x: &Array2<f64>, name: &str| {
        let mut x = x.clone();
        for mut row in x.outer_iter_mut() {
            let mean = row.mean().unwrap();
            row -= mean;
            let variance = row.mapv(|v| v * v).mean().unwrap();
            row /= (variance + eps).sqrt();
        }
        x * vector(&format!("{name}.weight")) + vector(&format!("{name}.bias"))
    };
    let round = |x: f64| if rounded { f16::from_f64(x).to_f64() } else { x };

    // Pixels, normalized in single precision as mtmd does.
    let (p, side, n) = (shape.patch_size, shape.side(), shape.n_embd);
    let floats = |key: &str| file.get(key).unwrap().as_f32s().unwrap().to_vec();
    let (mean, std) = (floats("clip.vision.image_mean"), floats("clip.vision.image_std"));
    let pixel = |x: usize, y: usize, c: usize| {
        let value = f32::from(picture.rgb()[(y * side * p + x) * 3 + c]) / 255.0;
        round(f64::from((value - mean[c]) / std[c]))
    };
    let (dims, kernel) = of("v.patch_embd.weight");
    let kernel = Array4::from_shape_vec((dims[0], dims[1], dims[2], dims[3]), kernel).unwrap();
    let kernel = kernel.mapv(round);
    let bias = vector("v.patch_embd.bias");
    let mut x = Array2::zeros((side * side, n));
    for (place, mut row) in x.outer_iter_mut().enumerate() {
        let (px, py) = (place % side, place / side);
        for (e, value) in row.iter_mut().enumerate() {
            let mut sum = bias[e];
            for c in 0..3 {
                for dy in 0..p {
                    for dx in 0..p {
                        sum += kernel[[e, c, dy, dx]] * pixel(px * p + dx, py * p + dy, c);
                    }
                }
            }
            *value = sum;
        }
    }
    x += &matrix("v.position_embd.weight");

    // ggml reads GELU from a table of F16 values.
    let gelu = |x: f64| {
        let inner = |x: f64| (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
        let exact = |x: f64| 0.5 * x * (1.0 + inner(x).tanh());
        if x.abs() < 10.0 { round(exact(round(x))) } else { exact(x) }
    };
    let (mut heads, mut layers) = (Vec::new(), Vec::new());
    for il in 0..shape.n_layer {
        let name = |part: &str| format!("v.blk.{il}.{part}");
        let normed = norm(&x, &name("ln1"));
        let [q, k, v] = ["attn_q", "attn_k", "attn_v"].map(|part| linear(&normed, &name(part)));
        let d = shape.d_head;
        let mut out = Array2::zeros(x.raw_dim());
        for head in 0..shape.n_head {
            let columns = s![.., head * d..(head + 1) * d];
            let mut scores = q.slice(columns).dot(&k.slice(columns).t()) / (d as f64).sqrt();
            for mut row in scores.axis_iter_mut(Axis(0)) {
                let max = row.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                row.mapv_inplace(|s| (s - max).exp());
                let sum = row.sum();
                row /= sum;
            }
            out.slice_mut(columns).assign(&scores.dot(&v.slice(columns)));
        }
        x = &x + &linear(&out, &name("attn_out"));
        heads.push(out);
        let inner = linear(&norm(&x, &name("ln2")), &name("ffn_up")).mapv(gelu);
        x = &x + &linear(&inner, &name("ffn_down"));
        layers.push(x.clone());
    }
    let last = norm(&x, "v.post_ln");
    let embedding = linear(&linear(&last, "mm.0").mapv(gelu), "mm.1");
    Forward { heads, layers, embedding }
}
