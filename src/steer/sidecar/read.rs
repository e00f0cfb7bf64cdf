//! From a file to a sidecar. Nothing in the file is believed.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;

use super::{About, Evidence, FORMAT, FORMAT_LAYERS, HUB, KIND, Sidecar, TYPE, layer_direction};
use crate::error::{shown, shown_up_to};
use crate::export::CONTROL_VECTOR;
use crate::gguf::{Gguf, TensorInfo};
use crate::probe::Probe;
use crate::steer::{DirectionKind, LayerVector, Method, Selection, SteeredHead, SteeringVector};
use crate::{Error, Result, Site};

/// Files up to this size, which sidecars are far below, are read rather than mapped: a server looks at
/// them while others write them.
const N_READ: u64 = 64 << 20;
/// The tensors of one layer.
const TENSORS: [&str; 7] =
    ["head", "direction", "sigma", "accuracy", "probe.weight", "probe.bias", LAYER];
/// The one that is not of its heads.
const LAYER: &str = "layer_direction";

pub(super) fn read(path: &Path) -> Result<Sidecar> {
    let file = Gguf::open_with(path, N_READ)?;
    // From here on the file is sound GGUF: what is wrong now is wrong with the sidecar.
    content(&file).map_err(|error| match error {
        Error::Gguf { path, place, problem } => Error::Sidecar { path, place, problem },
        Error::Invalid { what: place, problem } => {
            Error::Sidecar { path: path.to_owned(), place, problem }
        }
        other => other,
    })
}

fn content(file: &Gguf) -> Result<Sidecar> {
    let format = check_kind(file)?;
    let about = about(file)?;
    if format == FORMAT && about.direction == DirectionKind::Given {
        let problem = "is `given`, which this format does not know";
        return Err(file.fault("key candor.direction", problem));
    }
    let [n_layer, n_head, d_head] =
        [size(file, "candor.n_layer")?, size(file, "candor.n_head")?, size(file, "candor.d_head")?];
    let heads = heads(file, d_head, format)?;
    let k = size(file, "candor.k")?;
    if k != heads.len() {
        let problem = format!("is {k}, and the tensors hold {} heads", heads.len());
        return Err(file.fault("key candor.k", problem));
    }
    let vector = match layers(file, n_layer, format)? {
        None => SteeringVector::new(n_layer, n_head, d_head, heads)?,
        Some(layers) if heads.is_empty() => SteeringVector::of_layers(n_head, d_head, layers)?,
        Some(layers) => SteeringVector::new(n_layer, n_head, d_head, heads)?.with_layers(layers)?,
    };
    let vector = match super::scale::read(file, d_head)? {
        None => vector,
        Some(calibration) => vector.with_calibration(calibration)?,
    };
    let sidecar = Sidecar { vector, about };
    sidecar.check().map_err(|(place, problem)| file.fault(place, problem))?;
    Ok(sidecar)
}

/// Refuses what is not a sidecar of a format that is known; gives the format.
fn check_kind(file: &Gguf) -> Result<u32> {
    if file.opt_str("general.architecture")? == Some(CONTROL_VECTOR) {
        let problem = "is of a control vector of llama.cpp: `candor import` makes a sidecar of it";
        return Err(file.fault("key general.architecture", problem));
    }
    let kind = file.opt_str("general.type")?.unwrap_or("model");
    if kind != TYPE {
        let problem = format!(
            "is `{}`, expected `{TYPE}`: this is not a sidecar, give it with -m",
            shown(kind)
        );
        return Err(file.fault("key general.type", problem));
    }
    let method = file.str("adapter.type")?;
    if method != KIND {
        let problem = format!("is `{}`, expected `{KIND}`: another kind of adapter", shown(method));
        return Err(file.fault("key adapter.type", problem));
    }
    let number = file.uint("candor.format")?;
    let known = [FORMAT, FORMAT_LAYERS].into_iter().find(|&known| u64::from(known) == number);
    let Some(format) = known else {
        let problem = format!(
            "is {number}, expected {FORMAT} or {FORMAT_LAYERS}: a newer candor may read it"
        );
        return Err(file.fault("key candor.format", problem));
    };
    let method = file.str("candor.method")?;
    if !Method::ALL.iter().any(|known| known.name() == method) {
        let known = Method::ALL.map(|known| format!("`{known}`")).join(", ");
        let problem =
            format!("is `{}`, expected {known}: a newer candor may read it", shown(method));
        return Err(file.fault("key candor.method", problem));
    }
    Ok(format)
}

fn about(file: &Gguf) -> Result<About> {
    let text = |key: &str| file.str(key).map(str::to_owned);
    let opt_text = |key: &str| file.opt_str(key).map(|text| text.map(str::to_owned));
    let f32s = |key: &str| file.opt_f32s(key).map(|values| values.unwrap_or_default().to_vec());
    Ok(About {
        architecture: text("general.architecture")?,
        name: text("general.name")?,
        description: opt_text("general.description")?,
        license: opt_text("general.license")?,
        author: opt_text("general.author")?,
        languages: file.opt_strings("general.languages")?.unwrap_or_default().to_vec(),
        model_name: text("general.base_model.0.name")?,
        base_model: file
            .opt_str("general.base_model.0.repo_url")?
            .and_then(|url| url.strip_prefix(HUB))
            .map(str::to_owned),
        model_fingerprint: text("candor.model.fingerprint")?,
        candor_version: text("candor.version")?,
        method: word(file, "candor.method")?,
        direction: word(file, "candor.direction")?,
        alpha: file.float("candor.alpha")? as f32,
        positions: word(file, "candor.positions")?,
        seed: file.uint("candor.seed")?,
        data_name: text("candor.data.name")?,
        data_sha256: text("candor.data.sha256")?,
        prompt: text("candor.prompt")?,
        split: text("candor.split")?,
        selection: match file.opt_str("candor.selection")? {
            Some(_) => word(file, "candor.selection")?,
            None => Selection::default(),
        },
        head_accuracy: f32s("candor.head_accuracy")?,
        head_effect: f32s("candor.head_effect")?,
        head_cost: f32s("candor.head_cost")?,
        evidence: Evidence::read(file)?,
    })
}

/// A string that is one of a few.
fn word<T: FromStr<Err = Error>>(file: &Gguf, key: &str) -> Result<T> {
    // None of them is longer than what a message quotes.
    shown_up_to(80, file.str(key)?)
        .parse()
        .map_err(|error: Error| file.fault(format!("key {key}"), error.to_string()))
}

/// A number of things.
fn size(file: &Gguf, key: &str) -> Result<usize> {
    let number = file.uint(key)?;
    usize::try_from(number)
        .map_err(|_| file.fault(format!("key {key}"), format!("is {number}, out of range")))
}

/// The directions of layers, where the file has any.
fn layers(file: &Gguf, n_layer: usize, format: u32) -> Result<Option<LayerVector>> {
    let mut directions = BTreeMap::new();
    for tensor in file.tensors() {
        if let Some((layer, LAYER)) = layer_of(&tensor.name) {
            directions.insert(layer, tensor);
        }
    }
    if directions.is_empty() || format == FORMAT {
        return Ok(None);
    }
    let n_embd = size(file, "candor.n_embd")?;
    let direction = |(layer, tensor): (usize, &TensorInfo)| {
        if tensor.dims != [n_embd as u64] {
            let problem = format!("has shape {:?}, expected [{n_embd}]", tensor.dims);
            return Err(file.fault(format!("tensor {}", layer_direction(layer)), problem));
        }
        Ok((layer, file.f32s_of(tensor)?))
    };
    let directions = directions.into_iter().map(direction).collect::<Result<_>>()?;
    LayerVector::new(n_layer, n_embd, directions).map(Some)
}

/// The heads of all layers.
fn heads(file: &Gguf, d_head: usize, format: u32) -> Result<Vec<SteeredHead>> {
    let mut heads = Vec::new();
    for tensor in file.tensors() {
        let (layer, kind) = layer_of(&tensor.name)
            .filter(|&(_, kind)| kind != LAYER || format != FORMAT)
            .ok_or_else(|| {
                file.fault(format!("tensor {}", shown(&tensor.name)), "does not belong here")
            })?;
        if kind == LAYER {
            continue;
        }
        if kind == "head" {
            heads.extend(layer_heads(file, layer, d_head)?);
        } else {
            // The heads say which layers there are; every other tensor needs them beside it.
            tensor_of(file, layer, "head")?;
        }
    }
    Ok(heads)
}

/// The layer and the kind of a tensor: `blk.<l>.<kind>`.
fn layer_of(name: &str) -> Option<(usize, &str)> {
    let (layer, kind) = name.strip_prefix("blk.")?.split_once('.')?;
    let number: usize = layer.parse().ok()?;
    (number.to_string() == layer && TENSORS.contains(&kind)).then_some((number, kind))
}

fn tensor_of<'a>(file: &'a Gguf, layer: usize, kind: &str) -> Result<&'a TensorInfo> {
    let name = format!("blk.{layer}.{kind}");
    file.tensor(&name).ok_or_else(|| file.fault(format!("tensor {name}"), "is missing"))
}

fn layer_heads(file: &Gguf, layer: usize, d_head: usize) -> Result<Vec<SteeredHead>> {
    let ids = tensor_of(file, layer, "head")?;
    let [n] = ids.dims[..] else {
        let problem = format!("has shape {:?}, expected one dimension", ids.dims);
        return Err(file.fault(format!("tensor {}", ids.name), problem));
    };
    let values = |kind: &str, dims: &[u64]| {
        let tensor = tensor_of(file, layer, kind)?;
        if tensor.dims != dims {
            let problem = format!("has shape {:?}, expected {dims:?}", tensor.dims);
            return Err(file.fault(format!("tensor {}", tensor.name), problem));
        }
        file.f32s_of(tensor)
    };
    let rows = [d_head as u64, n];
    let directions = values("direction", &rows)?;
    let sigmas = values("sigma", &[n])?;
    let accuracies = values("accuracy", &[n])?;
    let weights = values("probe.weight", &rows)?;
    let biases = values("probe.bias", &[n])?;

    let row = |values: &[f32], i: usize| values[i * d_head..(i + 1) * d_head].to_vec();
    let head = |(i, id): (usize, i32)| {
        let head = usize::try_from(id).map_err(|_| {
            file.fault(
                format!("tensor {}", ids.name),
                format!("holds {id}, expected a head from 0"),
            )
        })?;
        Ok(SteeredHead {
            site: Site::new(layer, head),
            direction: row(&directions, i),
            sigma: sigmas[i],
            accuracy: accuracies[i],
            probe: Probe { weight: row(&weights, i), bias: biases[i] },
        })
    };
    file.i32s_of(ids)?.into_iter().enumerate().map(head).collect()
}
