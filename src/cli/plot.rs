//! The map of probe accuracies as a picture in a file.

use std::path::Path;
use std::sync::Once;

use anstyle::RgbColor as Rgb;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontTransform, register_font};

use super::heat::{HeatMap, colour, is_light};
use super::table::printable_line;
use crate::file::write_atomically;
use crate::{Error, Result, Site};

/// The kinds of picture, by the file's extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Svg,
    Png,
}

impl Format {
    /// The format of a file of that name. To be asked before long work.
    ///
    /// # Errors
    /// [`Error::Invalid`] for any extension but `.svg` and `.png`.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        match extension.to_str() {
            Some("svg") => Ok(Self::Svg),
            Some("png") => Ok(Self::Png),
            _ => Err(Error::invalid(
                format!("plot {}", path.display()),
                "expected a file name that ends in .svg or .png",
            )),
        }
    }
}

/// Draws the map of a model into a file; an old one is replaced when the new one is complete.
///
/// # Errors
/// [`Error::Invalid`] for an unknown extension or where the picture cannot be drawn, [`Error::Io`]
/// where the file cannot be written.
pub(super) fn write(path: &Path, model_name: &str, map: &HeatMap) -> Result<()> {
    let longest = map.n_layer().max(map.n_head());
    if longest > MAX_LENGTH {
        let problem = format!("{longest} layers or heads are more than the {MAX_LENGTH} that fit");
        return Err(Error::invalid("plot", problem));
    }
    let title = match model_name {
        "" => "Probe accuracy".to_owned(),
        name => format!("Probe accuracy, {}", printable_line(name)),
    };
    let bytes = match Format::of(path)? {
        Format::Svg => svg(&title, map)?.into_bytes(),
        Format::Png => png(&title, map)?,
    };
    write_atomically(path, |out| out.write_all(&bytes))
}

fn svg(title: &str, map: &HeatMap) -> Result<String> {
    let picture = Picture::new(title, map, Format::Svg);
    let mut text = String::new();
    picture.draw(SVGBackend::with_string(&mut text, picture.size())).map_err(cannot_draw)?;
    Ok(text)
}

fn png(title: &str, map: &HeatMap) -> Result<Vec<u8>> {
    let picture = Picture::new(title, map, Format::Png);
    // Bitmaps are encoded into files only.
    let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
    let file = folder.path().join("plot.png");
    picture.draw(BitMapBackend::new(&file, picture.size())).map_err(cannot_draw)?;
    std::fs::read(&file).map_err(Error::io("read", file))
}

fn cannot_draw(error: impl std::fmt::Display) -> Error {
    Error::invalid("plot", format!("cannot be drawn: {error}"))
}

/// Lengths in pixels, before scaling: what surrounds the cells, and the colour bar.
const LEFT: i32 = 64;
const TOP: i32 = 56;
const BOTTOM: i32 = 60;
const BAR_GAP: i32 = 28;
const BAR_WIDTH: i32 = 16;
const RIGHT: i32 = BAR_GAP + BAR_WIDTH + 88;
/// The least that the cells take together, for the sake of title and bar.
const MIN_SIDE: i32 = 240;

/// The most layers or heads that a picture shows: a stranger's file could name any number.
const MAX_LENGTH: usize = 256;

const INK: RGBColor = RGBColor(38, 38, 38);
const OUTLINE: RGBColor = RGBColor(230, 25, 75);

/// A map and the place of everything in its picture.
struct Picture<'a> {
    title: &'a str,
    map: &'a HeatMap<'a>,
    /// The side of a cell.
    cell: i32,
    /// Pixels of the file per pixel of the layout.
    scale: i32,
    /// How far texts are moved down, in their own sizes.
    text_drop: f64,
}

type DrawResult<B> =
    std::result::Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;
type Area<B> = DrawingArea<B, Shift>;

impl<'a> Picture<'a> {
    fn new(title: &'a str, map: &'a HeatMap<'a>, format: Format) -> Self {
        let longest = map.n_layer().max(map.n_head()) as i32;
        let (scale, text_drop) = match format {
            Format::Svg => (1, 0.0),
            // Twice the size is sharp on fine screens; and plotters sets bitmap text so much above
            // the middle.
            Format::Png => (2, 0.2),
        };
        Self { title, map, cell: (640 / longest).clamp(10, 48), scale, text_drop }
    }

    /// Width and height of the cells together.
    fn side(&self) -> (i32, i32) {
        (self.cell * self.map.n_head() as i32, self.cell * self.map.n_layer() as i32)
    }

    /// Width and height in pixels of the file.
    fn size(&self) -> (u32, u32) {
        let (width, height) = self.side();
        let size = |length: i32| (length * self.scale).unsigned_abs();
        (size(LEFT + width.max(MIN_SIDE) + RIGHT), size(TOP + height.max(MIN_SIDE) + BOTTOM))
    }

    fn draw<B: DrawingBackend>(&self, backend: B) -> DrawResult<B> {
        register_fonts();
        let area = backend.into_drawing_area();
        area.fill(&WHITE)?;
        self.draw_cells(&area)?;
        self.draw_axes(&area)?;
        self.draw_bar(&area)?;
        area.present()
    }

    /// A rectangle at `(x, y)`, in the layout's pixels.
    fn rectangle(
        &self,
        (x, y): (i32, i32),
        (width, height): (i32, i32),
        style: impl Into<ShapeStyle>,
    ) -> Rectangle<(i32, i32)> {
        let corner = (x * self.scale, y * self.scale);
        let opposite = (corner.0 + width * self.scale, corner.1 + height * self.scale);
        Rectangle::new([corner, opposite], style)
    }

    /// A text with its anchor at `(x, y)`.
    fn text<B: DrawingBackend>(
        &self,
        area: &Area<B>,
        text: &str,
        (x, y): (i32, i32),
        style: TextStyle,
    ) -> DrawResult<B> {
        let drop = (style.font.get_size() * self.text_drop) as i32;
        area.draw_text(text, &style, (x * self.scale, y * self.scale + drop))
    }

    fn style(&self, size: i32, horizontal: HPos) -> TextStyle<'static> {
        let font = ("sans-serif", size * self.scale).into_font().color(&INK);
        font.pos(Pos::new(horizontal, VPos::Center))
    }

    /// The upper left corner of a head's cell; layer 0 is at the bottom.
    fn corner(&self, site: Site) -> (i32, i32) {
        let row = self.map.n_layer() - 1 - site.layer;
        (LEFT + self.cell * site.head as i32, TOP + self.cell * row as i32)
    }

    fn draw_cells<B: DrawingBackend>(&self, area: &Area<B>) -> DrawResult<B> {
        let sites = || {
            let layers = 0..self.map.n_layer();
            layers.flat_map(|layer| (0..self.map.n_head()).map(move |head| Site::new(layer, head)))
        };
        let gap = if self.cell >= 16 { 1 } else { 0 };
        for site in sites() {
            let level = self.map.level(site);
            let (x, y) = self.corner(site);
            let side = self.cell - gap;
            area.draw(&self.rectangle((x, y), (side, side), rgb(level).filled()))?;
            if self.cell >= 32 {
                let ink = if is_light(level) { INK } else { WHITE };
                let percent = format!("{:.0}", self.map.accuracy(site) * 100.0);
                let style = self.style(14, HPos::Center).color(&ink);
                self.text(area, &percent, (x + side / 2, y + side / 2), style)?;
            }
        }
        // Outlines lie over the cells beside them.
        for site in sites().filter(|site| self.map.is_selected(*site)) {
            let (x, y) = self.corner(site);
            let width = if self.cell >= 32 { 3 } else { 2 };
            let style = OUTLINE.stroke_width((width * self.scale).unsigned_abs());
            area.draw(&self.rectangle((x - 1, y - 1), (self.cell, self.cell), style))?;
        }
        Ok(())
    }

    fn draw_axes<B: DrawingBackend>(&self, area: &Area<B>) -> DrawResult<B> {
        let (width, height) = self.side();
        let half = self.cell / 2;
        // Every number where there is room, else every second, fourth, …
        let mut step = 1;
        while self.cell * (step as i32) < 26 {
            step *= 2;
        }
        for head in (0..self.map.n_head()).step_by(step) {
            let x = LEFT + self.cell * head as i32 + half;
            let style = self.style(13, HPos::Center);
            self.text(area, &head.to_string(), (x, TOP + height + 14), style)?;
        }
        for layer in (0..self.map.n_layer()).step_by(step) {
            let y = self.corner(Site::new(layer, 0)).1 + half;
            let style = self.style(13, HPos::Right);
            self.text(area, &layer.to_string(), (LEFT - 8, y), style)?;
        }
        let label = |horizontal| self.style(15, horizontal);
        self.text(area, "head", (LEFT + width / 2, TOP + height + 38), label(HPos::Center))?;
        let upwards = label(HPos::Center).transform(FontTransform::Rotate270);
        self.text(area, "layer", (20, TOP + height / 2), upwards)?;
        self.text(area, &self.short_title(), (LEFT, TOP / 2), self.style(18, HPos::Left))
    }

    /// The title, cut to what the width of the picture holds.
    fn short_title(&self) -> String {
        const N_PIXEL: i32 = 10;
        let n_char = ((self.side().0.max(MIN_SIDE) + RIGHT) / N_PIXEL) as usize;
        match self.title.char_indices().nth(n_char) {
            Some((end, _)) => format!("{}…", &self.title[..end]),
            None => self.title.to_owned(),
        }
    }

    /// The colour bar, from the lowest accuracy below to the highest above.
    fn draw_bar<B: DrawingBackend>(&self, area: &Area<B>) -> DrawResult<B> {
        let (width, height) = self.side();
        let height = height.max(MIN_SIDE);
        let x = LEFT + width + BAR_GAP;
        for row in 0..height {
            let level = 1.0 - row as f32 / (height - 1) as f32;
            area.draw(&self.rectangle((x, TOP + row), (BAR_WIDTH, 1), rgb(level).filled()))?;
        }
        let (lowest, highest) = self.map.range();
        const N_TICK: i32 = 4;
        for tick in 0..=N_TICK {
            let share = tick as f32 / N_TICK as f32;
            let accuracy = lowest + share * (highest - lowest);
            let y = TOP + height - 1 - (share * (height - 1) as f32).round() as i32;
            let style = self.style(13, HPos::Left);
            let place = (x + BAR_WIDTH + 8, y);
            self.text(area, &format!("{:.1} %", accuracy * 100.0), place, style)?;
        }
        Ok(())
    }
}

fn rgb(level: f32) -> RGBColor {
    let Rgb(red, green, blue) = colour(level);
    RGBColor(red, green, blue)
}

/// Registers the font once: plots do not depend on the fonts of the machine.
fn register_fonts() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // Were it refused, drawing would say that the font is missing.
        let _ = register_font("sans-serif", FontStyle::Normal, dejavu::sans::regular());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a map of made-up accuracies, and gives the file.
    fn written(name: &str, n_layer: usize, n_head: usize) -> Result<Vec<u8>> {
        let wave = |i: usize| 0.5 + 0.2 * ((i as f32 * 0.37).sin() + (i as f32 * 0.011).sin());
        let accuracy: Vec<f32> = (0..n_layer * n_head).map(wave).collect();
        let mut selected: Vec<Site> =
            (0..n_layer * n_head).map(|i| Site::new(i / n_head, i % n_head)).collect();
        selected.sort_by(|a, b| {
            let accuracy = |site: &Site| accuracy[site.layer * n_head + site.head];
            accuracy(b).total_cmp(&accuracy(a))
        });
        selected.truncate(n_layer * n_head / 10);
        let map = HeatMap::new(&accuracy, n_head, selected);
        let folder = match std::env::var_os("CANDOR_TEST_PLOTS") {
            Some(folder) => folder.into(),
            None => tempfile::tempdir().unwrap().keep(),
        };
        let path = folder.join(name);
        write(&path, "tiny <llama>\x1b, named at a length that no picture holds", &map)?;
        Ok(std::fs::read(&path).unwrap())
    }

    #[test]
    fn draws_a_png() {
        for (n_layer, n_head) in [(5, 8), (32, 32), (1, 1), (80, 64)] {
            let bytes = written(&format!("{n_layer}x{n_head}.png"), n_layer, n_head).unwrap();
            assert!(bytes.starts_with(b"\x89PNG"));
        }
    }

    #[test]
    fn draws_an_svg_with_its_words() {
        let text = String::from_utf8(written("map.SVG", 5, 8).unwrap()).unwrap();
        for word in ["layer", "head", "Probe accuracy, tiny &lt;llama&gt;\u{fffd}, named at"] {
            assert!(text.contains(word), "{word} is missing");
        }
        assert_eq!(text, String::from_utf8(written("map.svg", 5, 8).unwrap()).unwrap());
    }

    #[test]
    fn refuses_another_extension() {
        let error = written("map.pdf", 5, 8).unwrap_err().to_string();
        assert!(
            error.ends_with("map.pdf: expected a file name that ends in .svg or .png"),
            "{error}"
        );
        assert!(Format::of(Path::new("map")).is_err());
    }

    #[test]
    fn refuses_a_picture_without_end() {
        let error = written("map.png", 1000, 2).unwrap_err().to_string();
        assert_eq!(error, "plot: 1000 layers or heads are more than the 256 that fit");
    }
}
