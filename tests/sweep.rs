//! A sweep measures what the evaluator measures, goes on where it was stopped, and recommends from
//! development data alone.

mod common;

use std::cell::Cell;

use candor::data::{Dataset, PromptForm, Question};
use candor::eval::{Evaluator, McScore};
use candor::ledger::Ledger;
use candor::select::{Grid, Journal, SelectParams};
use candor::steer::{Development, DirectionKind, FitParams, Selection, SigmaFrom};
use candor::study::{Axes, Protocol, Record, Sweep, n_token, sweep};
use candor::{Error, Model, ModelParams, Result};
use common::fixture::{Arch, Fixture};
use common::leaning::{DOCUMENTS, Leaning, data, exact_evaluator, source};
use serde_json::Value;

const BUDGET: f64 = 0.4;

struct Room {
    model: Model,
    folder: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = Fixture::new(Arch::Llama).write(folder.path());
        let params = ModelParams::default().with_n_gpu_layers(Some(0));
        Self { model: common::opened(&path, &params).expect("a fixture loads"), folder }
    }

    fn evaluator(&self) -> Evaluator {
        exact_evaluator(&self.model)
    }

    fn source(&self, data: &Dataset, spoilt: std::ops::Range<usize>) -> Leaning {
        source(data, self.model.geometry(), spoilt)
    }

    fn sweep<'a>(&self, data: &'a Dataset, source: &Leaning, neutral: [&'a str; 4]) -> Sweep<'a> {
        let protocol = protocol(data, neutral, Selection::Accuracy);
        let ledger = &mut Ledger::in_memory();
        sweep(&mut self.evaluator(), source, &protocol, &axes(), ledger, journal, || Ok(()))
            .unwrap()
    }
}

fn form() -> PromptForm {
    PromptForm::parse("Q: {question} A: {answer}").expect("a sound form")
}

fn protocol<'a>(data: &'a Dataset, neutral: [&'a str; 4], selection: Selection) -> Protocol<'a> {
    Protocol::new(data, form(), neutral.to_vec())
        .with_gate(None)
        .with_preamble(String::new())
        .with_instruction("say yes".to_owned())
        .with_shuffle(false)
        .with_direction(DirectionKind::MassMean)
        .with_selection(selection)
        .with_select(
            SelectParams::default()
                .with_n_screen([3, 1])
                .with_n_leader(2)
                .with_n_full([4, 2])
                .with_n_part(4),
        )
        .with_sigma(SigmaFrom::Development)
        .with_grid(
            Grid::default().with_ks(vec![1, 4]).with_alphas(Vec::new()).with_kl_budget(BUDGET),
        )
        .with_n_random(2)
        .with_n_predict(3)
        .with_n_example(0)
        .with_seed(3)
}

fn axes() -> Axes {
    Axes::default()
        .with_directions(vec![DirectionKind::MassMean, DirectionKind::Probe])
        .with_alphas(Some(vec![0.0, 0.5, 20.0]))
        .with_is_budget_strict(true)
}

fn journal(_: &str) -> Result<Journal> {
    Ok(Journal::in_memory())
}

/// What llama.cpp's sums may differ by, relative, where the cache was filled in another order.
const TOLERANCE: f64 = 1e-4;

fn is_close(a: f64, b: f64) -> bool {
    (a - b).abs() <= TOLERANCE * b.abs().max(0.01)
}

/// Everything that a sweep gives.
fn everything(sweep: &Sweep) -> Value {
    serde_json::json!([
        sweep.cells,
        sweep.recommended,
        sweep.overall,
        sweep.report.rows(),
        sweep.report.folds,
        sweep.report.questions(),
    ])
}

fn assert_same(a: &Value, b: &Value) {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            assert!(is_close(x.as_f64().unwrap(), y.as_f64().unwrap()), "{x} and {y}");
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len());
            a.iter().zip(b).for_each(|(a, b)| assert_same(a, b));
        }
        (Value::Object(a), Value::Object(b)) => {
            assert!(a.keys().eq(b.keys()));
            a.iter().for_each(|(key, value)| assert_same(value, &b[key]));
        }
        _ => assert_eq!(a, b),
    }
}

#[test]
fn a_cell_is_what_the_evaluator_measures_alone() {
    let room = Room::new();
    let data = data(|_, text| text.to_owned());
    let source = room.source(&data, 0..0);
    let swept = room.sweep(&data, &source, DOCUMENTS);
    assert_eq!(swept.cells.len(), 2 * 2 * 3);
    let mut moved: f64 = 0.0;
    for (fold, test, documents) in [(0, 0..6, [1, 3]), (1, 6..12, [0, 2])] {
        let development: Vec<usize> = (0..12).filter(|i| !test.contains(i)).collect();
        let params = FitParams::default().with_seed(3);
        let fitted = Development::fit(&source, &development, &params, || ()).unwrap();
        let questions: Vec<&Question> = data.questions[test].iter().collect();
        let own: Vec<&Question> = development.iter().map(|&i| &data.questions[i]).collect();
        let held_out = documents.map(|i| DOCUMENTS[i]);
        let chosen_on = [0, 1, 2, 3].into_iter().filter(|i| !documents.contains(i));
        let chosen_on: Vec<&str> = chosen_on.map(|i| DOCUMENTS[i]).collect();
        for cell in &swept.cells {
            let direction: DirectionKind = cell.direction.parse().unwrap();
            let vector = fitted.vector(&source, cell.k, direction).unwrap();
            let alpha = cell.alpha.unwrap();
            let of_fold = &cell.folds[fold];
            assert_eq!((of_fold.n_head, of_fold.alpha), (cell.k, alpha));
            let mut evaluator = room.evaluator();
            evaluator.steer_with((alpha != 0.0).then_some((&vector, alpha))).unwrap();
            let scores = evaluator.score_answers(&questions, &form(), "").unwrap();
            let divergence = evaluator.divergence(&held_out).unwrap();
            let what = format!("fold {fold}, {direction}, {} heads, alpha {alpha}", cell.k);
            assert_eq!(of_fold.held_out.mc1, Some(McScore::mean(&scores).mc1), "{what}");
            assert!(is_close(of_fold.held_out.kl, divergence.kl), "{what}");
            assert!(is_close(of_fold.held_out.ce, divergence.ce), "{what}");
            moved = moved.max(divergence.kl);

            let cost = evaluator.divergence(&chosen_on).unwrap().kl;
            assert!(is_close(of_fold.development.kl, cost), "{what}");
            let expected = (cost <= BUDGET)
                .then(|| McScore::mean(&evaluator.score_answers(&own, &form(), "").unwrap()).mc1);
            assert_eq!(of_fold.development.mc1, expected, "{what}");
        }
    }
    assert!(moved > BUDGET, "no cell costs more than the budget: {moved}");
    // Both folds as one.
    for cell in &swept.cells {
        let halves = cell.folds.iter().map(|fold| fold.held_out.mc1.unwrap());
        let mean = halves.sum::<f64>() / 2.0;
        assert!((cell.held_out.mc.mc1 - mean).abs() < 1e-12);
        assert!(cell.held_out.truth.is_some(), "answers are written");
        let interval = cell.held_out.interval.mc1.unwrap();
        assert!(interval.low <= mean && mean <= interval.high);
    }
}

#[test]
fn the_recommended_cell_is_the_best_within_the_budget_and_stands_beside_its_baselines() {
    let room = Room::new();
    let data = data(|_, text| text.to_owned());
    let swept = room.sweep(&data, &room.source(&data, 0..0), DOCUMENTS);
    for (fold, &chosen) in swept.recommended.iter().enumerate() {
        let of = |i: usize| swept.cells[i].folds[fold].development;
        let score = |i: usize| of(i).mc1.map(|mc1| (mc1, -of(i).kl));
        assert!(of(chosen).kl <= BUDGET);
        for other in 0..swept.cells.len() {
            assert!(of(other).kl > BUDGET || score(other) <= score(chosen), "fold {fold}: {other}");
        }
        let report = &swept.report.folds[fold];
        let cell = &swept.cells[chosen].folds[fold];
        assert_eq!((report.choice.k, report.choice.alpha), (cell.n_head, cell.alpha));
        assert_eq!(report.mc["iti"].mc1, cell.held_out.mc1.unwrap());
    }
    let names: Vec<&str> = swept.report.rows().iter().map(|row| row.name).collect();
    assert_eq!(names, ["base", "iti", "random", "instruction", "instruction_iti"]);
}

#[test]
fn a_stopped_sweep_goes_on_to_the_same_numbers() {
    let room = Room::new();
    let data = data(|_, text| text.to_owned());
    let source = room.source(&data, 0..0);
    let protocol = protocol(&data, DOCUMENTS, Selection::Causal);
    let path = room.folder.path().join("sweep.jsonl");
    // Stops after so many steps; gives how many there were.
    let run = |ledger: &mut Ledger<Record>, n_most: usize| -> (Result<Sweep>, usize) {
        let n_step = Cell::new(0);
        let on_step = || {
            n_step.set(n_step.get() + 1);
            match n_step.get() > n_most {
                true => Err(Error::Interrupted { kept: String::new() }),
                false => Ok(()),
            }
        };
        let result = sweep(
            &mut room.evaluator(),
            &source,
            &protocol,
            &axes(),
            ledger,
            |name| Journal::open(&path.with_extension("trials"), name),
            on_step,
        );
        (result, n_step.get())
    };
    let mut uninterrupted = Ledger::in_memory();
    let (whole, n_step) = run(&mut uninterrupted, usize::MAX);
    let whole = everything(&whole.unwrap());
    assert_eq!(n_step, protocol.n_step_of_sweep(&axes()));
    let mut n_known = 0;
    // While heads are tried, in the first cells, in the second fold, among the baselines.
    for part in [10, 35, 60, 97] {
        let mut ledger = Ledger::open(&path, "same").unwrap();
        assert!(ledger.len() >= n_known);
        n_known = ledger.len();
        assert!(run(&mut ledger, n_step * part / 100).0.is_err());
    }
    let mut ledger = Ledger::open(&path, "same").unwrap();
    assert!(!path.with_extension("trials").exists(), "the heads' order is known");
    assert!(ledger.len() > 100, "{} results were kept", ledger.len());
    let (resumed, n_step_resumed) = run(&mut ledger, usize::MAX);
    assert_same(&everything(&resumed.unwrap()), &whole);
    assert_eq!(n_step_resumed, n_step);
    assert!(n_token(&uninterrupted).read > 1000);
    assert_eq!(n_token(&ledger).read, n_token(&uninterrupted).read);

    // A number that is none is measured again.
    let text = std::fs::read_to_string(&path).unwrap();
    let at = text.find("{\"Scores\":[").expect("scores are kept") + "{\"Scores\":[".len();
    let end = at + text[at..].find(',').unwrap();
    std::fs::write(&path, format!("{}null{}", &text[..at], &text[end..])).unwrap();
    let mut ledger = Ledger::open(&path, "same").unwrap();
    assert!(ledger.len() < text.lines().count() / 2, "what follows does not count");
    let (resumed, _) = run(&mut ledger, usize::MAX);
    assert_same(&everything(&resumed.unwrap()), &whole);
}

#[test]
fn a_cell_that_gains_nothing_is_not_worth_shipping() {
    let room = Room::new();
    let data = data(|_, text| text.to_owned());
    let source = room.source(&data, 0..0);
    let protocol = protocol(&data, DOCUMENTS, Selection::Accuracy);
    let run = |alphas: Vec<f32>, source: &Leaning| {
        let axes = Axes::default().with_alphas(Some(alphas)).with_is_budget_strict(true);
        let ledger = &mut Ledger::in_memory();
        sweep(&mut room.evaluator(), source, &protocol, &axes, ledger, journal, || Ok(())).unwrap()
    };
    // So weak that no choice between answers changes; without a cell that does not steer, one of these is
    // recommended, and still nothing gains.
    let swept = run(vec![1e-5], &source);
    let [chosen, base] = swept.development();
    assert_eq!((chosen, swept.gains()), (base, false));
    for alphas in [vec![0.0, 0.5, 20.0], vec![0.5]] {
        let swept = run(alphas, &source);
        let [chosen, base] = swept.development();
        assert_eq!(swept.gains(), chosen.unwrap() > base.unwrap());
    }
}

#[test]
fn nothing_held_out_reaches_the_recommendation() {
    let room = Room::new();
    let sound = data(|_, text| text.to_owned());
    let source = room.source(&sound, 0..0);
    let swept = room.sweep(&sound, &source, DOCUMENTS);
    // Of the first fold: its development half is the second one.
    let chosen_on = |swept: &Sweep| -> Vec<String> {
        let of = |cell: &candor::study::Cell| format!("{:?}", cell.folds[0].development);
        swept.cells.iter().map(of).collect()
    };
    let spoil = |range: std::ops::Range<usize>| {
        data(|i, text| if range.contains(&i) { format!("not {text} {i}") } else { text.into() })
    };
    // Other questions, answers, activations and documents held out.
    let other = spoil(0..6);
    let other_source = room.source(&other, 0..6);
    let neutral = [DOCUMENTS[0], "something else", DOCUMENTS[2], "all of it changed"];
    let with_another_test_half = room.sweep(&other, &other_source, neutral);
    assert_eq!(chosen_on(&swept), chosen_on(&with_another_test_half));
    assert_eq!(swept.recommended[0], with_another_test_half.recommended[0]);
    let heads = |swept: &Sweep| swept.report.folds[0].heads.clone();
    assert_eq!(heads(&swept), heads(&with_another_test_half));
    let held_out = |swept: &Sweep| format!("{:?}", swept.cells[1].folds[0].held_out);
    assert_ne!(held_out(&swept), held_out(&with_another_test_half), "the spoiling does nothing");
    // The check can fail: development data does reach it.
    let other = spoil(6..9);
    let with_other_development = room.sweep(&other, &room.source(&other, 6..9), DOCUMENTS);
    assert_ne!(chosen_on(&swept), chosen_on(&with_other_development));
}

#[test]
fn strengths_are_solved_for_a_budget() {
    let room = Room::new();
    let data = data(|_, text| text.to_owned());
    let source = room.source(&data, 0..0);
    let mut protocol = protocol(&data, DOCUMENTS, Selection::Accuracy);
    protocol.grid.kl_budget = 0.02;
    let axes = Axes::default()
        .with_directions(vec![DirectionKind::MassMean])
        .with_alphas(None)
        .with_is_budget_strict(true);
    let n_step = Cell::new(0);
    let on_step = || {
        n_step.set(n_step.get() + 1);
        Ok(())
    };
    let budget = protocol.grid.kl_budget;
    let ledger = &mut Ledger::in_memory();
    let swept =
        sweep(&mut room.evaluator(), &source, &protocol, &axes, ledger, journal, on_step).unwrap();
    assert_eq!(n_step.get(), protocol.n_step_of_sweep(&axes));
    assert_eq!(swept.cells.len(), 2);
    for cell in &swept.cells {
        assert_eq!(cell.alpha, None);
        for fold in &cell.folds {
            let kl = fold.development.kl;
            assert!(kl <= budget && kl > 0.9 * budget, "{kl} at {}", fold.alpha);
            assert!(fold.alpha > 0.0 && fold.development.mc1.is_some());
        }
    }
    let alphas = swept.cells.iter().map(|cell| cell.folds[0].alpha).collect::<Vec<_>>();
    assert!(alphas[0] > alphas[1], "more heads need less: {alphas:?}");
}

#[test]
fn a_grid_without_a_cell_within_the_budget_is_an_error() {
    let room = Room::new();
    let data = data(|_, text| text.to_owned());
    let source = room.source(&data, 0..0);
    let mut protocol = protocol(&data, DOCUMENTS, Selection::Accuracy);
    protocol.grid.kl_budget = 1e-6;
    let run = |alphas: Vec<f32>, is_budget_strict| {
        let directions = vec![DirectionKind::MassMean];
        let axes = Axes::default()
            .with_directions(directions)
            .with_alphas(Some(alphas))
            .with_is_budget_strict(is_budget_strict);
        let ledger = &mut Ledger::in_memory();
        sweep(&mut room.evaluator(), &source, &protocol, &axes, ledger, journal, || Ok(()))
    };
    let error = run(vec![20.0], true).unwrap_err().to_string();
    assert!(
        error.contains("KL budget of 0.000001 nat per token: no cell stays within it"),
        "{error}"
    );
    // Not to steer costs nothing.
    let swept = run(vec![0.0, 20.0], true).unwrap();
    assert_eq!(swept.recommended, [0, 0]);
    assert!(run(Vec::new(), true).is_err());
    // A budget that nobody asked for refuses nothing: the cell that costs least stands.
    let swept = run(vec![10.0, 20.0], false).unwrap();
    let kl = |i: usize| swept.cells[i].folds.iter().map(|fold| fold.development.kl).sum::<f64>();
    assert!((0..swept.cells.len()).all(|i| kl(swept.overall) <= kl(i)));
    let chosen = &swept.cells[swept.overall];
    assert_eq!(chosen.alpha, Some(10.0));
    assert!(chosen.folds.iter().all(|fold| fold.development.mc1.is_none()));
    assert!(swept.report.folds.iter().all(|fold| fold.choice.alpha == 10.0));
}
