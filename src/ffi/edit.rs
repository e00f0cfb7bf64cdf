//! A function of the caller's that changes what heads or layers give, while llama.cpp waits.
//!
//! Rust runs inside a C callback here. Whatever it panics with is caught before C would see it, and goes
//! on when the decode is over.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

use super::sys;
use super::tap::{Kind, Tap, TapError};
use crate::{Error, Result};

/// What an editor is shown: the heads or the output of one layer, for some tokens of the batch.
#[derive(Debug)]
pub struct Edit<'a> {
    /// The layer.
    pub layer: usize,
    /// Whether its heads or its output.
    pub kind: Kind,
    /// `[n_token]`: the tokens, as indices into the batch.
    pub tokens: &'a [usize],
    /// `[n_token]`: their positions in their sequences.
    pub positions: &'a [usize],
    /// F32 `[n_token, n_head * d_head]` of heads, `[n_token, n_embd]` of an output: as computed, and
    /// steered. What stands here afterwards is what the model goes on with.
    pub values: &'a mut [f32],
}

/// Changes what a model computes, or fails the decode.
pub type Editor = Box<dyn FnMut(Edit) -> Result<()> + Send>;

/// Owns an editor. The context whose tap calls it must be freed before, or have been given another.
pub(super) struct Editing {
    ptr: NonNull<State>,
}

struct State {
    editor: Editor,
    /// Values per token of heads and of an output.
    widths: [usize; 2],
    /// The batch's indices in the order of their computation; empty: as they are.
    order: Vec<usize>,
    /// Of each token of the batch.
    position_of: Vec<usize>,
    tokens: Vec<usize>,
    positions: Vec<usize>,
    failure: Option<Failure>,
}

enum Failure {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

impl Editing {
    pub(super) fn new(editor: Editor, widths: [usize; 2]) -> Self {
        let state = Box::new(State {
            editor,
            widths,
            order: Vec::new(),
            position_of: Vec::new(),
            tokens: Vec::new(),
            positions: Vec::new(),
            failure: None,
        });
        Self { ptr: NonNull::from(Box::leak(state)) }
    }

    /// Makes it the one that a tap calls.
    pub(super) fn attach(&mut self, tap: &mut Tap) -> Result<(), TapError> {
        // SAFETY: the state lives until this is dropped, which the owner does after the tap was given
        // another or its context is freed; it is borrowed between passes only, and `edit` cannot unwind.
        unsafe { tap.set_editor(Some(edit), self.ptr.as_ptr().cast()) }
    }

    /// Announces the order in which a batch is computed, and the positions of its tokens.
    pub(super) fn begin(&mut self, order: Option<&[usize]>, positions: &[i32]) {
        // SAFETY: no pass runs while `self` is borrowed mutably: a decode borrows the context, its owner.
        let state = unsafe { self.ptr.as_mut() };
        state.order.clear();
        state.order.extend(order.into_iter().flatten());
        state.position_of.clear();
        let places = positions.iter().map(|&position| usize::try_from(position).unwrap_or(0));
        state.position_of.extend(places);
        state.failure = None;
    }

    /// Why the last pass failed, where the editor failed it; its panic goes on.
    pub(super) fn failure(&mut self) -> Option<Error> {
        // SAFETY: as in `begin`.
        match unsafe { self.ptr.as_mut() }.failure.take()? {
            Failure::Error(error) => Some(error),
            Failure::Panic(panic) => resume_unwind(panic),
        }
    }
}

impl Drop for Editing {
    fn drop(&mut self) {
        // SAFETY: made by `Box::leak`, freed once.
        drop(unsafe { Box::from_raw(self.ptr.as_ptr()) });
    }
}

/// Called by the tap.
unsafe extern "C" fn edit(
    user_data: *mut c_void,
    kind: sys::headtap_kind,
    il: i32,
    n_token: i32,
    tokens: *const i32,
    values: *mut f32,
) -> bool {
    // SAFETY: the data is the `State` of the `Editing` that the context owns; nothing else borrows it
    // during a pass.
    let state = unsafe { &mut *user_data.cast::<State>() };
    // A state that a panic left behind is not used before it is set anew.
    let result = catch_unwind(AssertUnwindSafe(|| {
        let n_token = usize::try_from(n_token).unwrap_or(0);
        let kind = if kind == sys::HEADTAP_OUTPUT { Kind::Output } else { Kind::Heads };
        let width = state.widths[usize::from(kind == Kind::Output)];
        // SAFETY: the tap gives as many places as tokens, and as many columns of the node's width, which
        // it has checked to be the site's.
        let (places, values) = unsafe {
            let places = std::slice::from_raw_parts(tokens, n_token);
            (places, std::slice::from_raw_parts_mut(values, n_token * width))
        };
        let State { order, position_of, tokens, positions, .. } = state;
        tokens.clear();
        tokens.extend(places.iter().map(|&place| {
            let place = usize::try_from(place).unwrap_or(usize::MAX);
            order.get(place).copied().unwrap_or(place)
        }));
        positions.clear();
        let position = |token: &usize| position_of.get(*token).copied().unwrap_or(0);
        positions.extend(tokens.iter().map(position));
        let layer = usize::try_from(il).unwrap_or(usize::MAX);
        (state.editor)(Edit {
            layer,
            kind,
            tokens: &state.tokens,
            positions: &state.positions,
            values,
        })
    }));
    let failure = match result {
        Ok(Ok(())) => return true,
        Ok(Err(error)) => Failure::Error(error),
        Err(panic) => Failure::Panic(panic),
    };
    state.failure = Some(failure);
    false
}
