//! How well something is read at every stage of a network, from its input on.

use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::charts::{drawn, font};
use super::{INK, OUTLINE, rgb};
use crate::Result;

/// Stages that lie one behind the other, such as the layers of an encoder.
pub(in crate::cli) struct Part {
    pub(in crate::cli) name: &'static str,
    /// The layer of each of its stages, where they are layers.
    pub(in crate::cli) layers: Vec<Option<usize>>,
}

/// A reader, and what it reads at each stage of all parts: value and the ends of its interval, in percent.
pub(in crate::cli) struct Line {
    pub(in crate::cli) name: &'static str,
    pub(in crate::cli) values: Vec<Option<[f64; 3]>>,
}

/// A value that belongs to no stage, in percent.
pub(in crate::cli) struct Level {
    pub(in crate::cli) name: &'static str,
    pub(in crate::cli) value: f64,
    /// What the model says, which stands out.
    pub(in crate::cli) is_said: bool,
}

const WIDTH: u32 = 720;
const HEIGHT: u32 = 430;
/// Least pixels between two numbers of layers.
const APART: i32 = 22;

type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn<'b> =
    std::result::Result<(), DrawingAreaErrorKind<<SVGBackend<'b> as DrawingBackend>::ErrorType>>;

/// The first line with its intervals, the others beside it, levels dashed across.
pub(in crate::cli) fn depth_svg(
    unit: &str,
    parts: &[Part],
    lines: &[Line],
    levels: &[Level],
) -> Result<String> {
    let n: usize = parts.iter().map(|part| part.layers.len()).sum();
    drawn((WIDTH, HEIGHT), |area| {
        let (above, below) = area.split_vertically(HEIGHT as i32 - 64);
        let mut chart = ChartBuilder::on(&above)
            .margin(10)
            .margin_bottom(40)
            .y_label_area_size(56)
            .build_cartesian_2d(-0.7..n as f64 - 0.3, 0.0..102.0)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .disable_x_axis()
            .light_line_style(WHITE)
            .bold_line_style(INK.mix(0.12))
            .axis_style(INK.mix(0.4))
            .label_style(font(14))
            .axis_desc_style(font(15))
            .y_desc(unit)
            .y_labels(6)
            .y_label_formatter(&|y| format!("{y:.0}"))
            .draw()?;
        name_parts(&chart, area, parts)?;
        for level in levels {
            let colour = if level.is_said { OUTLINE } else { RGBColor(120, 120, 120) };
            let width = if level.is_said { 3 } else { 1 };
            let points = [(-0.7, level.value), (n as f64 - 0.3, level.value)];
            let (dash, gap) = if level.is_said { (14, 0) } else { (4, 4) };
            chart.draw_series(DashedLineSeries::new(
                points,
                dash,
                gap,
                colour.stroke_width(width),
            ))?;
        }
        for (i, line) in lines.iter().enumerate().rev() {
            let style = colour_of(i, lines.len()).stroke_width(if i == 0 { 3 } else { 2 });
            let mut start = 0;
            for part in parts {
                let own = line.values.iter().enumerate().skip(start).take(part.layers.len());
                let points: Vec<(f64, [f64; 3])> =
                    own.filter_map(|(x, value)| Some((x as f64, (*value)?))).collect();
                start += part.layers.len();
                if i == 0 {
                    for &(x, [_, low, high]) in &points {
                        let line = vec![(x, low), (x, high)];
                        chart.draw_series([PathElement::new(line, style.color.stroke_width(1))])?;
                    }
                }
                let line = points.iter().map(|&(x, [value, ..])| (x, value));
                chart.draw_series(LineSeries::new(line.clone(), style))?;
                let size = if n > 60 { 2 } else { 4 };
                chart.draw_series(line.map(|point| Circle::new(point, size, style.filled())))?;
            }
        }
        let names =
            lines.iter().enumerate().map(|(i, line)| (line.name, colour_of(i, lines.len())));
        let levels = levels.iter().map(|level| {
            let colour = if level.is_said { OUTLINE } else { RGBColor(120, 120, 120) };
            (level.name, colour)
        });
        legend(&below, &names.chain(levels).collect::<Vec<_>>())
    })
}

fn colour_of(i: usize, n: usize) -> RGBColor {
    rgb(0.15 + 0.7 * i as f32 / n.max(2) as f32)
}

/// Writes the numbers of layers below their stages, and the name of each part below those.
fn name_parts<'b>(
    chart: &Chart<'_, 'b>,
    area: &super::Area<SVGBackend<'b>>,
    parts: &[Part],
) -> Drawn<'b> {
    let centred = |size| font(size).pos(Pos::new(HPos::Center, VPos::Center));
    let mut start = 0;
    for part in parts {
        let n = part.layers.len();
        let at = |x: f64, y: f64| chart.backend_coord(&(x, y));
        let mut last = i32::MIN / 2;
        for (i, layer) in part.layers.iter().enumerate() {
            let (x, y) = at((start + i) as f64, 0.0);
            if let Some(layer) = layer.filter(|_| x - last >= APART) {
                area.draw_text(&layer.to_string(), &centred(12), (x, y + 12))?;
                last = x;
            }
        }
        let (x, y) = at(start as f64 + (n as f64 - 1.0) / 2.0, 0.0);
        area.draw_text(part.name, &centred(14), (x, y + 30))?;
        start += n;
        if start > n {
            // A line before it.
            let (x, bottom) = at((start - n) as f64 - 0.5, 0.0);
            let (_, top) = at(0.0, 102.0);
            let line = vec![(x, top), (x, bottom)];
            area.draw(&PathElement::new(line, INK.mix(0.25).stroke_width(1)))?;
        }
    }
    Ok(())
}

/// Names with their colours, in two lines.
fn legend<'b>(area: &super::Area<SVGBackend<'b>>, names: &[(&str, RGBColor)]) -> Drawn<'b> {
    let n_column = names.len().div_ceil(2).max(1);
    let width = (WIDTH as i32 - 20) / n_column as i32;
    for (i, (name, colour)) in names.iter().enumerate() {
        let (row, column) = (i / n_column, i % n_column);
        let (x, y) = (14 + column as i32 * width, 16 + row as i32 * 26);
        let line = vec![(x, y), (x + 22, y)];
        area.draw(&PathElement::new(line, colour.stroke_width(3)))?;
        let style = font(14).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw_text(name, &style, (x + 30, y))?;
    }
    Ok(())
}
