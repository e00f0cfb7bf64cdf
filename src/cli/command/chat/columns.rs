//! Two texts side by side.

use std::iter::repeat;

/// Wraps two texts into the columns of a terminal of `width` characters, a rule between them.
pub(super) fn side_by_side(left: &str, right: &str, width: usize) -> Vec<String> {
    let width = width.saturating_sub(3) / 2;
    let (left, right) = (wrap(left, width), wrap(right, width));
    let n_row = left.len().max(right.len());
    let fill = |column: Vec<String>| column.into_iter().chain(repeat(String::new())).take(n_row);
    fill(left)
        .zip(fill(right))
        .map(|(left, right)| format!("{left:width$} │ {right}").trim_end().to_owned())
        .collect()
}

/// A name and what it means, in lines of at most `width` characters, the meaning in a column of its own.
pub(super) fn entry(name: &str, n_name: usize, meaning: &str, width: usize) -> Vec<String> {
    let lines = wrap(meaning, width.saturating_sub(n_name + 2).max(20));
    let names = std::iter::once(name).chain(repeat(""));
    names.zip(lines).map(|(name, line)| format!("{name:n_name$}  {line}")).collect()
}

/// Breaks a text into lines of at most `width` characters, between words where that is possible.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        let mut n_char = 0;
        for word in paragraph.split_whitespace() {
            let mut word: Vec<char> = word.chars().collect();
            if n_char > 0 && n_char + 1 + word.len() > width {
                lines.push(std::mem::take(&mut line));
                n_char = 0;
            }
            if n_char > 0 {
                line.push(' ');
                n_char += 1;
            }
            while word.len() > width {
                lines.push(word.drain(..width).collect());
            }
            n_char += word.len();
            line.extend(word);
        }
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_between_words_and_inside_only_where_it_must() {
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("a\n\nb", 7), ["a", "", "b"]);
        assert_eq!(wrap("in äußerlichkeiten", 6), ["in", "äußerl", "ichkei", "ten"]);
        assert!(wrap("", 7).is_empty());
    }

    #[test]
    fn a_meaning_keeps_to_its_column() {
        let rows = entry("/on", 6, "steer with the vector again", 30);
        assert_eq!(rows, ["/on     steer with the vector", "        again"]);
    }

    #[test]
    fn the_shorter_column_is_filled() {
        let rows = side_by_side("one two three", "four", 13);
        assert_eq!(rows, ["one   │ four", "two   │", "three │"]);
    }
}
