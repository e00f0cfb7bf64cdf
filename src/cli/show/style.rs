//! How words look that stand out.

use anstyle::Style;

/// A heading or a label that matters.
pub(in crate::cli) const BOLD: Style = Style::new().bold();
/// What is there for completeness.
pub(in crate::cli) const DIM: Style = Style::new().dimmed();
