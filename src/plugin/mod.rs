//! Steering programs that run llama.cpp already, without a change to them.
//!
//! A small library, [`LIBRARY`], is loaded before the program's own (`LD_PRELOAD`, on macOS
//! `DYLD_INSERT_LIBRARIES`). It stands in for a few functions that libllama calls in libggml, proves
//! that the program's tensors are laid out as expected, tells the model by its layers and weights, and
//! adds to the heads what a [`Plan`] says, in the same place and by the same code as a
//! [`Session`](crate::Session). The plan of a running program is asked for and changed through a
//! [`Socket`]. Sources and protocol: `vendor/headtap_preload.c`, `headtap_plan.h`,
//! `headtap_control.c`.

mod plan;
mod socket;

pub use self::plan::{DEFAULT_SLOT, Plan};
#[cfg(feature = "cli")]
pub(crate) use self::socket::sweep;
pub use self::socket::{Socket, Status, runtime_folder};

/// The library, as it was built with this crate: ELF on Linux, Mach-O on macOS.
pub const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libheadtap-preload"));

/// The environment variable that names libraries to load before a program's own.
#[cfg(target_os = "macos")]
pub const PRELOAD: &str = "DYLD_INSERT_LIBRARIES";
/// The environment variable that names libraries to load before a program's own.
#[cfg(not(target_os = "macos"))]
pub const PRELOAD: &str = "LD_PRELOAD";

/// The environment variable that names the file of the plan.
pub const PLAN: &str = "CANDOR_PLAN";
/// The environment variable that holds the number of the process to steer, which speaks on stderr even
/// where it finds no llama.cpp.
pub const PLAN_PID: &str = "CANDOR_PLAN_PID";
