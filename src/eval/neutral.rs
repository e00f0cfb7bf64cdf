//! Text that asks nothing, for what steering costs.

const PROSE: &str = include_str!("../../models/neutral.txt");

/// Documents of plain English prose that ask nothing, in the public domain: what CE and KL are measured
/// on where nobody has text of their own.
#[must_use]
pub fn neutral_prose() -> Vec<&'static str> {
    PROSE.lines().filter(|line| !line.trim().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_documents_to_part_in_two() {
        assert!(neutral_prose().len() >= 20);
    }
}
