//! The pieces that are candor's own, each asserting its answer: `cargo bench`.
//!
//! What they add to a model's work is measured by `candor bench`.

use std::hint::black_box;

use candor::capture::plan::{Limits, Text, plan};
use candor::probe::{Probe, fit_probe};
use candor::steer::{About, DirectionKind, Positions, Sidecar, SteeredHead, SteeringVector};
use candor::{Rehearsal, Site};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ndarray::Array2;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

fn values(rng: &mut ChaCha8Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// A vector of random unit directions in these heads.
fn vector(n_layer: usize, n_head: usize, d_head: usize, sites: Vec<Site>) -> SteeringVector {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let head = |site| {
        let direction = values(&mut rng, d_head);
        let length = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
        SteeredHead {
            site,
            direction: direction.iter().map(|x| x / length).collect(),
            sigma: 0.1,
            accuracy: 0.75,
            probe: Probe { weight: values(&mut rng, d_head), bias: 0.1 },
        }
    };
    let heads = sites.into_iter().map(head).collect();
    SteeringVector::new(n_layer, n_head, d_head, heads).expect("a sound vector")
}

/// A sidecar of a 7B model's geometry: 32 layers of 32 heads of 128, 48 of them steered.
fn sidecar() -> Sidecar {
    let sites = (0..48).map(|i| Site::new(i % 32, i / 2)).collect();
    Sidecar {
        vector: vector(32, 32, 128, sites),
        about: About {
            architecture: "llama".to_owned(),
            name: "bench".to_owned(),
            description: None,
            license: None,
            author: None,
            languages: Vec::new(),
            base_model: None,
            model_name: "a model".to_owned(),
            model_fingerprint: "0".repeat(64),
            candor_version: env!("CARGO_PKG_VERSION").to_owned(),
            direction: DirectionKind::MassMean,
            alpha: 15.0,
            positions: Positions::Generated,
            seed: 0,
            data_name: "data".to_owned(),
            data_sha256: "0".repeat(64),
            prompt: "Q: {question} A: {answer}".to_owned(),
            split: "80 % of the questions".to_owned(),
            head_accuracy: vec![0.5; 32 * 32],
            head_effect: Vec::new(),
            head_cost: Vec::new(),
            method: Default::default(),
            selection: Default::default(),
            evidence: Default::default(),
        },
    }
}

fn sidecar_file(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("steer.gguf");
    let sidecar = sidecar();
    sidecar.write(&path).expect("it is written");
    let size = std::fs::metadata(&path).expect("it was written").len();
    assert!(size < 150_000, "{size} bytes");
    criterion.bench_function("sidecar/write 48 heads of 128", |bencher| {
        bencher.iter(|| sidecar.write(&path).expect("it is written"));
    });
    criterion.bench_function("sidecar/read 48 heads of 128", |bencher| {
        bencher.iter(|| Sidecar::read(black_box(&path)).expect("it is read"));
    });
    assert_eq!(Sidecar::read(&path).expect("it is read"), sidecar);
}

/// Two clouds of 128 values whose means differ a little.
fn probe_fit(criterion: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let labels: Vec<bool> = (0..4700).map(|_| rng.random()).collect();
    let difference = values(&mut rng, 128);
    let mut x = Array2::from_shape_simple_fn((4700, 128), || rng.random_range(-1.0f32..1.0));
    for (mut row, &label) in x.outer_iter_mut().zip(&labels) {
        let sign = if label { 0.1 } else { -0.1 };
        row.iter_mut().zip(&difference).for_each(|(x, d)| *x += sign * d);
    }
    let mut group = criterion.benchmark_group("probe");
    group.sample_size(20);
    group.bench_function("fit 4700 rows of 128", |bencher| {
        bencher.iter(|| fit_probe(black_box(x.view()), &labels).expect("it fits"));
    });
    let probe = fit_probe(x.view(), &labels).expect("it fits");
    assert!(probe.accuracy(x.view(), &labels) > 0.75);
    group.finish();
}

/// 817 questions of 50 tokens after a preamble of 100, with seven answers of 10 each.
fn planner(criterion: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let mut tokens =
        |n: usize| -> Vec<i32> { (0..n).map(|_| rng.random_range(0..32_000)).collect() };
    let preamble = tokens(100);
    let texts: Vec<Text> = (0..817)
        .flat_map(|_| {
            let question = [preamble.clone(), tokens(50)].concat();
            (0..7).map(|_| Text::plain([question.clone(), tokens(10)].concat())).collect::<Vec<_>>()
        })
        .collect();
    let limits = Limits { n_token: 512, longest: 2048, n_seq: 64 };
    let plan = || plan(black_box(&texts), limits, |i| format!("text {i}")).expect("all texts fit");
    let n_token: usize = plan().iter().map(|batch| batch.n_token()).sum();
    let n_whole: usize = texts.iter().map(|text| text.tokens.len()).sum();
    assert!(n_whole > 5 * n_token, "{n_token} of {n_whole}");

    let mut group = criterion.benchmark_group("planner");
    group.throughput(Throughput::Elements(texts.len() as u64));
    group.bench_function("plan 5719 texts", |bencher| bencher.iter(plan));
    let batches = plan();
    group.throughput(Throughput::Elements(batches[0].n_token() as u64));
    group.bench_function("lay out one batch", |bencher| {
        bencher.iter(|| batches[0].to_batch(black_box(&texts)));
    });
    group.finish();
}

/// The tap before a graph of 2,000 nodes, 32 of which are attention outputs of width 4096: what it
/// adds to a decode of one token and to a batch of 512, and what a change of the vector adds.
fn tap(criterion: &mut Criterion) {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let offset = values(&mut rng, 4096);
    let mut group = criterion.benchmark_group("tap");

    let mut one = Rehearsal::new(2000, 32, 4096, 1, 2);
    group.bench_function("ask about 2000 nodes, nothing to add", |bencher| {
        bencher.iter(|| one.pass(black_box(&[0])));
    });
    assert_eq!(one.n_in_graph(), 0);
    one.set_row(1, &offset);
    group.bench_function("ask about 2000 nodes, 32 steered", |bencher| {
        bencher.iter(|| one.pass(black_box(&[1])));
    });
    assert_eq!((one.pass(&[1]), one.n_in_graph()), (0, 32));
    group.bench_function("the same after a row was rewritten", |bencher| {
        bencher.iter(|| {
            one.set_row(1, black_box(&offset));
            one.pass(&[1])
        });
    });

    let mut batch = Rehearsal::new(2000, 32, 4096, 512, 33);
    (1..33).for_each(|row| batch.set_row(row, &offset));
    // Every pass has other rows than the one before, so that they are uploaded each time.
    let rows = [0, 1].map(|shift| (0..512).map(|i| (i + shift) % 33).collect::<Vec<i32>>());
    let mut turn = 0;
    group.bench_function("ask about 2000 nodes, 512 tokens of 33 rows", |bencher| {
        bencher.iter(|| {
            turn = 1 - turn;
            batch.pass(black_box(&rows[turn]))
        });
    });
    assert_eq!((batch.pass(&rows[0]), batch.n_in_graph()), (0, 32));
    group.finish();
}

criterion_group!(pieces, sidecar_file, probe_fit, planner, tap);
criterion_main!(pieces);
