//! Conversations with a model: its chat template, answers that stream, and what probes read in them.

mod completion;
mod confine;
mod conversation;
mod message;
mod meter;
mod template;
mod transcript;

pub use self::completion::{Completion, CompletionParams, Ending, complete};
pub use self::conversation::{Conversation, Turn};
pub use self::message::{Message, Role};
pub use self::meter::Meter;
pub use self::template::{ChatTemplate, prompt_tokens};
pub use self::transcript::Transcript;
