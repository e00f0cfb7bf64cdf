use std::collections::BTreeMap;
use std::fs;

use half::f16;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::*;
use crate::Site;

const N_LAYER: usize = 3;
const N_HEAD: usize = 2;
const D_HEAD: usize = 5;

/// Batches of one text each: four main rows, then two `next` rows.
const BATCHES: [(RowSet, usize); 6] = [
    (RowSet::Main, 0),
    (RowSet::Main, 1),
    (RowSet::Main, 2),
    (RowSet::Main, 3),
    (RowSet::Next, 0),
    (RowSet::Next, 1),
];

fn layout() -> Layout {
    Layout {
        n_layer: N_LAYER,
        layers: (0..N_LAYER).collect(),
        n_head: N_HEAD,
        d_head: D_HEAD,
        labels: vec![true, false, false, true],
        groups: vec![0, 0, 1, 2],
        next_groups: vec![[2, 1], [1, 0]],
        metadata: BTreeMap::from([("data".into(), "abc".into()), ("model".into(), "xyz".into())]),
    }
}

/// A value that tells where it belongs.
fn value(set: RowSet, row: usize, layer: usize, index: usize) -> f32 {
    let set = if set == RowSet::Main { 1.0 } else { -1.0 };
    set * (0.5 + (row * 1000 + layer * 100 + index) as f32)
}

fn write_text(writer: &mut StoreWriter, (set, row): (RowSet, usize)) {
    for layer in 0..N_LAYER {
        let values: Vec<_> =
            (0..N_HEAD * D_HEAD).map(|index| value(set, row, layer, index)).collect();
        writer.write_row(set, row, layer, &values).unwrap();
    }
}

/// Does the next `n` batches.
fn advance(writer: &mut StoreWriter, n: usize) {
    for batch in &BATCHES[writer.n_batch_done()..][..n] {
        write_text(writer, *batch);
        writer.batch_done().unwrap();
    }
}

/// Does what is left to do, and returns the bytes.
fn complete(mut writer: StoreWriter) -> Vec<u8> {
    let left = BATCHES.len() - writer.n_batch_done();
    advance(&mut writer, left);
    fs::read(writer.finish().unwrap()).unwrap()
}

fn fresh(path: &Path) -> StoreWriter {
    match StoreWriter::open(path, &layout()).unwrap() {
        Opened::Fresh(writer) => writer,
        _ => panic!("there was something at {}", path.display()),
    }
}

fn undisturbed() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    complete(fresh(&dir.path().join("a.safetensors")))
}

#[test]
fn a_finished_store_is_a_safetensors_file() {
    let bytes = undisturbed();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names = file.names();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "group",
            "kqv_out-0",
            "kqv_out-1",
            "kqv_out-2",
            "label",
            "next.group",
            "next.kqv_out-0",
            "next.kqv_out-1",
            "next.kqv_out-2",
        ]
    );
    let tensor = file.tensor("next.kqv_out-2").unwrap();
    assert_eq!((tensor.dtype(), tensor.shape()), (Dtype::F32, &[2, N_HEAD, D_HEAD][..]));
    assert_eq!(tensor.data()[..4], value(RowSet::Next, 0, 2, 0).to_le_bytes());
    let label = file.tensor("label").unwrap();
    assert_eq!((label.dtype(), label.shape()), (Dtype::I64, &[4][..]));

    let (n_header, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!((8 + n_header) % 64, 0, "the data is aligned");
    let strings = metadata.metadata().as_ref().unwrap();
    assert_eq!(strings["data"], "abc");
    assert_eq!(strings["candor.version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn writes_these_bytes() {
    let bytes = undisturbed();
    let n_header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + n_header].to_vec()).unwrap();
    // The version's length moves what stands behind it by the padding alone.
    let header = header.trim_end().replace(env!("CARGO_PKG_VERSION"), "VERSION");
    insta::assert_snapshot!(header.replace("},", "},\n"));
    let integers: Vec<i64> =
        bytes[8 + n_header..][..96].as_chunks().0.iter().copied().map(i64::from_le_bytes).collect();
    assert_eq!(integers, [1, 0, 0, 1, 0, 0, 1, 2, 2, 1, 1, 0]);
    assert_eq!(bytes[8 + n_header + 96..][..4], value(RowSet::Main, 0, 0, 0).to_le_bytes());
}

#[test]
fn a_store_of_a_hybrid_model_has_its_attention_layers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let hybrid = Layout { layers: vec![0, 2], n_layer: 4, ..layout() };
    let Opened::Fresh(mut writer) = StoreWriter::open(&path, &hybrid).unwrap() else {
        panic!("there was something at {}", path.display());
    };
    for (set, row) in BATCHES {
        for layer in [0, 2] {
            let values: Vec<_> =
                (0..N_HEAD * D_HEAD).map(|index| value(set, row, layer, index)).collect();
            writer.write_row(set, row, layer, &values).unwrap();
        }
        assert!(writer.write_row(set, row, 1, &[0.0; N_HEAD * D_HEAD]).is_err());
        writer.batch_done().unwrap();
    }
    writer.finish().unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!((store.n_layer(), store.layers()), (4, &[0, 2][..]));
    let head = store.head(RowSet::Next, Site::new(2, 1), &[1]);
    assert_eq!(head[[0, 3]], value(RowSet::Next, 1, 2, D_HEAD + 3));
    for layers in [vec![], vec![2, 0], vec![0, 0], vec![0, 4]] {
        assert!(StoreWriter::open(&path, &Layout { layers, ..hybrid.clone() }).is_err());
    }

    // What it says of its layers is not believed.
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(5).position(|window| window == b"\"0,2\"").unwrap();
    for (layers, expected) in [
        (b"2,0", "model.attention_layers is `2,0` of 4 layers"),
        (b"0,9", "model.attention_layers is `0,9` of 4 layers"),
        (b"0,-", "model.attention_layers is `0,-` of 4 layers"),
        (b"0,1", "kqv_out-1 is missing"),
    ] {
        let mut bytes = bytes.clone();
        bytes[at + 1..at + 4].copy_from_slice(layers);
        let path = dir.path().join("b.safetensors");
        fs::write(&path, bytes).unwrap();
        let message = Store::open(&path).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_store_reads_back_what_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    complete(fresh(&path));
    let store = Store::open(&path).unwrap();
    assert_eq!((store.n_layer(), store.n_head(), store.d_head()), (N_LAYER, N_HEAD, D_HEAD));
    assert_eq!(store.n_row(), 4);
    assert_eq!(store.labels(), layout().labels);
    assert_eq!(store.groups(), layout().groups);
    assert_eq!(store.next_groups(), layout().next_groups);
    assert_eq!(store.metadata()["model"], "xyz");
    assert_eq!(store.path(), path);
    for (set, rows) in
        [(RowSet::Main, &[3, 0, 3][..]), (RowSet::Next, &[1, 0]), (RowSet::Main, &[])]
    {
        let head = store.head(set, Site::new(1, 1), rows);
        assert_eq!(head.dim(), (rows.len(), D_HEAD));
        for ((i, column), &got) in head.indexed_iter() {
            assert_eq!(got, value(set, rows[i], 1, D_HEAD + column));
        }
    }
}

#[test]
fn the_same_capture_gives_the_same_bytes() {
    assert_eq!(undisturbed(), undisturbed());
}

#[test]
fn a_dropped_capture_resumes_to_the_same_bytes() {
    for n_before in 0..=BATCHES.len() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        let mut writer = fresh(&path);
        advance(&mut writer, n_before);
        drop(writer);
        let Opened::Resumed(writer) = StoreWriter::open(&path, &layout()).unwrap() else {
            panic!("not resumed");
        };
        assert_eq!(writer.n_batch_done(), n_before);
        assert_eq!(complete(writer), undisturbed());
    }
}

/// What is in the files at a moment is what a process that is killed then leaves behind.
#[test]
fn a_killed_capture_resumes_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let mut writer = fresh(&path);
    for (n_done, &(set, row)) in BATCHES.iter().enumerate() {
        // In the middle of a batch: some of its rows are written.
        writer.write_row(set, row, 1, &[7.0; N_HEAD * D_HEAD]).unwrap();

        let copy = tempfile::tempdir().unwrap();
        let copied = copy.path().join("a.safetensors");
        fs::copy(part_path(&path), part_path(&copied)).unwrap();
        fs::copy(progress_path(&path), progress_path(&copied)).unwrap();
        let Opened::Resumed(resumed) = StoreWriter::open(&copied, &layout()).unwrap() else {
            panic!("not resumed");
        };
        assert!(resumed.n_batch_done() <= n_done);
        assert_eq!(complete(resumed), undisturbed());

        advance(&mut writer, 1);
    }
}

#[test]
fn a_finished_capture_is_not_done_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    complete(fresh(&path));
    assert!(matches!(StoreWriter::open(&path, &layout()).unwrap(), Opened::Finished));
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(names, [path]);
}

#[test]
fn another_capture_restarts_and_says_why() {
    let mut other_metadata = layout();
    other_metadata.metadata.insert("data".into(), "abd".into());
    let mut other_label = layout();
    other_label.labels[0] = false;
    let mut other_group = layout();
    other_group.groups[3] = 1;
    for other in [other_metadata, other_label, other_group] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        advance(&mut fresh(&path), 2);
        let Opened::Restarted { writer, reason } = StoreWriter::open(&path, &other).unwrap() else {
            panic!("not restarted");
        };
        assert_eq!(reason, "it is of another model, data set or setting");
        assert_eq!(writer.n_batch_done(), 0);
        assert_ne!(complete(writer), undisturbed());
    }
}

#[test]
fn damaged_progress_restarts() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 3] = [
        (|path| fs::remove_file(progress_path(path)).unwrap(), "its progress file is missing"),
        (|path| fs::write(progress_path(path), "?").unwrap(), "its progress file is damaged"),
        (|path| fs::write(part_path(path), "?").unwrap(), "its size is not what it should be"),
    ];
    for (damage, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.safetensors");
        advance(&mut fresh(&path), 2);
        damage(&path);
        let Opened::Restarted { writer, reason } = StoreWriter::open(&path, &layout()).unwrap()
        else {
            panic!("not restarted");
        };
        assert_eq!(reason, expected);
        assert_eq!(complete(writer), undisturbed());
    }
}

#[test]
fn two_captures_at_once_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let writer = fresh(&path);
    let error =
        StoreWriter::open(&path, &layout()).err().expect("the first one writes").to_string();
    assert!(error.ends_with("another capture is writing it right now"), "{error}");
    drop(writer);
}

#[test]
fn an_unfinished_store_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let mut writer = fresh(&path);
    advance(&mut writer, 6);
    for path in [&path, &part_path(&path)] {
        let error = Store::open(path).unwrap_err().to_string();
        assert!(error.ends_with("run the same capture again to finish it"), "{error}");
    }
    let renamed = dir.path().join("b.safetensors");
    fs::copy(part_path(&path), &renamed).unwrap();
    let error = Store::open(&renamed).unwrap_err().to_string();
    assert!(error.contains("not a safetensors file"), "{error}");
}

#[test]
fn refuses_rows_that_the_layout_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = fresh(&dir.path().join("a.safetensors"));
    let values = [0.0; N_HEAD * D_HEAD];
    assert!(writer.write_row(RowSet::Main, 4, 0, &values).is_err());
    assert!(writer.write_row(RowSet::Next, 2, 0, &values).is_err());
    assert!(writer.write_row(RowSet::Main, 0, N_LAYER, &values).is_err());
    assert!(writer.write_row(RowSet::Main, 0, 0, &values[1..]).is_err());
}

#[test]
fn refuses_impossible_layouts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let refuse = |change: fn(&mut Layout)| {
        let mut layout = layout();
        change(&mut layout);
        StoreWriter::open(&path, &layout).err().expect("an impossible layout").to_string()
    };
    assert_eq!(refuse(|l| l.groups.truncate(3)), "store layout: 4 labels and 3 groups");
    assert!(refuse(|l| l.d_head = 0).contains("a dimension is zero or too large"));
    assert!(refuse(|l| l.d_head = usize::MAX).contains("a dimension is zero or too large"));
    assert!(refuse(|l| l.d_head = usize::MAX / 16).contains("the file would be too large"));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
}

/// A safetensors file of small tensors.
fn foreign(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
    let views = tensors.iter().map(|&(name, dtype, shape, data)| {
        (name, TensorView::new(dtype, shape.to_vec(), data).unwrap())
    });
    safetensors::serialize(views, None).unwrap()
}

fn open_bytes(bytes: &[u8]) -> crate::Result<Store> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    fs::write(&path, bytes).unwrap();
    Store::open(&path)
}

/// Two I64 numbers.
fn two(a: i64, b: i64) -> Vec<u8> {
    [a.to_le_bytes(), b.to_le_bytes()].concat()
}

#[test]
fn reads_half_precision() {
    let halves: Vec<u8> =
        [0.5, -2.0, 1.0, 65504.0].map(f16::from_f32).map(f16::to_le_bytes).concat();
    let store = open_bytes(&foreign(&[
        ("label", Dtype::I64, &[2], &two(0, 1)),
        ("group", Dtype::I64, &[2], &two(0, 1)),
        ("kqv_out-0", Dtype::F16, &[2, 1, 2], &halves),
    ]))
    .unwrap();
    let head = store.head(RowSet::Main, Site::new(0, 0), &[1, 0]);
    assert_eq!(head.into_raw_vec_and_offset().0, [1.0, 65504.0, 0.5, -2.0]);
    assert!(store.metadata().is_empty());
}

#[test]
fn refuses_hostile_files() {
    let refuse = |bytes: &[u8]| match open_bytes(bytes).expect_err("a hostile file") {
        Error::Store { problem, .. } => problem,
        other => panic!("{other}"),
    };
    let cut = undisturbed();
    for bytes in [&b""[..], b"\x01", b"GGUF\x03\0\0\0\0\0\0\0", &[0xff; 64], &cut[..cut.len() - 1]]
    {
        let problem = refuse(bytes);
        assert!(problem.starts_with("not a safetensors file: "), "{problem}");
    }

    let (zero, one, minus) = (two(0, 0), two(0, 1), two(0, -1));
    let label = ("label", Dtype::I64, &[2][..], &one[..]);
    let group = ("group", Dtype::I64, &[2][..], &one[..]);
    let layer0 = ("kqv_out-0", Dtype::F32, &[2, 1, 2][..], &[0; 16][..]);
    let cases = [
        (vec![group, layer0], "label is missing"),
        (vec![label, layer0], "group is missing"),
        (vec![label, group], "kqv_out-0 is missing"),
        (
            vec![("label", Dtype::I64, &[2], &minus), group, layer0],
            "label holds -1, expected 0 or 1",
        ),
        (vec![label, ("group", Dtype::I64, &[2], &minus), layer0], "group holds -1, expected 0 or"),
        (vec![("label", Dtype::F64, &[2], &zero), group, layer0], "label is F64 [2], expected I64"),
        (
            vec![("label", Dtype::I64, &[1, 2], &zero), group, layer0],
            "label is I64 [1, 2], expected",
        ),
        (vec![label, ("group", Dtype::I64, &[1], &zero[8..]), layer0], "2 labels and 1 groups"),
        (
            vec![("label", Dtype::I64, &[0], &[]), ("group", Dtype::I64, &[0], &[]), layer0],
            "it holds no rows",
        ),
        (vec![label, group, ("kqv_out-0", Dtype::F32, &[2, 2], &[0; 16])], "expected 3 axes"),
        (vec![label, group, ("kqv_out-0", Dtype::F32, &[2, 0, 2], &[])], "the shape [2, 0, 2]"),
        (vec![label, group, ("kqv_out-0", Dtype::F32, &[1, 2, 2], &[0; 16])], "expected [2, 2, 2]"),
        (
            vec![label, group, ("kqv_out-0", Dtype::I32, &[2, 1, 2], &[0; 16])],
            "is I32, expected F32",
        ),
        (
            vec![label, group, layer0, ("kqv_out-2", Dtype::F32, &[2, 1, 2], &[0; 16])],
            "kqv_out-1 is missing",
        ),
        (
            vec![label, group, layer0, ("kqv_out-1", Dtype::F32, &[2, 2, 1], &[0; 16])],
            "kqv_out-1 has the shape [2, 2, 1], expected [2, 1, 2]",
        ),
        (
            vec![label, group, layer0, ("kqv_out-18446744073709551615", Dtype::U8, &[0], &[])],
            "kqv_out-1 is missing",
        ),
        (
            vec![label, group, layer0, ("next.group", Dtype::I64, &[1, 2], &zero)],
            "next.kqv_out-0 is missing",
        ),
    ];
    for (tensors, expected) in cases {
        let problem = refuse(&foreign(&tensors));
        assert!(problem.contains(expected), "{problem}\nexpected: {expected}");
    }
}
