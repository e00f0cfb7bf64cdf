//! Samples of known means, and how often their intervals hold them.

use candor::study::Sample;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// True shares.
pub const PS: [f64; 5] = [0.02, 0.1, 0.5, 0.9, 0.98];
/// Questions.
pub const NS: [usize; 3] = [20, 100, 800];

/// How often an interval held the truth, for each of [`PS`].
pub struct Row {
    pub what: &'static str,
    pub n: usize,
    pub of: [f64; 5],
}

/// The right answers among questions that two models find about equally hard: of half of them both
/// know as much.
fn pair(rng: &mut ChaCha8Rng, [p, q]: [f64; 2]) -> [f64; 2] {
    let u: f64 = rng.random();
    let v: f64 = if rng.random_bool(0.5) { u } else { rng.random() };
    [f64::from(u8::from(u < p)), f64::from(u8::from(v < q))]
}

/// A value from 0 to 1 with mean `p`, mostly near it.
fn between(rng: &mut ChaCha8Rng, p: f64) -> f64 {
    let x: f64 = rng.random();
    // The mean of x^k is 1 / (k + 1).
    if p < 0.5 { x.powf(1.0 / p - 1.0) } else { 1.0 - x.powf(1.0 / (1.0 - p) - 1.0) }
}

/// Simulates: shares; changes from a base that is right in 40 %, and from one that is right as often;
/// means of values between 0 and 1.
pub fn coverage(n_repeat: usize) -> Vec<Row> {
    let mut rng = ChaCha8Rng::seed_from_u64(17);
    let mut rows = Vec::new();
    for n in NS {
        let mut row = |what, holds: &mut dyn FnMut(&mut ChaCha8Rng, f64) -> bool| {
            let of = PS.map(|p| {
                let hits = (0..n_repeat).filter(|_| holds(&mut rng, p)).count();
                hits as f64 / n_repeat as f64
            });
            rows.push(Row { what, n, of });
        };
        row("shares", &mut |rng, p| {
            let values: Vec<f64> = (0..n).map(|_| pair(rng, [p, p])[0]).collect();
            let of = Sample::of(&values).share().expect("items");
            (of.low..=of.high).contains(&p)
        });
        let mut changes = |what, base: fn(f64) -> f64| {
            row(what, &mut |rng, p| {
                let values: Vec<f64> = (0..n)
                    .map(|_| {
                        let [before, after] = pair(rng, [base(p), p]);
                        after - before
                    })
                    .collect();
                let of = Sample::of(&values).change().expect("items");
                (of.low..=of.high).contains(&(p - base(p)))
            });
        };
        changes("paired, the base at 40 %", |_| 0.4);
        changes("paired, both alike", |p| p);
        row("values between 0 and 1", &mut |rng, p| {
            let values: Vec<f64> = (0..n).map(|_| between(rng, p)).collect();
            let of = Sample::of(&values).share().expect("items");
            (of.low..=of.high).contains(&p)
        });
    }
    rows
}

/// How often the interval of a share holds it, over all that can come out.
pub fn exact_coverage(n: usize, p: f64) -> f64 {
    let mut log_ways = 0.0_f64;
    let mut held = 0.0;
    for n_right in 0..=n {
        let probability =
            (log_ways + n_right as f64 * p.ln() + (n - n_right) as f64 * (1.0 - p).ln()).exp();
        let values: Vec<f64> = (0..n).map(|i| f64::from(u8::from(i < n_right))).collect();
        let of = Sample::of(&values).share().expect("items");
        if (of.low..=of.high).contains(&p) {
            held += probability;
        }
        log_ways += ((n - n_right) as f64 / (n_right + 1) as f64).ln();
    }
    held
}
