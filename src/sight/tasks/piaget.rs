//! The conservation tasks: two of a thing, one quantity asked for, another that catches the eye.
//!
//! Every picture is drawn from a *mean* and a *gap* of either quantity, the same draws whatever the
//! answer: for "same" both sides get the mean. So neither the sum of the two sides nor where the
//! picture as a whole is dark says anything about the answer.

use std::f64::consts::PI;

use rand::RngExt;

use super::scene::Scene;

/// Draws rows of dots: how many there are, against how far they spread.
pub(super) fn number(scene: &mut Scene) {
    let [n_first, n_second] = counts(scene);
    let spans = scene.drawn_seen(0.60..0.68, 0.12..0.28);
    // All dots of a row together have the same area, however many they are.
    let row_size: [f64; 2] = [(); 2].map(|()| scene.size(0.034..0.042));
    let [ink, _] = scene.inks();
    for (row, n) in [n_first, n_second].into_iter().enumerate() {
        let span = spans[row];
        let start = scene.place(0.07 + span / 2.0..0.93 - span / 2.0) - span / 2.0;
        let y = [0.29, 0.71][row] + scene.jitter(0.05);
        let radius = row_size[row] * scene.ease(0.8) * (4.5 / n).sqrt();
        for i in 0..n as usize {
            let x = start + span * i as f64 / (n - 1.0);
            let at = [x, y + scene.jitter(0.012)];
            scene.canvas.dot(at, radius, ink);
        }
    }
    scene.asked([n_first, n_second]);
}

/// Two numbers of dots. Their sum has nearly the same spread whether they are equal or not.
pub(super) fn counts(scene: &mut Scene) -> [f64; 2] {
    let least = scene.ease_pick(5, 3, 3);
    let most = scene.ease_pick(1, 3, 3);
    if scene.is_same() {
        let at = [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3];
        let n = least + at[scene.rng.random_range(0..at.len())];
        return [f64::from(n); 2];
    }
    let small = scene.rng.random_range(0..3);
    let large = scene.rng.random_range(small + 1..=3.min(small + most));
    scene.order_by_truth([f64::from(least + large), f64::from(least + small)])
}

/// Draws sticks: how long they are, against where their right ends lie.
pub(super) fn length(scene: &mut Scene) {
    let lengths = scene.drawn_truth(0.42..0.50, 0.10..0.22);
    let ends = scene.drawn_seen(0.78..0.86, 0.08..0.18);
    let ink = scene.inks();
    for side in 0..2 {
        let y = [0.30, 0.70][side] + scene.jitter(0.06);
        let slope = scene.slope(0.16);
        // A longer stick is thinner: as much ink. Its round ends count as part of it.
        let ink_area = scene.width(0.036..0.066) * 0.46;
        let width = stick_width(lengths[side], ink_area);
        let (cos, sin) = (slope.cos(), slope.sin());
        let end = [ends[side] - width / 2.0 * cos, y + (lengths[side] - width) / 2.0 * sin];
        let inner = lengths[side] - width;
        let points = [[end[0] - inner * cos, end[1] - inner * sin], end];
        scene.canvas.line(&points, width, ink[side]);
    }
}

/// The width of a stick with round ends that covers an area: the smaller root of
/// `area = width (length - width) + pi width^2 / 4`.
pub(super) fn stick_width(length: f64, area: f64) -> f64 {
    let bend = 1.0 - PI / 4.0;
    (length - (length * length - 4.0 * bend * area).sqrt()) / (2.0 * bend)
}

/// Draws angles: how far they open, against how long their arms are.
pub(super) fn angle(scene: &mut Scene) {
    let openings = scene.drawn_truth(56.0..76.0, 18.0..40.0);
    let arms = scene.drawn_seen(0.205..0.235, 0.06..0.10);
    let ink = scene.inks();
    for side in 0..2 {
        let x = [0.27, 0.73][side] + scene.jitter(0.015);
        let y = 0.6 + scene.jitter(0.12);
        let turn = -PI / 2.0 + scene.slope(0.3);
        let corner = corner([x, y], turn, openings[side], arms[side]);
        let width = scene.width(0.030..0.046);
        scene.canvas.line(&corner, width, ink[side]);
    }
}

/// The lines of an angle: an arm's end, the vertex, the other arm's end. It opens by so many degrees
/// around the direction `turn`, in radians.
pub(super) fn corner(vertex: [f64; 2], turn: f64, opening: f64, arm: f64) -> [[f64; 2]; 3] {
    let half = opening.to_radians() / 2.0;
    let end = |at: f64| [vertex[0] + arm * at.cos(), vertex[1] + arm * at.sin()];
    [end(turn - half), vertex, end(turn + half)]
}

/// Draws glasses of water: how much water there is, against how high it stands.
pub(super) fn liquid(scene: &mut Scene) {
    let mean: f64 = scene.rng.random_range(0.09..0.11);
    let gap = scene.gap(0.28..0.50);
    let areas = scene.truth(mean.ln(), gap).map(f64::exp);
    let tallest: f64 = scene.rng.random_range(0.42..0.48);
    let gap = scene.gap(0.22..0.40);
    let heights = scene.seen(tallest.ln(), gap).map(f64::exp);
    let wall = scene.width(0.018..0.032);
    for side in 0..2 {
        let x = [0.27, 0.73][side] + scene.jitter(0.01);
        let base = 0.9 + scene.jitter(0.03);
        let (area, height) = (areas[side], heights[side]);
        let half = area / height / 2.0;
        // More water is paler, and a wider bottom counts: as much ink.
        let glass_shade = 0.8;
        let all_ink = scene.shade(0.44..0.62) * mean - glass_shade * wall * half * 2.0;
        let water = [half * 2.0 - wall, height - wall / 2.0];
        let ink = scene.ink(all_ink / (water[0] * water[1]));
        let glass = scene.ink(glass_shade);
        scene.canvas.rect([x - half + wall / 2.0, base - height], water, ink);
        let rim = base - 0.7 - scene.jitter(0.04);
        let outline = [[x - half, rim], [x - half, base], [x + half, base], [x + half, rim]];
        scene.canvas.line(&outline, wall, glass);
    }
    scene.asked(areas);
    scene.looked(heights);
}
