//! Questions in several wordings, and captions that say nothing of what is asked.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Task;

pub(super) const ROWS: [&str; 3] = ["top", "bottom", "same"];
pub(super) const SIDES: [&str; 3] = ["left", "right", "same"];
pub(super) const YES_NO: [&str; 2] = ["yes", "no"];

/// The ways in which a task's question is asked.
pub(super) fn wordings(task: Task) -> &'static [&'static str] {
    match task {
        Task::Number => &[
            "Which row has more dots?",
            "In which row are there more dots?",
            "Are there more dots in the top row, in the bottom row, or the same?",
        ],
        Task::Length => &[
            "Which stick is longer?",
            "Which of the two sticks has more length?",
            "Is the top stick longer, the bottom stick, or are they the same?",
        ],
        Task::Angle => &[
            "Which angle is wider?",
            "Which of the two angles opens more?",
            "Is the left angle wider, the right angle, or are they the same?",
        ],
        Task::Liquid => &[
            "Which glass holds more water?",
            "In which glass is there more water?",
            "Is there more water in the left glass, in the right glass, or the same?",
        ],
        Task::Area => &[
            "Which meadow has more grass left?",
            "On which meadow is there more grass?",
            "Is there more grass on the left meadow, on the right meadow, or the same?",
        ],
        Task::AngleComparison => &[
            "Do the two angles open equally far?",
            "Are the two angles equal?",
            "Is the left angle as wide as the right angle?",
        ],
        Task::Perpendicular => &[
            "Are the two lines perpendicular?",
            "Do the two lines meet at a right angle?",
            "Is there an angle of 90 degrees between the two lines?",
        ],
        Task::LengthComparison => &[
            "Are the two lines equally long?",
            "Do the two lines have the same length?",
            "Is the left line as long as the right line?",
        ],
        Task::Chart => &[
            "Does the height of the dark point lie within the marked part of the upright axis?",
            "Projected on the upright axis, does the dark point fall within its marked part?",
            "Is the value of the dark point on the upright axis within the marked range?",
        ],
    }
}

/// The answer, an index of the options, where the two sides are the same.
pub(super) fn unchanged(task: Task) -> usize {
    // `same` comes last, `yes` first.
    if task.options().len() == YES_NO.len() { 0 } else { 2 }
}

/// What one says of a picture after a change, a sentence for each of the options.
pub(super) fn verdicts(task: Task) -> &'static [&'static str] {
    match task {
        Task::Number => &[
            "Now there are more dots in the top row.",
            "Now there are more dots in the bottom row.",
            "There are still as many dots in both rows.",
        ],
        Task::Length => &[
            "Now the top stick is longer.",
            "Now the bottom stick is longer.",
            "Both sticks are still equally long.",
        ],
        Task::Angle => &[
            "Now the left angle is wider.",
            "Now the right angle is wider.",
            "Both angles are still equally wide.",
        ],
        Task::Liquid => &[
            "Now there is more water in the left glass.",
            "Now there is more water in the right glass.",
            "There is still as much water in both glasses.",
        ],
        Task::Area => &[
            "Now there is more grass on the left meadow.",
            "Now there is more grass on the right meadow.",
            "There is still as much grass on both meadows.",
        ],
        Task::AngleComparison => {
            &["The two angles still open equally far.", "Now one angle is wider than the other."]
        }
        Task::Perpendicular => {
            &["The two lines are still perpendicular.", "Now the two lines are not perpendicular."]
        }
        Task::LengthComparison => {
            &["The two lines are still equally long.", "Now one line is longer than the other."]
        }
        Task::Chart => &[
            "The height of the dark point still lies within the marked part.",
            "Now the height of the dark point lies outside of the marked part.",
        ],
    }
}

/// A caption of one to three sentences, which says of a picture what it shows but nothing of how
/// the two sides compare: text to measure on what steering changes that it should not.
pub(super) fn caption(task: Task, rng: &mut ChaCha8Rng) -> String {
    let what = match task {
        Task::Number => "two rows of dots",
        Task::Length => "two sticks",
        Task::Angle => "two angles",
        Task::Liquid => "two glasses of water",
        Task::Area => "two meadows with houses",
        Task::AngleComparison => "a pair of angles",
        Task::Perpendicular => "two lines that cross",
        Task::LengthComparison => "two lines side by side",
        Task::Chart => "some points over two axes",
    };
    let mut pick = |words: &[&'static str]| words[rng.random_range(0..words.len())];
    let kind = pick(&["drawing", "picture", "sketch", "print"]);
    let [name, other] = [pick(NAMES), pick(NAMES)];
    let (place, time) = (pick(PLACES), pick(TIMES));
    let (paper, tool) = (pick(&["white", "thin", "old", "heavy"]), pick(TOOLS));
    let first = match pick(&["a", "b", "c"]) {
        "a" => format!("This is a {kind} of {what}."),
        "b" => format!("A {kind} of {what} on {paper} paper."),
        _ => format!("The {kind} shows {what}."),
    };
    let second = match pick(&["a", "b", "c", "d"]) {
        "a" => format!("{name} made it with a {tool} {time}."),
        "b" => format!("{name} found it in the {place} {time}."),
        "c" => format!("It was made in the {place} by {name}."),
        _ => format!("It hangs in the {place}."),
    };
    let third = match pick(&["a", "b", "c"]) {
        "a" => format!("{other} likes the {kind} very much."),
        "b" => format!("The {paper} paper came from the {place}."),
        _ => format!("{other} keeps the {tool} in the {place}."),
    };
    match pick(&["one", "two", "two", "three"]) {
        "one" => first,
        "two" => format!("{first} {second}"),
        _ => format!("{first} {second} {third}"),
    }
}

const NAMES: &[&str] = &["Mara", "Tomas", "Ines", "Bruno", "Lena", "Oskar", "Nora", "Hugo"];
const PLACES: &[&str] = &["kitchen", "garden", "library", "station", "workshop", "hall"];
const TIMES: &[&str] =
    &["in the morning", "after lunch", "in the evening", "on a rainy day", "last winter"];
const TOOLS: &[&str] = &["pencil", "brush", "pen", "marker"];
