//! The tasks of *Why Vision Language Models Struggle with Visual Arithmetic?* (Huang et al., 2025),
//! each a question with yes or no, and a measurement that the eye takes instead.
//!
//! The paper's own pictures are not public in a form that says how they were made: these are drawn
//! after its description.

use std::f64::consts::PI;

use rand::RngExt;

use super::piaget::{corner, stick_width};
use super::scene::Scene;

/// Draws lines side by side: how long they are, against how wide they spread.
pub(super) fn length_comparison(scene: &mut Scene) {
    let lengths = scene.drawn_truth(0.34..0.38, 0.06..0.10);
    let spreads = scene.drawn_seen(0.19..0.22, 0.06..0.12);
    let ink = scene.inks();
    for side in 0..2 {
        let x = [0.27, 0.73][side] + scene.jitter(0.03);
        let y = 0.5 + scene.jitter(0.15);
        let rise = (lengths[side].powi(2) - spreads[side].powi(2)).sqrt();
        let rise = if scene.rng.random() { rise } else { -rise };
        // A longer line is thinner; its round ends count as part of it.
        let ink_area = scene.width(0.026..0.046) * 0.36;
        let width = stick_width(lengths[side], ink_area);
        let inner = 1.0 - width / lengths[side];
        let (dx, dy) = (spreads[side] / 2.0 * inner, rise / 2.0 * inner);
        scene.canvas.line(&[[x - dx, y - dy], [x + dx, y + dy]], width, ink[side]);
    }
}

/// Draws two lines that cross: whether at a right angle, against whether one of them lies level.
pub(super) fn perpendicular(scene: &mut Scene) {
    let off = scene.gap(18.0..40.0);
    let between = if scene.is_same() { 90.0 } else { 90.0 - off };
    let tilt = scene.gap(24.0..40.0);
    let tilt = if scene.looks_same() { 0.0 } else { tilt };
    scene.asked([between, 90.0]);
    scene.looked([tilt, 0.0]);
    let [one, other] = [(); 2].map(|()| if scene.rng.random() { 1.0 } else { -1.0 });
    // Nothing is quite level: a line that was would lie in one half of the picture alone.
    let first = tilt.to_radians() * one + scene.slope(0.2);
    let second = first + between.to_radians() * other;
    let (x, y) = (0.5 + scene.jitter(0.16), 0.5 + scene.jitter(0.16));
    let ink = scene.inks();
    for (turn, ink) in [first, second].into_iter().zip(ink) {
        let half = scene.size(0.14..0.28);
        // Where on the line the other one crosses it.
        let shift = scene.jitter(0.06);
        let width = scene.width(0.018..0.050);
        let end = |at: f64| [x + at * turn.cos(), y + at * turn.sin()];
        scene.canvas.line(&[end(shift - half), end(shift + half)], width, ink);
    }
}

/// Draws a dark point among pale ones over two axes, a part of each marked: whether its height lies in
/// the upright axis's part, against whether its width lies in that of the level one.
pub(super) fn chart(scene: &mut Scene) {
    let is_in = [scene.looks_same(), scene.is_same()];
    let (least, most) = (0.10, 0.96);
    let ink = scene.ink(0.75);
    let axis = scene.width(0.012..0.022);
    let (left, base) = (least, 1.0 - least);
    scene.canvas.line(&[[left, 1.0 - most], [left, base], [most, base]], axis, ink);
    let mut at = [0.0; 2];
    let mut distances = [[0.0; 2]; 2];
    for (i, is_in) in is_in.into_iter().enumerate() {
        // The same draws for both answers: the middle between point and part, half of the part, how
        // far from its edge the point lies, and on which side.
        let half: f64 = scene.size(0.08..0.12);
        let off: f64 = scene.gap(0.045..0.07).min(half);
        let between = scene.place(least + 0.22..most - 0.22);
        let side = if scene.rng.random() { 1.0 } else { -1.0 };
        let distance = if is_in { half - off } else { half + off };
        let point = between - side * distance / 2.0;
        let middle = between + side * distance / 2.0;
        distances[i] = [(middle - point).abs(), half];
        at[i] = point;
        let (from, to) = (middle - half, middle + half);
        let mark = scene.ink(0.9);
        let points = match i {
            0 => [[from, base], [to, base]],
            _ => [[left, 1.0 - from], [left, 1.0 - to]],
        };
        scene.canvas.line(&points, axis * 3.0, mark);
    }
    for _ in 0..6 {
        let pale = scene.shade(0.3..0.5);
        let ink = scene.ink(pale);
        let at = [(); 2].map(|()| scene.rng.random_range(least + 0.08..most - 0.04));
        let radius = scene.size(0.022..0.048);
        scene.canvas.dot([at[0], 1.0 - at[1]], radius, ink);
    }
    let dot = scene.size(0.026..0.048);
    let ink = scene.ink(0.9);
    scene.canvas.dot([at[0], 1.0 - at[1]], dot, ink);
    scene.looked(distances[0]);
    scene.asked(distances[1]);
    scene.parameters.extend([("point_x", at[0]), ("point_y", at[1])]);
}

/// Draws meadows with houses: how much grass is left, against how far the houses are scattered.
pub(super) fn area(scene: &mut Scene) {
    // Fewer houses, more grass.
    let [n_second, n_first] = super::piaget::counts(scene);
    // Houses that stand close leave more grass, to the eye.
    let [second, first] = scene.drawn_seen(0.235..0.255, 0.05..0.09);
    let house = scene.size(0.046..0.054) * scene.ease(0.85);
    let (field, shade) = (0.4, scene.shade(0.18..0.26));
    let dark: [f64; 2] = [(); 2].map(|()| scene.shade(0.30..0.46));
    let tops: [f64; 2] = [(); 2].map(|()| 0.3 + scene.jitter(0.08));
    for (side, (n, spread)) in [(n_first, first), (n_second, second)].into_iter().enumerate() {
        let left = [0.05, 0.55][side] + scene.jitter(0.03);
        let meadow = scene.ink(shade);
        scene.canvas.rect([left, tops[side]], [field, field], meadow);
        // More houses are paler: as much ink.
        let ink = scene.ink(shade + dark[side] * 4.5 / n);
        let pitch = spread / 3.0;
        let room = field - spread;
        let corner = [left, tops[side]].map(|edge| edge + scene.place(0.1 * room..0.9 * room));
        let mut cells: Vec<usize> = (0..9).collect();
        rand::seq::SliceRandom::shuffle(&mut cells[..], &mut scene.rng);
        for &cell in &cells[..n as usize] {
            let at = [corner[0] + (cell % 3) as f64 * pitch, corner[1] + (cell / 3) as f64 * pitch];
            scene.canvas.rect(at, [house, house], ink);
        }
    }
    let grass = |n: f64| field * field - n * house * house;
    scene.asked([grass(n_first), grass(n_second)]);
    scene.looked([-first, -second]);
}

/// Draws angles in any turn: how far they open, against how long their arms are.
pub(super) fn angle_comparison(scene: &mut Scene) {
    let openings = scene.drawn_truth(56.0..84.0, 18.0..40.0);
    let arms = scene.drawn_seen(0.23..0.26, 0.07..0.11);
    let ink = scene.inks();
    for side in 0..2 {
        let turn = scene.slope(PI);
        let half = openings[side].to_radians() / 2.0;
        // The middle of the arms' ends and the vertex lies near the middle of the half.
        let back = arms[side] * half.cos() / 2.0;
        let x = [0.26, 0.74][side] + scene.jitter(0.02) - back * turn.cos();
        let y = 0.5 + scene.jitter(0.16) - back * turn.sin();
        let corner = corner([x, y], turn, openings[side], arms[side]);
        let width = scene.width(0.026..0.040);
        scene.canvas.line(&corner, width, ink[side]);
    }
}
