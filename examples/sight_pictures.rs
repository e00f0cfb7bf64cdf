//! Writes many small pictures with their questions as raw bytes, to train models on: `OUT.u8`, U8
//! `[n, side, side, 3]`, and `OUT.jsonl`, a row for each.
//!
//! ```sh
//! cargo run --release --example sight_pictures -- OUT N_PER_TASK SEED
//! ```

use std::io::{BufWriter, Write as _};

use candor::sight::tasks::{Task, TaskSet};
use serde_json::json;

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, n, seed] = args.as_slice() else {
        return Err("usage: sight_pictures OUT N_PER_TASK SEED".into());
    };
    // The four comparisons that the model of `models/train` learns.
    let tasks = Task::OF_SIGHT_MODEL.to_vec();
    let set = TaskSet { tasks, n_picture: n.parse()?, seed: seed.parse()?, ..TaskSet::default() };
    let create = |ending| std::fs::File::create(format!("{out}.{ending}")).map(BufWriter::new);
    let (mut pictures, mut rows) = (create("u8")?, create("jsonl")?);
    for sample in set.samples()? {
        pictures.write_all(&sample.picture.rgb)?;
        let row = json!({
            "task": sample.task.name(),
            "truth": sample.question.truth,
            "eye": sample.question.eye,
            "question": sample.question.text,
            "caption": set.caption(sample.task, sample.index),
            "parameters": sample.parameters,
        });
        writeln!(rows, "{row}")?;
    }
    pictures.flush()?;
    rows.flush()?;
    Ok(())
}
