//! What the program can do: one file or folder per subcommand.

#[cfg(unix)]
pub(super) mod attach;
pub(super) mod bake;
pub(super) mod bench;
pub(super) mod capture;
pub(super) mod card;
pub(super) mod chat;
pub(super) mod demo;
pub(super) mod devices;
pub(super) mod eval;
pub(super) mod export;
pub(super) mod fit;
pub(super) mod import;
pub(super) mod inspect;
pub(super) mod manual;
pub(super) mod mix;
pub(super) mod run;
#[cfg(feature = "serve")]
pub(super) mod serve;
#[cfg(feature = "sight")]
pub(super) mod sight;
pub(super) mod sweep;
pub(super) mod transfer;
pub(super) mod worker;
