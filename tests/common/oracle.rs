//! A forward pass of the `llama` architecture in plain f64, written for reading.
//!
//! It computes one sequence from an F32 file, all tokens at once, without a cache. Shapes follow
//! the host's words; a weight `[n_out, n_in]` is applied as `x · Wᵀ` to rows `x` `[n_token, n_in]`.

use std::path::Path;

use candor::gguf::Gguf;
use ndarray::{Array1, Array2, Array3, ArrayView2, Axis, s};

/// The weights of one layer.
struct Layer {
    /// `[n_embd]`
    attn_norm: Array1<f64>,
    /// `[n_head * d_head, n_embd]`
    wq: Array2<f64>,
    /// `[n_head_kv * d_head, n_embd]`
    wk: Array2<f64>,
    /// `[n_head_kv * d_head, n_embd]`
    wv: Array2<f64>,
    /// `[n_embd, n_head * d_head]`
    wo: Array2<f64>,
    /// `[n_embd]`; a baked file has it
    wo_bias: Option<Array1<f64>>,
    /// `[n_embd]`
    ffn_norm: Array1<f64>,
    /// `[n_ff, n_embd]`
    gate: Array2<f64>,
    /// `[n_ff, n_embd]`
    up: Array2<f64>,
    /// `[n_embd, n_ff]`
    down: Array2<f64>,
}

/// A model held in f64.
pub struct Oracle {
    n_head: usize,
    n_head_kv: usize,
    d_head: usize,
    rope_base: f64,
    epsilon: f64,
    /// `[n_vocab, n_embd]`
    token_embd: Array2<f64>,
    layers: Vec<Layer>,
    /// `[n_embd]`
    output_norm: Array1<f64>,
    /// `[n_vocab, n_embd]`
    output: Array2<f64>,
}

/// What a forward pass gives.
pub struct Forward {
    /// Per layer `[n_token, n_head, d_head]`: the heads' outputs, before any edit and before `wo`.
    pub heads: Vec<Array3<f64>>,
    /// Per layer `[n_token, n_embd]`: what it hands on.
    pub outputs: Vec<Array2<f64>>,
    /// `[n_token, n_vocab]`
    pub logits: Array2<f64>,
}

impl Oracle {
    /// Reads an F32 file of the `llama` architecture.
    pub fn open(path: &Path) -> candor::Result<Self> {
        let file = Gguf::open(path)?;
        assert_eq!(file.str("general.architecture")?, "llama");
        let uint =
            |key: &str| file.opt_uint(&format!("llama.{key}")).map(|n| n.map(|n| n as usize));
        let float = |key: &str| file.opt_float(&format!("llama.{key}"));

        let n_layer = uint("block_count")?.expect("n_layer");
        let n_embd = uint("embedding_length")?.expect("n_embd");
        let n_head = uint("attention.head_count")?.expect("n_head");
        let d_head = uint("attention.value_length")?.unwrap_or(n_embd / n_head);
        let token_embd = matrix(&file, "token_embd.weight")?;
        Ok(Self {
            n_head,
            n_head_kv: uint("attention.head_count_kv")?.unwrap_or(n_head),
            d_head,
            rope_base: float("rope.freq_base")?.unwrap_or(10_000.0),
            epsilon: float("attention.layer_norm_rms_epsilon")?.expect("epsilon"),
            layers: (0..n_layer).map(|il| Layer::read(&file, il)).collect::<Result<_, _>>()?,
            output_norm: vector(&file, "output_norm.weight")?,
            output: match file.tensor("output.weight") {
                Some(_) => matrix(&file, "output.weight")?,
                None => token_embd.clone(),
            },
            token_embd,
        })
    }

    /// The pass over these tokens, unedited.
    pub fn forward(&self, tokens: &[i32]) -> Forward {
        self.forward_edited(tokens, |_, _| {})
    }

    /// The pass over these tokens, in which `edit(il, heads)` may change what enters `wo` of each
    /// layer: heads `[n_token, n_head, d_head]`.
    pub fn forward_edited(
        &self,
        tokens: &[i32],
        edit: impl Fn(usize, &mut Array3<f64>),
    ) -> Forward {
        let n_token = tokens.len();
        let rows: Vec<usize> = tokens.iter().map(|&token| token as usize).collect();
        let mut x = self.token_embd.select(Axis(0), &rows);
        let (mut heads, mut outputs) = (Vec::new(), Vec::new());
        for (il, layer) in self.layers.iter().enumerate() {
            let mut head = self.attention(layer, &self.norm(&x, &layer.attn_norm));
            heads.push(head.clone());
            edit(il, &mut head);
            let concatenated = head
                .into_shape_with_order((n_token, self.n_head * self.d_head))
                .expect("heads lie side by side");
            x += &concatenated.dot(&layer.wo.t());
            if let Some(bias) = &layer.wo_bias {
                x += bias;
            }

            let normed = self.norm(&x, &layer.ffn_norm);
            let gate = normed.dot(&layer.gate.t()).mapv(|g| g / (1.0 + (-g).exp()));
            x += &(gate * normed.dot(&layer.up.t())).dot(&layer.down.t());
            outputs.push(x.clone());
        }
        let logits = self.norm(&x, &self.output_norm).dot(&self.output.t());
        Forward { heads, outputs, logits }
    }

    /// Causal attention with grouped queries: `n_head / n_head_kv` query heads read the keys and
    /// values of one head. Input `[n_token, n_embd]`, output `[n_token, n_head, d_head]`.
    fn attention(&self, layer: &Layer, x: &Array2<f64>) -> Array3<f64> {
        let n_token = x.nrows();
        let split = |weight: &Array2<f64>, n_head: usize| {
            x.dot(&weight.t())
                .into_shape_with_order((n_token, n_head, self.d_head))
                .expect("heads lie side by side")
        };
        let q = self.rotate(split(&layer.wq, self.n_head));
        let k = self.rotate(split(&layer.wk, self.n_head_kv));
        let v = split(&layer.wv, self.n_head_kv);

        let mut out = Array3::zeros((n_token, self.n_head, self.d_head));
        for head in 0..self.n_head {
            let head_kv = head / (self.n_head / self.n_head_kv);
            let key = k.slice(s![.., head_kv, ..]);
            let scores = q.slice(s![.., head, ..]).dot(&key.t()) / (self.d_head as f64).sqrt();
            let weights = causal_softmax(scores.view());
            out.slice_mut(s![.., head, ..]).assign(&weights.dot(&v.slice(s![.., head_kv, ..])));
        }
        out
    }

    /// Rotary positions in the order of llama.cpp's `llama` files: the pair `(2i, 2i + 1)` turns by
    /// `position * base^(-2i / d_head)`.
    fn rotate(&self, mut x: Array3<f64>) -> Array3<f64> {
        for ((position, head, i), _) in x.clone().slice(s![.., .., ..;2]).indexed_iter() {
            let exponent = -2.0 * i as f64 / self.d_head as f64;
            let (sin, cos) = (position as f64 * self.rope_base.powf(exponent)).sin_cos();
            let (a, b) = (x[[position, head, 2 * i]], x[[position, head, 2 * i + 1]]);
            x[[position, head, 2 * i]] = a * cos - b * sin;
            x[[position, head, 2 * i + 1]] = a * sin + b * cos;
        }
        x
    }

    /// RMS normalization of each row, times the weight.
    fn norm(&self, x: &Array2<f64>, weight: &Array1<f64>) -> Array2<f64> {
        let mean_square = x.mapv(|x| x * x).mean_axis(Axis(1)).expect("rows have elements");
        let scale = mean_square.mapv(|mean| 1.0 / (mean + self.epsilon).sqrt());
        x * &scale.insert_axis(Axis(1)) * weight
    }
}

impl Layer {
    fn read(file: &Gguf, il: usize) -> candor::Result<Self> {
        let vector = |name: &str| vector(file, &format!("blk.{il}.{name}"));
        let matrix = |name: &str| matrix(file, &format!("blk.{il}.{name}.weight"));
        let has_bias = file.tensor(&format!("blk.{il}.attn_output.bias")).is_some();
        Ok(Self {
            attn_norm: vector("attn_norm.weight")?,
            wq: matrix("attn_q")?,
            wk: matrix("attn_k")?,
            wv: matrix("attn_v")?,
            wo: matrix("attn_output")?,
            wo_bias: has_bias.then(|| vector("attn_output.bias")).transpose()?,
            ffn_norm: vector("ffn_norm.weight")?,
            gate: matrix("ffn_gate")?,
            up: matrix("ffn_up")?,
            down: matrix("ffn_down")?,
        })
    }
}

/// Softmax of each row over the columns up to the diagonal; the rest is zero.
fn causal_softmax(scores: ArrayView2<f64>) -> Array2<f64> {
    let mut weights = Array2::zeros(scores.dim());
    for (i, row) in scores.outer_iter().enumerate() {
        let past = row.slice(s![..=i]);
        let largest = past.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
        let exponentials = past.mapv(|score| (score - largest).exp());
        let sum = exponentials.sum();
        weights.slice_mut(s![i, ..=i]).assign(&(exponentials / sum));
    }
    weights
}

fn vector(file: &Gguf, name: &str) -> candor::Result<Array1<f64>> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("{name} is missing"));
    Ok(file.f32s_of(tensor)?.into_iter().map(f64::from).collect())
}

/// `[ne[1], ne[0]]`
fn matrix(file: &Gguf, name: &str) -> candor::Result<Array2<f64>> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("{name} is missing"));
    let shape = (tensor.dims[1] as usize, tensor.dims[0] as usize);
    Ok(vector(file, name)?.into_shape_with_order(shape).expect("dims were checked"))
}
