//! What each head does over what it knows.

use plotters::prelude::*;

use super::{Area, DrawResult, INK, OUTLINE, Scale, rgb};
use crate::Site;
use crate::cli::show::heat::HeatMap;

/// A point for each head: its effect over its probe's accuracy.
pub(super) struct ScatterPanel<'a> {
    pub(super) accuracy: &'a HeatMap<'a>,
    pub(super) effect: &'a HeatMap<'a>,
    pub(super) scale: Scale,
}

impl ScatterPanel<'_> {
    /// In pixels of the layout.
    pub(super) const WIDTH: i32 = 460;

    pub(super) fn draw<B: DrawingBackend>(&self, area: &Area<B>) -> DrawResult<B> {
        let pixels = |length: i32| length * self.scale.factor;
        let font = |size: i32| ("sans-serif", pixels(size)).into_font().color(&INK);
        let range = |(low, high): (f32, f32), unit: f32| {
            let (low, high) = (low * unit, high * unit);
            let margin = 0.06 * (high - low).max(f32::EPSILON * 100.0);
            low - margin..high + margin
        };
        // Effects that are all above zero are still seen from zero.
        let (lowest, highest) = self.effect.range();
        let mut chart = ChartBuilder::on(area)
            .caption("Each head", font(18))
            .margin(pixels(14))
            .x_label_area_size(pixels(46))
            .y_label_area_size(pixels(64))
            .build_cartesian_2d(
                range(self.accuracy.range(), 100.0),
                range((lowest.min(0.0), highest.max(0.0)), 1.0),
            )?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .bold_line_style(INK.mix(0.12))
            .axis_style(INK)
            .x_labels(6)
            .y_labels(8)
            .label_style(font(13))
            .axis_desc_style(font(15))
            .x_desc("probe accuracy in %")
            .y_desc("effect in nats")
            .x_label_formatter(&|x| format!("{x:.0}"))
            .draw()?;
        let sites = || {
            let layers = 0..self.effect.n_layer();
            layers
                .flat_map(|layer| (0..self.effect.n_head()).map(move |head| Site::new(layer, head)))
        };
        for (is_selected, name) in [(false, "not steered"), (true, "steered")] {
            let style = if is_selected { OUTLINE.filled() } else { rgb(0.35).mix(0.7).filled() };
            let radius = pixels(if is_selected { 5 } else { 4 });
            let points = sites()
                .filter(|site| self.effect.is_selected(*site) == is_selected)
                .filter(|site| !self.effect.value(*site).is_nan())
                .map(|site| (self.accuracy.value(site) * 100.0, self.effect.value(site)))
                .map(|point| Circle::new(point, radius, style));
            chart
                .draw_series(points)?
                .label(name)
                .legend(move |(x, y)| Circle::new((x + radius, y), radius, style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .label_font(font(13))
            .legend_area_size(pixels(16))
            .draw()
    }
}
