//! Token pieces to text: whole characters only, and nothing past a stop string.

/// Assembles the pieces of an answer into text that can be shown as it comes.
///
/// A piece may end inside a character, and a stop string may begin at the end of one; both are held
/// back until the next piece decides.
#[derive(Debug, Default, Clone)]
pub struct TextStream {
    stops: Vec<String>,
    bytes: Vec<u8>,
    n_shown: usize,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends before the first of these strings.
    #[must_use]
    pub fn until(stops: &[&str]) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).map(|&s| s.to_owned()).collect();
        Self { stops, ..Self::default() }
    }

    /// Takes a piece and gives the text that is now certain.
    pub fn push(&mut self, piece: &[u8]) -> &str {
        if self.stopped {
            return "";
        }
        self.bytes.extend_from_slice(piece);
        let text = &self.bytes[self.n_shown..];
        let first = self.stops.iter().filter_map(|stop| find(text, stop.as_bytes())).min();
        let n_certain = match first {
            Some(at) => {
                self.stopped = true;
                self.bytes.truncate(self.n_shown + at);
                at
            }
            None => {
                let held =
                    self.stops.iter().map(|stop| overlap(text, stop.as_bytes())).max().unwrap_or(0);
                whole_characters(&text[..text.len() - held])
            }
        };
        let start = self.n_shown;
        self.n_shown += n_certain;
        // A model may write bytes that are no UTF-8 at all: those are shown by `finish` only.
        std::str::from_utf8(&self.bytes[start..self.n_shown]).unwrap_or("")
    }

    /// Whether a stop string came.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// What was held back at the end and never became a stop string or a whole character.
    pub fn rest(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.bytes[self.n_shown..]).into_owned();
        self.n_shown = self.bytes.len();
        rest
    }

    /// All text, with what is no UTF-8 replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Where `needle` begins in `text`.
fn find(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

/// The length of the longest end of `text` that begins `stop`.
fn overlap(text: &[u8], stop: &[u8]) -> usize {
    (1..stop.len().min(text.len() + 1)).rev().find(|&n| text.ends_with(&stop[..n])).unwrap_or(0)
}

/// The length of `text` without an unfinished character at its end.
fn whole_characters(text: &[u8]) -> usize {
    match std::str::from_utf8(text) {
        Ok(_) => text.len(),
        Err(e) if e.error_len().is_none() => e.valid_up_to(),
        Err(_) => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, TextStream) {
        let mut stream = TextStream::until(stops);
        let shown = pieces.iter().map(|p| stream.push(p).to_owned()).collect();
        (shown, stream)
    }

    #[test]
    fn holds_back_what_may_become_a_stop_string() {
        let (shown, mut stream) = shown(&["Q:"], &[b"A cat. Q", b"uick.", b" Q", b": no"]);
        assert_eq!(shown, ["A cat. ", "Quick.", " ", ""]);
        assert!(stream.stopped());
        assert_eq!((stream.rest().as_str(), stream.text().as_str()), ("", "A cat. Quick. "));
    }

    #[test]
    fn holds_back_half_a_character() {
        let (shown, mut stream) = shown(&[], &[b"caf", &[0xC3], &[0xA9], &[0xE2, 0x82]]);
        assert_eq!(shown, ["caf", "", "é", ""]);
        assert_eq!(stream.rest(), "\u{FFFD}");
    }

    #[test]
    fn takes_the_first_of_several_stop_strings() {
        let (shown, stream) = shown(&["\n", "Q:"], &[b"yes Q:\n"]);
        assert_eq!(shown, ["yes "]);
        assert_eq!(stream.text(), "yes ");
    }
}
