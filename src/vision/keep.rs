//! Encoded pictures on disk, so that none is encoded twice: one file each, named after what it was made
//! of (projector, model, settings, pixels).
//!
//! A file is a line of JSON, padded with spaces to whole 64 bytes, then the embeddings of all tiles one
//! after the other, F32, little-endian.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::gallery::{Embedding, Run};
use crate::Result;
use crate::ffi::map::map_file;
use crate::file::write_atomically;

/// The form of the files.
const FORM: u32 = 1;
const ALIGNMENT: usize = 64;

/// A part of a picture: tokens around or between tiles, or a tile.
pub(super) enum Part {
    Text(Vec<i32>),
    Tile(Run),
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    candor_picture: u32,
    n_embd: usize,
    parts: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Entry {
    Text(Vec<i32>),
    Tile { n_token: usize, n_pos: usize, places: Vec<[i32; 3]>, is_mutual: bool },
}

/// Reads a picture that was kept; `None` where there is none, or none that could be whole.
pub(super) fn read(path: &Path, n_embd: usize) -> Option<Vec<Part>> {
    let file = File::open(path).ok()?;
    let map = Arc::new(map_file(&file, path).ok()?);
    let n_header = map.iter().position(|&byte| byte == b'\n')? + 1;
    let header: Header = serde_json::from_slice(&map[..n_header]).ok()?;
    if header.candor_picture != FORM || header.n_embd != n_embd || n_embd == 0 {
        return None;
    }
    let mut at = n_header;
    let mut parts = Vec::with_capacity(header.parts.len());
    for entry in header.parts {
        parts.push(match entry {
            Entry::Text(tokens) if tokens.iter().all(|&token| token >= 0) => Part::Text(tokens),
            Entry::Text(_) => return None,
            Entry::Tile { n_token, n_pos, places, is_mutual } => {
                let n_float = n_token.checked_mul(n_embd)?;
                let end = at.checked_add(n_float.checked_mul(4)?)?;
                let has_places = places.is_empty() || places.len() == n_token;
                if n_token == 0 || end > map.len() || !has_places || n_pos > n_token.max(1) {
                    return None;
                }
                let embedding = Embedding::Mapped(Arc::clone(&map), at, n_float);
                at = end;
                Part::Tile(Run { embedding, n_pos, places, is_mutual })
            }
        });
    }
    (at == map.len()).then_some(parts)
}

/// Keeps a picture: its tiles' embeddings in the order of its parts.
pub(super) fn write(path: &Path, n_embd: usize, parts: &[Part]) -> Result<()> {
    let entry = |part: &Part| match part {
        Part::Text(tokens) => Entry::Text(tokens.clone()),
        Part::Tile(run) => Entry::Tile {
            n_token: run.embedding.len() / n_embd.max(1),
            n_pos: run.n_pos,
            places: run.places.clone(),
            is_mutual: run.is_mutual,
        },
    };
    let parts_of = parts.iter().map(entry).collect();
    let header = Header { candor_picture: FORM, n_embd, parts: parts_of };
    let mut line = serde_json::to_vec(&header)
        .map_err(|error| crate::Error::io("write", path)(std::io::Error::other(error)))?;
    let n_line = (line.len() + 1).next_multiple_of(ALIGNMENT);
    line.resize(n_line - 1, b' ');
    line.push(b'\n');
    write_atomically(path, |file| {
        file.write_all(&line)?;
        for part in parts {
            let Part::Tile(run) = part else { continue };
            for value in run.embedding.to_vec() {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts() -> Vec<Part> {
        let run = |values: Vec<f32>, places| Run {
            n_pos: values.len() / 2,
            embedding: Embedding::Owned(values),
            places,
            is_mutual: true,
        };
        vec![
            Part::Text(vec![7, 8]),
            Part::Tile(run(vec![1.0, -2.0, 3.5, 4.0], vec![[0, 0, 0], [0, 0, 1]])),
            Part::Tile(run(vec![0.5, 6.0], Vec::new())),
        ]
    }

    #[test]
    fn gives_back_what_was_kept_and_nothing_that_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture");
        write(&path, 2, &parts()).unwrap();
        let back = read(&path, 2).expect("it is there");
        for (part, kept) in parts().iter().zip(&back) {
            match (part, kept) {
                (Part::Text(a), Part::Text(b)) => assert_eq!(a, b),
                (Part::Tile(a), Part::Tile(b)) => {
                    assert_eq!(a.embedding.to_vec(), b.embedding.to_vec());
                    assert_eq!((a.n_pos, &a.places), (b.n_pos, &b.places));
                    assert_eq!(a.is_mutual, b.is_mutual);
                }
                _ => panic!("another kind of part"),
            }
        }
        assert!(read(&path, 3).is_none(), "another width");
        assert!(read(&folder.path().join("none"), 2).is_none());
        let bytes = std::fs::read(&path).unwrap();
        for n in 0..bytes.len() {
            std::fs::write(&path, &bytes[..n]).unwrap();
            assert!(read(&path, 2).is_none(), "{n} bytes of {}", bytes.len());
        }
    }
}
