//! Talking to a program that is steered.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Error, Result};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const MAX_ANSWER: u32 = 1 << 24;

/// The socket of a program that is steered.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    pid: u32,
}

/// What a steered program says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What is going on, in words.
    pub state: String,
    /// Tokens that were steered so far.
    pub n_token: u64,
    /// [`Plan::settings`](super::Plan::settings) of the plan in force.
    pub settings: String,
}

/// The folder of plans and sockets, which belongs to this user alone: `$XDG_RUNTIME_DIR/candor`, or
/// `/tmp/candor-<uid>` without one. It is made where it is not there.
///
/// # Errors
/// [`Error::Invalid`] where it cannot be made or others may enter it.
pub fn runtime_folder() -> Result<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let uid = std::fs::metadata("/proc/self").map_or_else(|_| own_uid(), |found| found.uid());
    let folder = match runtime.filter(|folder| folder.is_absolute()) {
        Some(folder) => folder.join("candor"),
        None => PathBuf::from(format!("/tmp/candor-{uid}")),
    };
    let refuse = |problem: String| Error::invalid(folder.display().to_string(), problem);
    match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(refuse(format!("cannot be made ({error}): set XDG_RUNTIME_DIR")));
        }
        _ => {}
    }
    let found = std::fs::symlink_metadata(&folder).map_err(Error::io("look at", &folder))?;
    if !found.is_dir() || found.uid() != uid || found.permissions().mode() & 0o077 != 0 {
        return Err(refuse(
            "is not a folder that belongs to you alone: remove it, or chmod 700".to_owned(),
        ));
    }
    Ok(folder)
}

/// The user's number, by a file of theirs, where there is no /proc.
fn own_uid() -> u32 {
    tempfile::tempfile().and_then(|file| file.metadata()).map_or(0, |found| found.uid())
}

impl Socket {
    /// The socket of the process `pid`.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is none.
    pub fn of(pid: u32) -> Result<Self> {
        let path = runtime_folder()?.join(format!("{pid}.sock"));
        if !path.exists() {
            let problem = "it is not steered by candor, or has not yet begun to compute: start it with \
                           `candor attach -- PROGRAM`";
            return Err(Error::invalid(format!("process {pid}"), problem));
        }
        Ok(Self { path, pid })
    }

    /// What the program says of itself.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the program is gone or does not answer.
    pub fn status(&self) -> Result<Status> {
        let answer = self.ask(b'G', &[])?;
        let mut lines = answer.splitn(3, '\n');
        let mut next = || lines.next().unwrap_or_default().to_owned();
        let (state, n_token, settings) = (next(), next(), next());
        Ok(Status { state, n_token: n_token.parse().unwrap_or(0), settings })
    }

    /// Gives the program another plan, from its next computation on.
    ///
    /// # Errors
    /// As [`Socket::status`], and where the program refuses the plan.
    pub fn set(&self, plan: &[u8]) -> Result<()> {
        match self.ask(b'S', plan)?.as_str() {
            "ok" => Ok(()),
            answer => Err(self.error(answer.trim_start_matches("error: "))),
        }
    }

    fn ask(&self, letter: u8, bytes: &[u8]) -> Result<String> {
        let talk = || {
            let mut stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let n = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            stream.write_all(&[letter, 0, 0, 0])?;
            stream.write_all(&n.to_le_bytes())?;
            stream.write_all(bytes)?;
            let mut n = [0; 4];
            stream.read_exact(&mut n)?;
            let mut answer = String::new();
            stream
                .take(u32::from_le_bytes(n).min(MAX_ANSWER).into())
                .read_to_string(&mut answer)?;
            Ok(answer)
        };
        talk().map_err(|error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::ConnectionRefused {
                // Its program was killed.
                let _ = std::fs::remove_file(&self.path);
            }
            self.error(&format!("it does not answer ({error})"))
        })
    }

    fn error(&self, problem: &str) -> Error {
        Error::invalid(format!("process {}", self.pid), problem)
    }
}

/// Removes what programs left behind that are no more.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let pid = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u32>().ok());
        let is_ours = path.extension().is_some_and(|e| e == "sock" || e == "plan");
        if let Some(pid) = pid.filter(|_| is_ours)
            && Path::new("/proc/self").exists()
            && !Path::new(&format!("/proc/{pid}")).exists()
        {
            let _ = std::fs::remove_file(&path);
        }
    }
}
