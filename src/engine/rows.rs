//! Which bank row holds what.

use super::request::{Key, Steer};
use crate::{Error, Result, Session};

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    /// What it adds; 0 where nothing was loaded.
    key: Key,
    n_user: usize,
    used: u64,
}

/// The rows of a session's banks, from 1 on.
#[derive(Debug)]
pub(super) struct Rows {
    rows: Vec<Row>,
    clock: u64,
}

impl Rows {
    pub(super) fn new(n_row: usize) -> Self {
        Self { rows: vec![Row::default(); n_row], clock: 0 }
    }

    /// A row that adds this, loaded where none does yet; 0 for nothing.
    pub(super) fn take(&mut self, steer: Option<&Steer>, session: &mut Session) -> Result<usize> {
        let Some(steer) = steer else { return Ok(0) };
        self.clock += 1;
        let key = steer.key();
        let found = self.rows.iter().position(|row| row.key == key);
        let free = || {
            let free = self.rows.iter().enumerate().filter(|(_, row)| row.n_user == 0);
            free.min_by_key(|(_, row)| row.used).map(|(i, _)| i)
        };
        let Some(i) = found.or_else(free) else {
            return Err(Error::invalid("bank", "all of its rows are in use"));
        };
        if found.is_none() {
            self.rows[i].key = 0;
            let parts = steer.parts().iter().map(|(vector, alpha)| (&**vector, *alpha));
            session.set_vector(i + 1, parts)?;
            self.rows[i].key = key;
        }
        self.rows[i].n_user += 1;
        self.rows[i].used = self.clock;
        Ok(i + 1)
    }

    /// Gives a row back; what it holds stays until the row is needed.
    pub(super) fn give(&mut self, row: usize) {
        if let Some(row) = row.checked_sub(1).and_then(|i| self.rows.get_mut(i)) {
            row.n_user = row.n_user.saturating_sub(1);
        }
    }
}
