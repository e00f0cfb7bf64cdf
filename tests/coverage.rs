//! How often the 95 % intervals hold the truth, by simulation.

#[path = "../examples/common/simulation.rs"]
mod simulation;

use simulation::{NS, PS, Row, coverage};

#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    for Row { what, n, of } in coverage(2000) {
        println!("{what:<28} n {n:>3}: {of:.3?}");
        for (p, share) in PS.into_iter().zip(of) {
            // A simulation of 2,000 is itself off by up to 1.5 points.
            let least = if what.starts_with("values") { 0.88 } else { 0.93 - 0.015 };
            // Where hardly any pair differs, no interval can be exact: a step of one pair takes it from
            // 92 to 99 %.
            let most =
                if what.ends_with("alike") || what.starts_with("values") { 1.0 } else { 0.98 };
            assert!((least..=most).contains(&share), "{what}, p {p}, n {n}: {share}");
        }
    }
    assert_eq!(NS, [20, 100, 800]);
}

/// Shares without chance: every number of right answers, weighed by how probable it is.
#[test]
fn shares_are_covered_exactly_so() {
    for n in NS {
        for p in PS {
            let share = simulation::exact_coverage(n, p);
            println!("shares, n {n}, p {p}: {share:.4}");
            assert!((0.93..=0.98).contains(&share), "n {n}, p {p}: {share}");
        }
    }
}
