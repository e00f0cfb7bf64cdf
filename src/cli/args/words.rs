//! Arguments as they are typed: what one command says of another.

/// The words of a command.
#[derive(Debug, Default)]
pub(in crate::cli) struct Words(Vec<String>);

impl Words {
    /// A command of candor.
    pub(in crate::cli) fn of(command: &str) -> Self {
        Self(vec!["candor".to_owned(), command.to_owned()])
    }

    /// An option, where it has a value.
    pub(in crate::cli) fn add(&mut self, name: &str, value: Option<impl ToString>) {
        if let Some(value) = value {
            self.0.extend([name.to_owned(), value.to_string()]);
        }
    }

    /// An option without a value, where it is set.
    pub(in crate::cli) fn flag(&mut self, name: &str, is_set: bool) {
        self.0.extend(is_set.then(|| name.to_owned()));
    }

    pub(in crate::cli) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    pub(in crate::cli) fn as_slice(&self) -> &[String] {
        &self.0
    }
}
