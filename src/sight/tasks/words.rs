//! Questions in several wordings, and captions that say nothing of what is asked.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::Task;

pub(super) const ROWS: [&str; 3] = ["top", "bottom", "same"];
pub(super) const SIDES: [&str; 3] = ["left", "right", "same"];

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
