//! What is written is read, whatever it is: stores, ledgers and data sets. Sidecars, GGUF files and
//! control vectors have the same tests beside their code.

use std::collections::BTreeMap;
use std::path::Path;

use candor::Site;
use candor::capture::store::{Layout, Opened, RowSet, Store, StoreWriter};
use candor::data::{Dataset, Kind};
use candor::ledger::Ledger;
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use serde_json::json;

/// A store's layout, and what the values of its rows are drawn from.
fn layouts() -> impl Strategy<Value = (Layout, Vec<f32>)> {
    let layers = btree_set(0_usize..6, 1..4);
    let rows = vec((any::<bool>(), 0_usize..9), 1..6);
    let next = vec([0_usize..9, 0_usize..9], 0..4);
    let metadata = btree_map("[a-z.]{1,9}", ".*", 0..4);
    let values = vec(any::<f32>(), 16);
    (layers, rows, next, 1_usize..4, 1_usize..5, metadata, values).prop_map(
        |(layers, rows, next_groups, n_head, d_head, metadata, values)| {
            let layout = Layout {
                n_layer: 6,
                layers: layers.into_iter().collect(),
                n_head,
                d_head,
                labels: rows.iter().map(|row| row.0).collect(),
                groups: rows.iter().map(|row| row.1).collect(),
                next_groups,
                metadata,
            };
            (layout, values)
        },
    )
}

/// The bits of a value of a row.
fn bits(values: &[f32], row: usize, layer: usize, i: usize) -> u32 {
    values[(7 * row + 3 * layer + i) % values.len()].to_bits()
}

/// What a cell of a table may hold: it is trimmed, and must not be empty.
const CELL: &str = "[!-~äß]([ -~äß\n]{0,12}[!-~äß])?";

/// The same without what parts the answers of a cell.
const ANSWER: &str = "[!-:<-~äß]([ -:<-~äß\n]{0,12}[!-:<-~äß])?";

fn table(rows: impl IntoIterator<Item = Vec<String>>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.into_iter().for_each(|row| writer.write_record(row).expect("a Vec takes all"));
    writer.into_inner().expect("a Vec takes all")
}

fn read(name: &str, bytes: &[u8]) -> Dataset {
    Dataset::from_bytes(Path::new(name), bytes).expect("it is sound")
}

/// Whether two answers differ in blanks only, and one is called true, the other false: that is refused.
fn is_ambiguous<'a>(answers: impl Iterator<Item = (&'a String, bool)>) -> bool {
    let all: Vec<_> = answers.collect();
    all.iter().any(|(a, is_true)| {
        let is_other = |(b, label): &(&String, bool)| a != b && is_true != label;
        all.iter().any(|b| is_other(b) && a.split_whitespace().eq(b.0.split_whitespace()))
    })
}

/// Texts with their labels, question by question.
fn texts(data: &Dataset) -> Vec<Vec<(String, bool)>> {
    let answers = |question: &candor::data::Question| {
        question.answers.iter().map(|answer| (answer.text.clone(), answer.label)).collect()
    };
    data.questions.iter().map(answers).collect()
}

proptest! {
    #[test]
    fn a_store_holds_what_was_written((layout, values) in layouts()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let Opened::Fresh(mut writer) = StoreWriter::open(&path, &layout).unwrap() else {
            panic!("the folder is new");
        };
        let n_value = layout.n_head * layout.d_head;
        let sets = [(RowSet::Main, layout.labels.len()), (RowSet::Next, layout.next_groups.len())];
        for (set, n_row) in sets {
            for (row, &layer) in (0..n_row).flat_map(|row| layout.layers.iter().map(move |l| (row, l))) {
                let row_of = |i| f32::from_bits(bits(&values, row, layer, i));
                writer.write_row(set, row, layer, &(0..n_value).map(row_of).collect::<Vec<_>>()).unwrap();
            }
        }
        writer.finish().unwrap();

        let store = Store::open(&path).unwrap();
        prop_assert_eq!(store.layers(), &layout.layers[..]);
        prop_assert_eq!((store.n_head(), store.d_head()), (layout.n_head, layout.d_head));
        prop_assert_eq!(store.labels(), &layout.labels[..]);
        prop_assert_eq!(store.groups(), &layout.groups[..]);
        prop_assert_eq!(store.next_groups(), &layout.next_groups[..]);
        let kept: BTreeMap<_, _> =
            layout.metadata.iter().filter(|(key, _)| store.metadata()[*key] == layout.metadata[*key]).collect();
        prop_assert_eq!(kept.len(), layout.metadata.len());
        for (set, n_row) in sets {
            let rows: Vec<usize> = (0..n_row).collect();
            for (&layer, head) in layout.layers.iter().flat_map(|l| (0..layout.n_head).map(move |h| (l, h))) {
                let read = store.head(set, Site::new(layer, head), &rows);
                for ((row, i), value) in read.indexed_iter() {
                    let expected = bits(&values, row, layer, head * layout.d_head + i);
                    prop_assert_eq!(value.to_bits(), expected);
                }
            }
        }
    }

    #[test]
    fn a_ledger_that_is_cut_anywhere_knows_what_stands_before_the_cut(
        results in vec((".{0,9}", (prop::option::of(-1e9..1e9), any::<usize>())), 1..9),
        cut in any::<prop::sample::Index>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let mut ledger = Ledger::open(&path, "a\n\u{1b}").unwrap();
        let mut ends = vec![std::fs::metadata(&path).unwrap().len()];
        for result in &results {
            ledger.put([result.clone()]).unwrap();
            ends.push(std::fs::metadata(&path).unwrap().len());
        }
        drop(ledger);
        // Behind the header, which is written at once with the file.
        let n_byte = ends[0] + cut.index((ends[ends.len() - 1] - ends[0]) as usize + 1) as u64;
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(n_byte).unwrap();
        let ledger: Ledger<(Option<f64>, usize)> = Ledger::open(&path, "a\n\u{1b}").unwrap();
        let n_whole = ends.iter().filter(|&&end| end <= n_byte).count() - 1;
        let known: BTreeMap<_, _> = results[..n_whole].iter().cloned().collect();
        prop_assert_eq!(ledger.len(), known.len());
        for (name, value) in &known {
            prop_assert_eq!(ledger.get(name), Some(value));
        }
    }

    #[test]
    fn a_table_of_statements_is_read(rows in vec((CELL, any::<bool>()), 1..9)) {
        let cells = rows.iter().map(|(text, label)| vec![text.clone(), label.to_string()]);
        let header = vec!["statement".to_owned(), "label".to_owned()];
        let data = read("x.csv", &table([header].into_iter().chain(cells)));
        prop_assert_eq!(data.kind, Kind::Statement);
        // A repeated statement is one question with a row for each time.
        let mut expected: Vec<Vec<(String, bool)>> = Vec::new();
        for row in rows {
            match expected.iter_mut().find(|known| known[0].0 == row.0) {
                Some(known) => known.push(row),
                None => expected.push(vec![row]),
            }
        }
        prop_assert_eq!(texts(&data), expected);
    }

    #[test]
    fn a_table_of_questions_is_read(
        rows in vec((CELL, ANSWER, vec(ANSWER, 0..4), vec(ANSWER, 0..4)), 1..6),
    ) {
        let titles = ["Question", "Best Answer", "Correct Answers", "Incorrect Answers"];
        let cells = rows.iter().map(|(question, best, correct, incorrect)| {
            vec![question.clone(), best.clone(), correct.join("; "), incorrect.join(";")]
        });
        let data = read("x.csv", &table([titles.map(str::to_owned).to_vec()].into_iter().chain(cells)));
        let expected: Vec<Vec<(String, bool)>> = rows
            .iter()
            .map(|(_, best, correct, incorrect)| {
                let right = [best].into_iter().chain(correct).map(|text| (text.clone(), true));
                let mut once: Vec<(String, bool)> = Vec::new();
                for answer in right.chain(incorrect.iter().map(|text| (text.clone(), false))) {
                    if !once.contains(&answer) {
                        once.push(answer);
                    }
                }
                once
            })
            .collect();
        prop_assert_eq!(texts(&data), expected);
        prop_assert!(data.questions.iter().zip(&rows).all(|(read, row)| read.text == row.0));
        prop_assert!(data.questions.iter().all(|q| q.answers.iter().filter(|a| a.best).count() == 1));
    }

    #[test]
    fn lines_of_answers_and_pairs_are_read(
        rows in vec(("p{0,2}", ".{1,9}", any::<bool>()), 1..9),
        pairs in vec((".{1,9}", ".{1,9}"), 1..9),
    ) {
        let lines = |values: Vec<serde_json::Value>| -> Vec<u8> {
            values.iter().flat_map(|value| format!("{value}\n").into_bytes()).collect()
        };
        let rows: Vec<_> = rows.into_iter().map(|(p, a, label)| (p + "p", a, label)).collect();
        prop_assume!(!is_ambiguous(rows.iter().map(|(_, answer, label)| (answer, *label))));
        let answers = rows.iter().map(|(prompt, answer, label)| json!({ "prompt": prompt, "answer": answer, "label": label }));
        let data = read("x.jsonl", &lines(answers.collect()));
        let mut expected: Vec<(String, Vec<(String, bool)>)> = Vec::new();
        for (prompt, answer, label) in rows {
            let at = expected.iter().position(|known| known.0 == prompt).unwrap_or_else(|| {
                expected.push((prompt.clone(), Vec::new()));
                expected.len() - 1
            });
            if !expected[at].1.contains(&(answer.clone(), label)) {
                expected[at].1.push((answer, label));
            }
        }
        let (prompts, answers): (Vec<_>, Vec<_>) = expected.into_iter().unzip();
        prop_assert_eq!(data.questions.iter().map(|q| q.text.clone()).collect::<Vec<_>>(), prompts);
        prop_assert_eq!(texts(&data), answers);

        let pairs: Vec<_> = pairs.into_iter().filter(|(a, b)| a.split_whitespace().ne(b.split_whitespace())).collect();
        prop_assume!(!pairs.is_empty());
        let values = pairs.iter().map(|(positive, negative)| json!({ "positive": positive, "negative": negative }));
        let data = read("x.jsonl", &lines(values.collect()));
        let expected: Vec<_> = pairs.into_iter().map(|(a, b)| vec![(a, true), (b, false)]).collect();
        prop_assert_eq!(texts(&data), expected);
    }

    #[test]
    fn a_multiple_choice_task_is_read(
        questions in vec((".{1,9}", ".{1,9}", btree_map(".{1,9}", any::<bool>(), 0..5)), 1..5),
    ) {
        prop_assume!(questions.iter().all(|(_, best, others)| {
            let others = others.iter().filter(|(text, _)| *text != best);
            !is_ambiguous([(best, true)].into_iter().chain(others.map(|(text, label)| (text, *label))))
        }));
        let items: Vec<_> = questions
            .iter()
            .map(|(question, best, others)| {
                let mut all = others.clone();
                all.insert(best.clone(), true);
                let all: BTreeMap<_, _> = all.into_iter().map(|(text, label)| (text, u8::from(label))).collect();
                json!({ "question": question, "mc1_targets": { best: 1 }, "mc2_targets": all })
            })
            .collect();
        let data = read("x.json", json!(items).to_string().as_bytes());
        prop_assert_eq!(data.kind, Kind::QuestionAnswer);
        for (read, (question, best, others)) in data.questions.iter().zip(&questions) {
            prop_assert_eq!(&read.text, question);
            prop_assert_eq!(&read.answers[read.best()].text, best);
            let answers: BTreeMap<_, _> = read.answers.iter().map(|a| (a.text.clone(), a.label)).collect();
            let mut expected = others.clone();
            expected.insert(best.clone(), true);
            prop_assert_eq!(answers, expected);
        }
    }
}
