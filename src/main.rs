//! The `candor` program. Everything it does is in the library; see `src/cli`.

/// A model's chat template may be a stranger's, and does not get all memory.
#[global_allocator]
static ALLOCATOR: candor::Bounded = candor::Bounded::system();

fn main() -> std::process::ExitCode {
    candor::cli::main()
}
