//! What fuzzing found worth keeping, and files as hostile as we could think of, through the functions
//! that the fuzz targets call: nothing panics, and memory stays within the file's size.
#![cfg(feature = "serve")]

#[path = "common/hostile.rs"]
mod hostile;
#[path = "common/memory.rs"]
mod memory;
#[path = "common/parsers.rs"]
mod parsers;
#[path = "common/seeds.rs"]
mod seeds;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use candor::Bounded;
use candor::gguf::Gguf;
use memory::{Counting, measured};
use parsers::PARSERS;

#[global_allocator]
static ALLOCATOR: Bounded<Counting> = Bounded::around(Counting);

/// The largest piece of memory that an input below 1 MB may ask for.
const LARGEST: usize = 100_000_000;

/// How many bytes of memory a byte of a file may cost, at most: a row of a table of short texts costs a
/// few dozen times its size.
const FACTOR: usize = 50;

/// Tests of this file come one by one, so that each measures its own memory.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn corpus(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus")).join(name)
}

/// The files of a folder, in order; of a folder that is absent, none.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn replays_what_was_found() {
    let _turn = turn();
    for (name, parser) in PARSERS {
        let files = files(&corpus(name));
        assert!(!files.is_empty(), "no inputs for {name} in tests/corpus");
        for file in files {
            let bytes = fs::read(&file).unwrap();
            // A panic names the file, and so does a test that is killed.
            let name = file.display().to_string();
            let outcome = std::panic::catch_unwind(|| measured(|| parser(&bytes)).1);
            let memory = outcome.unwrap_or_else(|_| panic!("{name} breaks a promise"));
            assert!(memory.largest <= LARGEST, "{name}: {memory:?}");
        }
    }
}

#[test]
fn every_folder_of_inputs_has_its_parser() {
    let _turn = turn();
    for folder in files(&corpus("")) {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert!(PARSERS.iter().any(|(parser, _)| *parser == name), "tests/corpus/{name}");
    }
}

/// After a format has changed, CANDOR_WRITE_SEEDS=1 writes the sound files anew.
#[test]
fn the_inputs_begin_with_sound_files() {
    let _turn = turn();
    for (name, seeds) in seeds::all() {
        for (i, seed) in seeds.iter().enumerate() {
            let path = corpus(name).join(format!("seed-{i}"));
            if std::env::var_os("CANDOR_WRITE_SEEDS").is_some() {
                fs::create_dir_all(corpus(name)).unwrap();
                fs::write(&path, seed).unwrap();
            }
            assert!(path.exists(), "{}: CANDOR_WRITE_SEEDS=1 writes it", path.display());
        }
    }
}

#[test]
fn sound_files_are_read() {
    let _turn = turn();
    for (name, parser) in PARSERS {
        let seeds = seeds::all().into_iter().find(|(seeds, _)| *seeds == name).unwrap().1;
        assert!(seeds.iter().all(|seed| parser(seed)), "{name} refuses a sound file");
    }
}

#[test]
fn a_file_that_ends_early_is_refused_wherever_it_ends() {
    let _turn = turn();
    for (name, parser) in PARSERS {
        for seed in seeds::all().into_iter().filter(|(seeds, _)| *seeds == name).flat_map(|s| s.1) {
            let taken: Vec<usize> = (0..seed.len()).filter(|&n| parser(&seed[..n])).collect();
            match name {
                // The zeros after the last tensor may be missing.
                "gguf" | "sidecar" | "control_vector" => {
                    assert!(taken.iter().all(|n| seed.len() - n < 64), "{taken:?}")
                }
                "store" | "mc_task" => assert!(taken.is_empty(), "{name}: {taken:?}"),
                // Lines of text, each of which counts for itself.
                _ => {}
            }
        }
    }
}

#[test]
fn every_bit_may_be_wrong() {
    let _turn = turn();
    for (name, parser) in PARSERS {
        for mut seed in
            seeds::all().into_iter().filter(|(seeds, _)| *seeds == name).flat_map(|s| s.1)
        {
            for at in 0..seed.len() {
                for bit in [0, 4, 7] {
                    seed[at] ^= 1 << bit;
                    let _ = parser(&seed);
                    seed[at] ^= 1 << bit;
                }
            }
        }
    }
}

#[test]
fn memory_and_time_stay_within_the_size_of_the_file() {
    let _turn = turn();
    for hostile::Hostile { parser: name, what, bytes } in hostile::all() {
        let parser = PARSERS.into_iter().find(|(parser, _)| *parser == name).unwrap().1;
        let start = Instant::now();
        let (_, memory) = measured(|| parser(&bytes));
        let seconds = start.elapsed().as_secs_f64();
        println!("{name}, {what}: {} bytes, {memory:?}, {seconds:.2} s", bytes.len());
        // A template of a few bytes may work as long as its fuel lasts.
        let most = if name == "chat_template" { LARGEST } else { FACTOR * bytes.len() + (1 << 20) };
        assert!(memory.peak <= most as isize, "{name}, {what}: {memory:?} of {}", bytes.len());
        // What takes the square of its size takes minutes.
        assert!(seconds < 20.0, "{name}, {what}: {seconds} s");
    }
}

#[test]
fn a_key_of_another_type_is_refused() {
    let _turn = turn();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.gguf");
    seeds::sidecar().write(&path).unwrap();
    for (key, value) in Gguf::open(&path).unwrap().entries() {
        for other in seeds::of_other_types(value) {
            let is_number = value.as_uint().is_some() && other.as_uint().is_some();
            let is_passed_over = key == "general.base_model.count";
            let what = format!("{key} as {}", other.type_name());
            let mut sidecar = seeds::sidecar();
            let taken = parsers::sidecar(&sidecar.set(key, other).to_bytes());
            assert_eq!(taken, is_number || is_passed_over, "{what}");
        }
    }
}
