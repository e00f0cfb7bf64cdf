//! Prints how often candor's 95 % intervals hold the truth, by simulation:
//! `cargo run --release --example coverage`.

#[path = "common/simulation.rs"]
mod simulation;

use simulation::{NS, PS, coverage, exact_coverage};

fn main() {
    println!("{:<28} {:>4} {:>8.2?}", "share of samples, p", "n", PS);
    for row in coverage(20_000) {
        println!("{:<28} {:>4} {:>8.3?}", row.what, row.n, row.of);
    }
    for n in NS {
        println!("{:<28} {n:>4} {:>8.3?}", "shares, computed", PS.map(|p| exact_coverage(n, p)));
    }
}
