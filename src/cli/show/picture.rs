//! A picture in a terminal.

use crate::vision::Picture;

/// From dark to light, where there are no colours.
const SHADES: &[u8] = b"@%#*+=-:. ";

/// The lines of a picture that is `width` columns wide: two pixels above each other in every character,
/// in colours, or shades of one where colours are not shown.
pub(in crate::cli) fn drawn(picture: &Picture, width: u32, has_colours: bool) -> Vec<String> {
    // A character is about twice as high as it is wide.
    let n_row = (u64::from(width) * u64::from(picture.height()) / u64::from(picture.width().max(1)))
        .clamp(2, u64::from(width) * 4)
        .next_multiple_of(2) as u32;
    let pixel = |x: u32, y: u32| -> [u8; 3] { mean(picture, (x, y), (width, n_row)) };
    (0..n_row / 2)
        .map(|row| {
            let character = |x: u32| {
                let [above, below] = [pixel(x, 2 * row), pixel(x, 2 * row + 1)];
                if has_colours {
                    let [a, b, c] = above;
                    let [d, e, f] = below;
                    return format!("\x1b[38;2;{a};{b};{c};48;2;{d};{e};{f}m▀");
                }
                let light = above.iter().chain(&below).map(|&v| usize::from(v)).sum::<usize>() / 6;
                char::from(SHADES[light * (SHADES.len() - 1) / 255]).to_string()
            };
            let line: String = (0..width).map(character).collect();
            if has_colours { line + "\x1b[0m" } else { line }
        })
        .collect()
}

/// The mean colour of a cell of a grid over a picture.
fn mean(picture: &Picture, (x, y): (u32, u32), (n_x, n_y): (u32, u32)) -> [u8; 3] {
    let range = |i: u32, n: u32, length: u32| {
        let at = |i: u32| (u64::from(i) * u64::from(length) / u64::from(n)) as usize;
        at(i)..at(i + 1).max(at(i) + 1)
    };
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let (mut sums, mut n) = ([0u64; 3], 0);
    for row in range(y, n_y, picture.height()).filter(|&row| row < height) {
        for column in range(x, n_x, picture.width()).filter(|&column| column < width) {
            let start = (row * width + column) * 3;
            let pixel = &picture.rgb()[start..start + 3];
            sums.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += u64::from(value));
            n += 1;
        }
    }
    sums.map(|sum| (sum / n.max(1)) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_as_wide_as_asked_and_half_as_high() {
        let rgb = (0..48 * 48).flat_map(|i| [if i % 48 < 24 { 0 } else { 255 }; 3]).collect();
        let picture = Picture::from_rgb(rgb, 48, 48).unwrap();
        let shades = drawn(&picture, 8, false);
        assert_eq!(shades, vec!["@@@@    "; 4]);
        let colours = drawn(&picture, 8, true);
        assert_eq!(colours[0].matches('▀').count(), 8);
        assert!(
            colours[0].starts_with("\x1b[38;2;0;0;0;48;2;0;0;0m")
                && colours[0].ends_with("\x1b[0m")
        );
        // Taller than it is wide, and of a single pixel.
        assert_eq!(drawn(&Picture::from_rgb(vec![9; 30], 1, 10).unwrap(), 2, false).len(), 4);
        assert_eq!(drawn(&Picture::from_rgb(vec![9; 3], 1, 1).unwrap(), 3, false).len(), 2);
    }
}
