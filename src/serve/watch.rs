//! The folder of vectors: what appears, changes and vanishes there.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::vectors::{self, Seen};
use super::{App, Notice};

/// How often the folder is looked at.
const PERIOD: Duration = Duration::from_secs(1);

/// What was there when it was looked at last.
#[derive(Debug, Default)]
pub(super) struct Watched(Seen);

/// Takes up what changed since the last look. Answers that are being written keep what steers them.
pub(super) fn look(app: &App, notify: &dyn Fn(Notice)) {
    let Some(folder) = &app.params.vectors else { return };
    let mut watched = app.watched.lock().unwrap_or_else(PoisonError::into_inner);
    // A folder that is gone for a moment, as where it is replaced, holds nothing meanwhile.
    let seen = vectors::look(folder).unwrap_or_default();
    if seen == watched.0 {
        return;
    }
    let mut found = Vec::new();
    for (path, state) in &seen {
        match app.read(path) {
            Ok(vector) => found.push(vector),
            Err(error) if watched.0.get(path) != Some(state) => {
                notify(Notice::Refused(path.clone(), error.to_string()));
            }
            Err(_) => {}
        }
    }
    let mut vectors = app.vectors().clone();
    let before = vectors.names();
    for (path, problem) in vectors.replace(found) {
        if watched.0.get(&path) != seen.get(&path) {
            notify(Notice::Refused(path, problem));
        }
    }
    watched.0 = seen;
    let after = vectors.names();
    *app.vectors.write().unwrap_or_else(PoisonError::into_inner) = vectors;
    if before != after {
        notify(Notice::Changed(after));
    }
}

/// Looks as long as the server runs.
pub(super) async fn watch(app: Arc<App>, notify: Arc<dyn Fn(Notice) + Send + Sync>) {
    if app.params.vectors.is_none() {
        return;
    }
    loop {
        tokio::time::sleep(PERIOD).await;
        let (app, notify) = (Arc::clone(&app), Arc::clone(&notify));
        let looked = tokio::task::spawn_blocking(move || {
            look(&app, &*notify);
        });
        if looked.await.is_err() {
            return;
        }
    }
}
