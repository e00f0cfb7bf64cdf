//! Drawing: shapes in shares of the picture's side, then noise, then bytes.

use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tiny_skia::{
    Color, FillRule, LineCap, LineJoin, Paint, PathBuilder, Pixmap, Rect, Stroke, Transform,
};

use crate::error::{Error, Result};

/// A picture in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// U8 `[height, width, 3]`: red, green, blue.
    pub rgb: Vec<u8>,
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

impl Picture {
    /// The picture as a PNG file.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `rgb` has not the length that width and height ask for.
    pub fn png(&self) -> Result<Vec<u8>> {
        let Self { rgb, width, height } = self;
        if rgb.len() as u64 != u64::from(*width) * u64::from(*height) * 3 {
            let problem = format!("has {} bytes, not {width} x {height} x 3", rgb.len());
            return Err(Error::invalid("picture", problem));
        }
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes)
            .write_image(rgb, *width, *height, ExtendedColorType::Rgb8)
            .map_err(|error| Error::invalid("picture", format!("is no PNG: {error}")))?;
        Ok(bytes)
    }
}

/// A colour, each channel from 0 to 255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Ink(pub [f64; 3]);

/// What the eye makes of red, green and blue (Rec. 601).
pub(super) const LUMA: [f64; 3] = [0.299, 0.587, 0.114];

impl Ink {
    /// This colour, darker by the share `darkness`, its hue turned by `tint` (two numbers between
    /// -1 and 1) without any change of its brightness.
    pub(super) fn darker(self, darkness: f64, tint: [f64; 2]) -> Self {
        const STRENGTH: f64 = 60.0;
        let [red, blue] = tint.map(|t| t * STRENGTH);
        // What red and blue gain in brightness, green gives back.
        let green = -(red * LUMA[0] + blue * LUMA[2]) / LUMA[1];
        let change = [red, green, blue];
        Self(std::array::from_fn(|i| self.0[i] * (1.0 - darkness) + change[i]))
    }

    fn color(self) -> Color {
        let [r, g, b] = self.0.map(|c| (c / 255.0).clamp(0.0, 1.0) as f32);
        Color::from_rgba(r, g, b, 1.0).expect("channels within 0 and 1")
    }
}

/// A square to draw on. Coordinates and lengths are shares of its side; y grows downwards.
pub(super) struct Canvas {
    pixels: Pixmap,
    side: f64,
}

impl Canvas {
    /// A square of `side` pixels, from 1 to 65,535.
    pub(super) fn new(side: u32, ground: Ink) -> Self {
        let mut pixels = Pixmap::new(side, side).expect("the size was checked");
        pixels.fill(ground.color());
        Self { pixels, side: f64::from(side) }
    }

    /// A filled disc.
    pub(super) fn dot(&mut self, [x, y]: [f64; 2], radius: f64, ink: Ink) {
        let path = PathBuilder::from_circle(self.at(x), self.at(y), self.at(radius));
        if let Some(path) = path {
            let paint = paint(ink);
            self.pixels.fill_path(&path, &paint, FillRule::Winding, Transform::identity(), None);
        }
    }

    /// A line through the points, with round ends.
    pub(super) fn line(&mut self, points: &[[f64; 2]], width: f64, ink: Ink) {
        let mut path = PathBuilder::new();
        for (i, &[x, y]) in points.iter().enumerate() {
            let (x, y) = (self.at(x), self.at(y));
            if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
        }
        if let Some(path) = path.finish() {
            let (line_cap, line_join) = (LineCap::Round, LineJoin::Round);
            let stroke = Stroke { width: self.at(width), line_cap, line_join, ..Stroke::default() };
            self.pixels.stroke_path(&path, &paint(ink), &stroke, Transform::identity(), None);
        }
    }

    /// A filled upright rectangle.
    pub(super) fn rect(&mut self, [x, y]: [f64; 2], [width, height]: [f64; 2], ink: Ink) {
        let rect = Rect::from_xywh(self.at(x), self.at(y), self.at(width), self.at(height));
        if let Some(rect) = rect {
            self.pixels.fill_rect(rect, &paint(ink), Transform::identity(), None);
        }
    }

    /// The picture, each channel changed by at most `noise`. The noise has at most
    /// [`NOISE_CELLS`] cells a side: in a large picture, cells of several pixels.
    pub(super) fn finish(self, noise: u8, rng: &mut ChaCha8Rng) -> Picture {
        let side = self.pixels.width();
        let n_cell = side.min(NOISE_CELLS);
        let noise = i16::from(noise);
        let cells: Vec<[i16; 3]> = (0..n_cell * n_cell)
            .map(|_| std::array::from_fn(|_| rng.random_range(-noise..=noise)))
            .collect();
        let cell = |i: u32| (u64::from(i) * u64::from(n_cell) / u64::from(side)) as usize;
        let mut rgb = Vec::with_capacity(self.pixels.pixels().len() * 3);
        for (y, row) in (0..side).zip(self.pixels.pixels().chunks(side as usize)) {
            for (x, pixel) in (0..side).zip(row) {
                let change = cells[cell(y) * n_cell as usize + cell(x)];
                let channels = [pixel.red(), pixel.green(), pixel.blue()];
                rgb.extend(
                    channels
                        .iter()
                        .zip(change)
                        .map(|(&c, n)| (i16::from(c) + n).clamp(0, 255) as u8),
                );
            }
        }
        Picture { rgb, width: side, height: side }
    }

    fn at(&self, share: f64) -> f32 {
        (share * self.side) as f32
    }
}

/// Cells of noise a side, at most.
const NOISE_CELLS: u32 = 64;

fn paint(ink: Ink) -> Paint<'static> {
    let mut paint = Paint::default();
    paint.set_color(ink.color());
    paint.anti_alias = true;
    paint
}
