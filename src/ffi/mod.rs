//! The only room that knows C: handles that own what they point to, and the calls on them. What else
//! is unsafe lives here, too: memory maps and an allocator.
//!
//! Three layers, each thin: the declarations ([`sys`] for the tap and the guard, `llama_cpp_sys_2` for
//! the host), the handles with `Drop` ([`tap::Tap`], [`context::Context`]), and, outside this room,
//! the safe API (`Model`, `Session`). No Rust code runs inside a C callback except the log sink and
//! [`means`], which cannot panic, and [`edit`], which catches; no C++ exception comes out of a call ([`guard`]).

pub(crate) mod bounded;
pub(crate) mod context;
pub(crate) mod dequantize;
pub(crate) mod device;
pub(crate) mod edit;
pub(crate) mod guard;
pub(crate) mod host;
pub(crate) mod map;
pub(crate) mod means;
#[cfg(feature = "sight")]
pub(crate) mod mtmd;
#[cfg(feature = "sight")]
pub(crate) mod nodes;
pub(crate) mod rehearsal;
pub(crate) mod sampler;
pub(crate) mod tap;
#[cfg(test)]
mod tests;
pub(crate) mod vocab;

/// Declarations of `vendor/headtap.h` and `vendor/guard.h`, made by bindgen.
#[allow(non_camel_case_types, non_upper_case_globals, dead_code, missing_docs)]
pub(crate) mod sys {
    include!(concat!(env!("OUT_DIR"), "/headtap.rs"));
}
