//! Pictures and questions as files.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Sample, Task, TaskSet, words};
use crate::error::{Error, Result};
use crate::file::write_atomically;

/// The questions, a JSON object per line.
const ROWS: &str = "tasks.jsonl";
/// The preference pairs, a JSON object per line.
const PAIRS: &str = "pairs.jsonl";
/// The folder of the pictures.
const IMAGES: &str = "images";

impl TaskSet {
    /// Writes the pictures as PNG files into `images` below `out`, and their questions as
    /// `tasks.jsonl`, which comes last: where it is, all pictures are. `step` hears of every picture
    /// and may end the work with an error.
    ///
    /// A row is one that [`Dataset::open`](crate::data::Dataset::open) reads as a question with its
    /// answers: `image` (relative to the file), `question`, `choices`, `answer` (the index of the
    /// true one) and `category` (the task). Besides, `true_answer`, `eye_answer` (of one who looks at
    /// a single dimension), `differ` (whether these two do) and `parameters`
    /// ([`Sample::parameters`]).
    ///
    /// Gives the path of the rows.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the settings cannot be drawn or `out` holds such a file already;
    /// [`Error::Io`] if it cannot be written; what `step` gives.
    pub fn write(&self, out: &Path, step: &mut dyn FnMut() -> Result<()>) -> Result<PathBuf> {
        let samples = self.samples()?;
        self.write_rows(out, ROWS, samples, step, &mut |sample| {
            let image = self.write_image(out, sample, "")?;
            let question = &sample.question;
            Ok(json!({
                "image": image,
                "question": question.text,
                "choices": question.options,
                "answer": question.truth,
                "category": sample.task.name(),
                "true_answer": question.options[question.truth],
                "eye_answer": question.options[question.eye],
                "differ": question.truth != question.eye,
                "parameters": sample.parameters,
            }))
        })
    }

    /// Writes preference pairs as `pairs.jsonl`, and the pictures that they are about: each has a
    /// picture in which nothing differs, and the same one after a change. In one half of the pairs
    /// the change leaves what is asked for as it was and alters what catches the eye; in the other
    /// half it is the reverse. The chosen text is the true one, the rejected one the eye's.
    ///
    /// A row has `image` (both pictures), `prompt`, `chosen`, `rejected`, as trainers of preferences
    /// read them, and the same as `positive` and `negative`, which
    /// [`Dataset::open`](crate::data::Dataset::open) reads.
    ///
    /// Gives the path of the rows.
    ///
    /// # Errors
    /// As [`TaskSet::write`].
    pub fn write_pairs(&self, out: &Path, step: &mut dyn FnMut() -> Result<()>) -> Result<PathBuf> {
        self.check()?;
        let numbers =
            self.tasks.iter().flat_map(|&task| (0..self.n_picture).map(move |i| (task, i)));
        let changed = numbers.map(|(task, i)| self.draw(task, i, self.change(task, i)));
        self.write_rows(out, PAIRS, changed, step, &mut |after| {
            let same = words::unchanged(after.task);
            let before = self.draw(after.task, after.index, [same; 2]);
            let images = [
                self.write_image(out, &before, "-before")?,
                self.write_image(out, after, "-after")?,
            ];
            let question = format!(
                "The second picture shows the first one after a change. {}",
                after.question.text
            );
            let verdicts = words::verdicts(after.task);
            let (chosen, rejected) = (verdicts[after.question.truth], verdicts[after.question.eye]);
            Ok(json!({
                "image": images,
                "prompt": question,
                "chosen": chosen,
                "rejected": rejected,
                "positive": format!("Q: {question} A: {chosen}"),
                "negative": format!("Q: {question} A: {rejected}"),
                "category": after.task.name(),
                "conserved": after.question.truth == same,
                "parameters": after.parameters,
            }))
        })
    }

    /// The true answer and the eye's after a change: one of them is as before. Runs of as many
    /// pictures as there are such changes hold each once.
    fn change(&self, task: Task, index: usize) -> [usize; 2] {
        let same = words::unchanged(task);
        let others: Vec<usize> = (0..task.options().len()).filter(|&o| o != same).collect();
        let other = others[index / 2 % others.len()];
        if index.is_multiple_of(2) { [same, other] } else { [other, same] }
    }

    fn write_rows(
        &self,
        out: &Path,
        name: &str,
        samples: impl Iterator<Item = Sample>,
        step: &mut dyn FnMut() -> Result<()>,
        row: &mut dyn FnMut(&Sample) -> Result<Value>,
    ) -> Result<PathBuf> {
        let path = out.join(name);
        if path.exists() {
            let problem = "is there already: name another folder, or remove it";
            return Err(Error::invalid(path.display().to_string(), problem));
        }
        let images = out.join(IMAGES);
        fs::create_dir_all(&images).map_err(Error::io("create", &images))?;
        let mut rows = String::new();
        for sample in samples {
            rows += &format!("{}\n", row(&sample)?);
            step()?;
        }
        write_atomically(&path, |file| file.write_all(rows.as_bytes()))?;
        Ok(path)
    }

    /// Writes a picture and gives its name, relative to `out`.
    fn write_image(&self, out: &Path, sample: &Sample, ending: &str) -> Result<String> {
        let name = format!("{IMAGES}/{}-{:05}{ending}.png", sample.task, sample.index);
        let path = out.join(&name);
        fs::write(&path, sample.picture.png()?).map_err(Error::io("write", &path))?;
        Ok(name)
    }
}
