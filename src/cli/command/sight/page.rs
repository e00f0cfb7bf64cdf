//! What was found of every stage, as a page.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minijinja::value::Serde;
use minijinja::{Value, context};

use super::probe::Document;
use crate::cli::show::heat::Maps;
use crate::cli::show::html::{Cell, render};
use crate::cli::show::plot::{self, Level, Line, Part};
use crate::cli::show::table::{percent, printable_line};
use crate::sight::probe::{Glance, Heads, Patches, Place, Share, Stage, TaskReport};
use crate::study::Estimate;
use crate::vision::Picture;
use crate::{Result, Site};

const PAGE: &str = include_str!("page.html");

/// Readers by name, in the order of columns and lines.
type Reader = (&'static str, fn(&Stage) -> Option<Share>);
const READERS: [Reader; 6] = [
    ("linear", |stage| Some(stage.linear)),
    ("hidden layer", |stage| stage.hidden),
    ("attention", |stage| stage.attention),
    ("linear on CLS", |stage| stage.cls),
    ("untrained", |stage| stage.untrained),
    ("shuffled", |stage| Some(stage.shuffled)),
];

/// The page of a probing.
///
/// # Errors
/// [`Error::Invalid`](crate::Error::Invalid) where a plot cannot be drawn or the page not be made; what
/// reading a picture gives.
pub(super) fn page(document: &Document) -> Result<String> {
    let readers: Vec<Reader> = READERS
        .into_iter()
        .filter(|(_, of)| {
            document.tasks.iter().any(|task| task.stages.iter().any(|stage| of(stage).is_some()))
        })
        .collect();
    let tasks =
        document.tasks.iter().map(|task| of_task(task, &readers)).collect::<Result<Vec<_>>>()?;
    let mut columns: Vec<&str> = readers.iter().map(|(name, _)| *name).collect();
    columns.insert(1, "linear, where the eye's is false");
    render(
        PAGE,
        context! {
            candor => document.made.candor,
            model => Serde(&document.made.model),
            data => Serde(&document.data),
            projector => document.projector,
            prompt => document.prompt,
            lists_options => document.lists_options,
            n_question => document.n_question,
            n_picture => document.n_picture,
            seconds => format!("{:.0}", document.seconds),
            seed => document.seed,
            columns, tasks,
        },
    )
}

fn of_task(task: &TaskReport, readers: &[Reader]) -> Result<Value> {
    let mut rows: Vec<Value> = Vec::new();
    for stage in &task.stages {
        let mut cells: Vec<Cell> =
            readers.iter().map(|(_, of)| cell(of(stage).map(|s| s.all))).collect();
        cells.insert(1, cell(stage.linear.differ));
        rows.push(context! { name => stage.name(), cells => Serde(cells) });
    }
    let others = [
        ("the model says", Some(task.said), true),
        ("the model says the eye's", task.says_eye, false),
        ("most frequent answer", Some(task.majority), false),
        ("guessed from the eye's", task.from_eye, false),
    ];
    for (name, share, is_said) in others {
        let Some(share) = share else { continue };
        let cells = vec![cell(Some(share.all)), cell(share.differ)];
        rows.push(context! { name => name, is_said => is_said, cells => Serde(cells) });
    }
    let heads = [("encoder", "v", &task.encoder_heads), ("decoder", "d", &task.decoder_heads)];
    let maps = heads.into_iter().filter_map(|(of, id, heads)| Some((of, id, heads.as_ref()?)));
    let maps = maps
        .filter(|(_, _, heads)| heads.layers.iter().enumerate().all(|(i, &layer)| i == layer))
        .map(|(of, id, heads)| map(&task.task, of, id, heads))
        .collect::<Result<Vec<_>>>()?;
    let patches = task.patches.as_ref().map(patches).transpose()?;
    Ok(context! {
        name => printable_line(&task.task),
        summary => printable_line(&task.summary),
        answers => printable_line(&task.answers.join(", ")),
        n_train => task.n_train,
        n_test => task.n_test,
        split => task.split.words(),
        depth => depth(task, readers)?,
        rows, maps, patches,
    })
}

fn cell(share: Option<Estimate>) -> Cell {
    Cell {
        text: share.map_or_else(|| "–".to_owned(), |share| percent(share.mean)),
        interval: share.map(|e| format!("{} to\u{a0}{}", percent(e.low), percent(e.high))),
    }
}

/// The curve over depth.
fn depth(task: &TaskReport, readers: &[Reader]) -> Result<String> {
    let names = [
        (Place::Pixels, "pixels"),
        (Place::Encoder, "encoder"),
        (Place::Projector, "projector"),
        (Place::Image, "picture tokens"),
        (Place::Last, "last token"),
    ];
    let parts: Vec<Part> = names
        .into_iter()
        .map(|(place, name)| {
            let own = task.stages.iter().filter(|stage| stage.place == place);
            Part { name, layers: own.map(|stage| stage.layer).collect() }
        })
        .filter(|part| !part.layers.is_empty())
        .collect();
    let in_percent = |e: Estimate| [e.mean, e.low, e.high].map(|share| 100.0 * share);
    let line = |&(name, of): &Reader| Line {
        name,
        values: task.stages.iter().map(|stage| Some(in_percent(of(stage)?.all))).collect(),
    };
    let lines: Vec<Line> = readers.iter().map(line).collect();
    let mut levels = vec![
        Level { name: "the model says", value: 100.0 * task.said.all.mean, is_said: true },
        Level { name: "without looking", value: 100.0 * task.floor(), is_said: false },
    ];
    levels.retain(|level| level.value.is_finite());
    plot::depth_svg("true answers in percent", &parts, &lines, &levels)
}

fn map(task: &str, of: &str, id: &str, heads: &Heads) -> Result<Value> {
    let accuracy: Vec<f32> =
        heads.accuracy.iter().flatten().map(|&accuracy| accuracy as f32).collect();
    let (layer, head) = heads.best;
    let maps = Maps::new(&accuracy, &[], heads.n_head, [Site::new(layer, head)]);
    let svg = maps.map(|maps| plot::svg("", &maps)).transpose()?.unwrap_or_default();
    let place =
        if of == "encoder" { "the mean over patches" } else { "the last token of the prompt" };
    let note = format!(
        "How well a linear probe on each head reads the answer, {place}. The head chosen on other \
         pictures, {layer}.{head}, reads {} %.",
        percent(heads.best_share.all.mean)
    );
    Ok(
        context! { title => format!("Heads of the {of}"), note, svg, id => format!("{id}-{}", printable_line(task)) },
    )
}

/// Side of a picture on the page, in its own pixels at most.
const SIDE: u32 = 160;

fn patches(patches: &Patches) -> Result<Value> {
    let picture = |glance: &Glance| -> Result<Value> {
        Ok(context! {
            svg => drawing(glance, patches.side)?,
            truth => printable_line(&glance.truth),
            read => printable_line(&glance.read),
        })
    };
    let pictures = patches.pictures.iter().map(picture).collect::<Result<Vec<_>>>()?;
    Ok(context! { layer => patches.layer, pictures })
}

/// The picture with its cells over it, whose reds say how much is looked at them.
fn drawing(glance: &Glance, side: usize) -> Result<String> {
    let picture = Picture::open(&glance.path)?.within(SIDE);
    let (width, height) = (picture.width(), picture.height());
    let data = BASE64_STANDARD.encode(picture.png()?);
    // What is looked at as much everywhere is no colour.
    let least = glance.weights.iter().copied().fold(f32::INFINITY, f32::min);
    let most = glance.weights.iter().copied().fold(0.0, f32::max);
    let mut svg = format!(
        "<svg viewBox=\"0 0 {width} {height}\" role=\"img\"><image width=\"{width}\" height=\"{height}\" \
         preserveAspectRatio=\"none\" href=\"data:image/png;base64,{data}\"/>"
    );
    let (w, h) = (f64::from(width) / side as f64, f64::from(height) / side as f64);
    for (i, weight) in glance.weights.iter().enumerate() {
        let opacity = 0.75 * (weight - least) / (most - least).max(f32::MIN_POSITIVE);
        if opacity >= 0.02 {
            let (x, y) = ((i % side) as f64 * w, (i / side) as f64 * h);
            let _ = write!(
                svg,
                "<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{w:.2}\" height=\"{h:.2}\" fill=\"#e0102f\" \
                 fill-opacity=\"{opacity:.2}\"/>"
            );
        }
    }
    svg.push_str("</svg>");
    Ok(svg)
}
