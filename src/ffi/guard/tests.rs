//! Every guarded call throws, and no call goes without a guard or a reason.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_char;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use llama_cpp_sys_2 as llama;

use super::*;
use crate::export::ControlVector;
use crate::ffi::device::{Connection, RawDevice};
use crate::ffi::means::LayerMeans;
use crate::ffi::rehearsal::Rehearsal;
use crate::session::{Batch, Sampler, SamplingParams};
use crate::{Model, ModelParams, Session, SessionParams, Special, SpecialToken};

/// Calls from Rust that can throw nothing, with why. Where a name ends in `*`, all that begin so.
const CANNOT_THROW: [(&str, &str); 56] = [
    ("headtap_*", "C; what of it calls devices is called by llama_decode or guard_headtap_begin"),
    ("ggml_init", "C: no memory is null"),
    ("ggml_free", "C"),
    ("ggml_new_tensor_2d", "C: asserts, and the context has room"),
    ("ggml_reshape_2d", "C: asserts"),
    ("ggml_set_name", "C"),
    ("ggml_tensor_overhead", "C: a constant"),
    ("ggml_is_contiguous", "C: reads a struct"),
    ("ggml_get_type_traits", "C: reads a table"),
    ("ggml_set_abort_callback", "C: stores a pointer"),
    ("llama_set_abort_callback", "stores pointers, in the context and its processor's backend"),
    ("ggml_backend_cpu_buffer_type", "gives the address of a static"),
    ("ggml_backend_dev_count", "reads the registry, which guard_start made"),
    ("ggml_backend_dev_get", "reads the registry at an index below its length"),
    ("ggml_backend_dev_name", "gives a string that the device keeps"),
    ("ggml_backend_dev_description", "gives a string that the device keeps"),
    ("ggml_backend_dev_type", "gives a number that the device keeps"),
    ("ggml_backend_dev_backend_reg", "gives a pointer that the device keeps"),
    ("ggml_backend_reg_name", "gives a string that the registry keeps"),
    ("ggml_backend_reg_by_name", "compares names in the registry"),
    ("ggml_backend_reg_get_proc_address", "compares names and gives a pointer"),
    ("ggml_backend_free", "frees; a destructor ends the process rather than let an exception out"),
    ("ggml_backend_buffer_free", "frees, as above"),
    ("llama_log_set", "stores a pointer"),
    ("llama_model_n_embd_inp", "gives a number that the model keeps"),
    ("llama_set_causal_attn", "stores a flag"),
    ("mtmd_log_set", "stores a pointer"),
    ("mtmd_context_params_default", "fills a struct"),
    ("mtmd_free", "frees, as above"),
    ("mtmd_support_vision", "compares a pointer"),
    ("mtmd_decode_use_mrope", "compares a number that the context keeps"),
    ("mtmd_decode_use_non_causal", "compares a number that the context keeps"),
    ("mtmd_get_output_embd", "gives an address within the context"),
    ("mtmd_input_chunks_size", "gives the length of a list"),
    ("mtmd_input_chunks_get", "gives an address within a list, at an index below its length"),
    ("mtmd_input_chunks_free", "frees, as above"),
    ("mtmd_input_chunk_free", "frees, as above"),
    ("mtmd_input_chunk_get_*", "reads a chunk of the kind asked for"),
    ("mtmd_image_tokens_get_decoder_pos", "computes with numbers; asserts the kind of positions"),
    ("llama_model_default_params", "fills a struct"),
    ("llama_context_default_params", "fills a struct"),
    ("llama_free", "frees, as above"),
    ("llama_sampler_free", "frees, as above"),
    ("llama_get_memory", "gives a pointer that the context keeps"),
    ("llama_memory_can_shift", "compares numbers that the memory keeps"),
    ("llama_model_get_vocab", "gives an address within the model"),
    ("llama_model_has_encoder", "compares the architecture's number"),
    ("llama_model_n_swa", "gives a number that the model keeps"),
    ("llama_n_ctx", "gives a number that the context keeps"),
    ("llama_n_threads", "gives a number that the context keeps"),
    ("llama_n_ubatch", "gives a number that the context keeps"),
    ("llama_vocab_n_tokens", "gives a number that the vocabulary keeps"),
    ("llama_vocab_bos", "gives a number that the vocabulary keeps"),
    ("llama_vocab_eos", "gives a number that the vocabulary keeps"),
    ("llama_vocab_get_add_bos", "gives a flag that the vocabulary keeps"),
    ("llama_vocab_is_eog", "looks a number up in a set"),
];

/// What `llama-cpp-2` is used for: handles that call what stands above, and read plain fields.
const SAFE_LAYER: [&str; 2] = ["llama_backend::LlamaBackend", "model::LlamaModel"];

/// Does what needs a guarded function, calling its argument right before it.
type Trial = fn(&dyn Fn()) -> Result<(), String>;

/// Each guarded function with what comes to grief where it throws.
const GUARDED: [(&CStr, Trial); 28] = [
    (c"guard_start", |arm| {
        arm();
        // SAFETY: starting again is harmless.
        told(call(|fault| unsafe { sys::guard_start(fault) }))
    }),
    (c"guard_dev_memory", |arm| {
        arm();
        some(Some(cpu().memory()).filter(|&(_, total)| total > 0))
    }),
    (c"guard_dev_get_props", |arm| {
        arm();
        // SAFETY: a plain struct of pointers, numbers and flags, filled by the call.
        let mut props: llama::ggml_backend_dev_props = unsafe { std::mem::zeroed() };
        let device = cpu().as_ptr();
        // SAFETY: the device is alive.
        told(call(|fault| unsafe { sys::guard_dev_get_props(device, &raw mut props, fault) }))
    }),
    (c"guard_dev_init", |arm| {
        arm();
        some(Connection::open(cpu()))
    }),
    (c"guard_rpc_add_server", |arm| {
        unsafe extern "C" fn add(_: *const c_char) -> llama::ggml_backend_reg_t {
            std::ptr::null_mut()
        }
        arm();
        // SAFETY: `add` takes anything.
        let add = |fault| unsafe { sys::guard_rpc_add_server(Some(add), c"".as_ptr(), fault) };
        told(call(add))
    }),
    (c"guard_rpc_start_server", |arm| {
        type Devices = *mut llama::ggml_backend_dev_t;
        unsafe extern "C" fn start(
            _: *const c_char,
            _: *const c_char,
            _: usize,
            _: usize,
            _: Devices,
        ) {
        }
        arm();
        // SAFETY: `start` takes anything.
        told(call(|fault| unsafe {
            let (none, endpoint) = (std::ptr::null_mut(), c"".as_ptr());
            sys::guard_rpc_start_server(Some(start), endpoint, 1, 0, none, fault)
        }))
    }),
    (c"guard_alloc_tensors", |arm| {
        arm();
        let made = std::panic::catch_unwind(|| Rehearsal::new(2, 1, 4, 1, 2));
        made.map(drop).map_err(|_| "it has no memory".to_owned())
    }),
    (c"guard_tensor_get", mean_of_a_layer),
    (c"guard_eval", mean_of_a_layer),
    (c"guard_headtap_begin", |arm| {
        let mut session = session()?;
        arm();
        told(session.decode(&mut batch()))
    }),
    (c"guard_model_load", |arm| {
        arm();
        told(Model::load(&demo(), &ModelParams::default()))
    }),
    (c"guard_tokenize", |arm| {
        arm();
        told(model().tokenize("What is this?", Special::None))
    }),
    (c"guard_token_to_piece", |arm| {
        arm();
        some(Some(model().piece(300)).filter(|piece| !piece.is_empty()))
    }),
    (c"guard_token_text", |arm| {
        arm();
        some(Some(model().special_text(SpecialToken::Eos)).filter(|text| !text.is_empty()))
    }),
    (c"guard_context_new", |arm| {
        arm();
        session().map(drop)
    }),
    (c"guard_decode", |arm| {
        let mut session = session()?;
        arm();
        told(session.decode(&mut batch()))
    }),
    (c"guard_logits", |arm| {
        let session = decoded()?;
        arm();
        told(session.logits(1))
    }),
    (c"guard_set_control_vector", |arm| {
        let mut session = session()?;
        let rows = BTreeMap::from([(1, vec![1.0; model().geometry().n_embd])]);
        let vector = ControlVector::new(model().architecture(), rows).expect("it is finite");
        arm();
        told(session.set_control_vector(Some(&vector)))
    }),
    (c"guard_memory_clear", |arm| {
        let mut session = decoded()?;
        arm();
        session.clear();
        some(Some(session.n_token(0)).filter(|&n| n == 0))
    }),
    (c"guard_memory_remove", |arm| {
        let mut session = decoded()?;
        arm();
        some(session.truncate(0, 1).then_some(()))
    }),
    (c"guard_memory_shift", |arm| {
        let mut session = decoded()?;
        arm();
        told(session.shift(0, 0, 1))
    }),
    (c"guard_memory_copy", |arm| {
        let mut session = decoded()?;
        arm();
        told(session.copy(0, 1))
    }),
    (c"guard_memory_last", |arm| {
        let session = decoded()?;
        arm();
        some(Some(session.n_token(0)).filter(|&n| n > 0))
    }),
    (c"guard_state_size", take_state),
    (c"guard_state_get", take_state),
    (c"guard_state_set", |arm| {
        let mut session = decoded()?;
        let state = session.state(0).map_err(|e| e.to_string())?;
        arm();
        told(session.restore(1, &state))
    }),
    (c"guard_sampler_new", |arm| {
        arm();
        told(Sampler::new(&SamplingParams::greedy()))
    }),
    (c"guard_sampler_choose", |arm| {
        let mut sampler = Sampler::new(&SamplingParams::default()).map_err(|e| e.to_string())?;
        arm();
        told(sampler.sample(&[1.0, 2.0]))
    }),
];

/// The same of pictures.
#[cfg(feature = "sight")]
const GUARDED_SIGHT: [(&CStr, Trial); 5] = [
    (c"guard_projector_open", |arm| {
        arm();
        seeing().map(drop)
    }),
    (c"guard_picture_cut", show),
    (c"guard_chunk_copy", show),
    (c"guard_picture_encode", show),
    (c"guard_tensor_zero", |arm| {
        arm();
        // SAFETY: nothing is done with null.
        told(call(|fault| unsafe { sys::guard_tensor_zero(std::ptr::null_mut(), fault) }))
    }),
];
#[cfg(not(feature = "sight"))]
const GUARDED_SIGHT: [(&CStr, Trial); 0] = [];

#[cfg(feature = "sight")]
fn seeing() -> Result<Model, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join("mmproj.gguf");
    let n_out = model().geometry().n_embd;
    crate::vision::tiny_projector(n_out).write(&path).map_err(|error| error.to_string())?;
    let vision = crate::vision::VisionParams { n_threads: Some(1), ..Default::default() };
    let projector = Some((path, vision));
    let loaded = Model::load(&demo(), &ModelParams { projector, ..ModelParams::default() });
    loaded.map_err(|error| error.to_string())
}

#[cfg(feature = "sight")]
fn show(arm: &dyn Fn()) -> Result<(), String> {
    let model = seeing()?;
    let picture = crate::vision::Picture::from_rgb(vec![9; 16 * 16 * 3], 16, 16);
    let picture = picture.map_err(|error| error.to_string())?;
    arm();
    told(model.show(&picture))
}

fn told<T, E: ToString>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| error.to_string())
}

/// Where nothing is what a failure gives.
fn some<T>(value: Option<T>) -> Result<(), String> {
    value.map(drop).ok_or_else(|| "nothing came".to_owned())
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.gguf")
}

fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::load(&demo(), &ModelParams::default()).expect("it is sound"))
}

fn cpu() -> RawDevice {
    let devices = RawDevice::all();
    devices.into_iter().find(|device| device.name() == "CPU").expect("there is a processor")
}

fn params() -> SessionParams {
    SessionParams { n_ctx: 64, n_seq_max: 2, n_threads: Some(1), ..SessionParams::default() }
}

fn session() -> Result<Session, String> {
    Session::new(model(), &params()).map_err(|error| error.to_string())
}

fn batch() -> Batch {
    let mut batch = Batch::new();
    for (position, token) in [1, 300, 301].into_iter().enumerate() {
        let i = batch.push(token, position, &[0]);
        batch.output(i);
    }
    batch
}

fn decoded() -> Result<Session, String> {
    let mut session = session()?;
    session.decode(&mut batch()).map_err(|error| error.to_string())?;
    Ok(session)
}

fn take_state(arm: &dyn Fn()) -> Result<(), String> {
    let mut session = decoded()?;
    arm();
    told(session.state(0))
}

/// What the layers gave is added up, in a context whose heads are steered in the callback.
fn mean_of_a_layer(arm: &dyn Fn()) -> Result<(), String> {
    let geometry = model().geometry();
    let means = LayerMeans::new(geometry.n_layer, geometry.n_embd, 8);
    let session = Session::with_means(model(), &params(), Some(means));
    let mut session = session.map_err(|error| error.to_string())?;
    arm();
    told(session.decode(&mut batch()))?;
    let sums = (0..geometry.n_layer).map(|layer| session.means().and_then(|m| m.sum(layer, 0)));
    if sums.into_iter().all(|sum| sum.is_some()) { Ok(()) } else { Err("a sum is missing".into()) }
}

#[test]
fn every_guarded_call_throws_and_nobody_falls() {
    model();
    for (function, trial) in GUARDED.into_iter().chain(GUARDED_SIGHT) {
        let name = function.to_string_lossy();
        assert_eq!(trial(&|| ()), Ok(()), "{name} as it is");
        let outcome = trial(&|| provoke(Some(function)));
        provoke(None);
        let error = outcome.expect_err(&name);
        let words = ["provoked", "nothing came", "a sum is missing", "no memory", "out of memory"];
        assert!(words.iter().any(|words| error.contains(words)), "{name}: {error}");
        assert_eq!(trial(&|| ()), Ok(()), "{name} afterwards");
    }
}

#[test]
fn every_guarded_function_is_tried() {
    let header = include_str!("../../../vendor/guard.h");
    #[cfg(not(feature = "sight"))]
    let header = header.split("/* ---- pictures ---- */").next().unwrap_or_default();
    let calls = called(header).into_iter().filter(|name| name.starts_with("guard_"));
    let declared: BTreeSet<String> = calls.filter(|name| name != "guard_provoke").collect();
    let tried: BTreeSet<String> = GUARDED
        .iter()
        .chain(&GUARDED_SIGHT)
        .map(|(name, _)| name.to_string_lossy().into_owned())
        .collect();
    assert_eq!(declared, tried);
    assert!(declared.len() > 20, "{declared:?}");
}

/// Names of C functions that are called, or declared, in a text.
fn called(text: &str) -> BTreeSet<String> {
    const PREFIXES: [&str; 6] = ["llama_", "ggml_", "gguf_", "mtmd_", "headtap_", "guard_"];
    let code = text.lines().filter(|line| !line.trim_start().starts_with(['*', '/']));
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for line in code {
        let mut rest = line;
        while let Some(at) = rest.find('(') {
            let (before, after) = rest.split_at(at);
            let start = before.rfind(|c| !is_name(c)).map_or(0, |i| i + 1);
            let name = &before[start..];
            if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                names.insert(name.to_owned());
            }
            rest = &after[1..];
        }
    }
    names
}

/// The sources of the crate without their tests.
fn sources(folder: &Path, each: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(folder).expect("the sources are there") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "tests" {
            sources(&path, each);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            each(&path, &fs::read_to_string(&path).expect("it is text"));
        }
    }
}

#[test]
fn no_call_goes_without_a_guard_or_a_reason() {
    let is_listed = |name: &str| {
        CANNOT_THROW.iter().any(|(known, _)| match known.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *known,
        })
    };
    let mut n_call = 0;
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut |path, text| {
        for name in called(text).iter().filter(|name| !name.starts_with("guard_")) {
            n_call += 1;
            assert!(is_listed(name), "{}: {name} has no guard and no reason", path.display());
        }
        for (_, used) in text.match_indices("llama_cpp_2::").map(|(i, m)| (i, &text[i + m.len()..]))
        {
            let is_known = SAFE_LAYER.iter().any(|known| used.starts_with(known));
            assert!(is_known, "{}: llama_cpp_2::{:.40}", path.display(), used);
        }
    });
    assert!(n_call > 40, "{n_call}");
}
