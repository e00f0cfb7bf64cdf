//! For tests: what a test could not look at on this machine.

use std::io::Write as _;

/// Says that the test at hand ends without having looked at what it is for. `kind` is what the
/// machine lacks: `shared`, `root`, `browser`, `device`, `no-gpu`. Where CANDOR_SKIPPED names a file, a
/// line goes there, which `scripts/skipped.sh` counts.
pub fn skipped(kind: &str, why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    println!("skipped: {test}: {why}");
    let Some(path) = std::env::var_os("CANDOR_SKIPPED") else { return };
    let log = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let line = format!("{kind}\t{}\t{test}\t{why}\n", env!("CARGO_CRATE_NAME"));
    let written = log.and_then(|mut log| log.write_all(line.as_bytes()));
    written.expect("CANDOR_SKIPPED names a file that can be written");
}
