//! The vectors that a server knows, by name, and how a request asks for them.
//!
//! A vector is called as its file without `.gguf`, whatever name stands in the file: a folder has no two
//! files of one name, so a name means one file as long as the server runs. The names of the default's
//! files are taken by them from the start; a file of the folder that is called so, too, is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::ask::Readings;
use super::refusal::Refusal;
use super::steering::{apply_of, finite, known, terms, too_many};
use crate::engine::{Reader, Steer, SteerPart};
use crate::error::shown;
use crate::file::is_same;
use crate::steer::{Positions, Sidecar};
use crate::{Error, Model, Result};

/// A sidecar that may be asked for.
#[derive(Debug, Clone)]
pub(super) struct Vector {
    path: PathBuf,
    sidecar: Arc<Sidecar>,
    vector: Arc<crate::steer::SteeringVector>,
    fingerprint: String,
}

/// What a request is steered and read by.
#[derive(Debug, Clone, Default)]
pub(super) struct Steered {
    pub(super) steer: Option<Steer>,
    /// The probes of the vectors that were named, or of the server's default.
    pub(super) reader: Option<Arc<Reader>>,
    /// Whether probes of one of them read the labels of their fit no better than luck.
    pub(super) reads_nothing: bool,
}

/// All vectors by name, and what steers where a request says nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Vectors {
    by_name: BTreeMap<String, Vector>,
    /// Names, each with its factor. They stay known, as they were last, also where their file goes.
    default: Vec<(String, f32)>,
}

/// A file that is left out, and why.
pub(super) type LeftOut = (PathBuf, String);

impl Vector {
    /// Reads a sidecar and checks that it is this model's.
    pub(super) fn read(path: &Path, model: &Model) -> Result<Self> {
        let sidecar = Sidecar::read(path)?;
        sidecar.check_model(path, model.fingerprint())?;
        let geometry = model.geometry();
        sidecar.vector.check_geometry(geometry.n_layer, geometry.n_head, geometry.d_head)?;
        if let Some(layers) = sidecar.vector.layers() {
            layers.check_geometry(geometry.n_layer, geometry.n_embd)?;
        }
        Ok(Self::of(path, sidecar))
    }

    /// A sidecar that was checked.
    fn of(path: &Path, sidecar: Sidecar) -> Self {
        Self {
            path: path.to_owned(),
            fingerprint: sidecar.fingerprint(),
            vector: Arc::new(sidecar.vector.clone()),
            sidecar: Arc::new(sidecar),
        }
    }

    /// What it adds at its own strength; `None` where that is nothing.
    pub(super) fn steer(&self) -> Result<Option<Steer>> {
        let about = &self.sidecar.about;
        Steer::new(vec![(Arc::clone(&self.vector), about.alpha)], about.positions)
    }

    fn json(&self, name: &str) -> Value {
        let about = &self.sidecar.about;
        let heads: Vec<Value> = self
            .vector
            .heads()
            .iter()
            .map(|head| {
                let site = head.site;
                json!({ "layer": site.layer, "head": site.head, "accuracy": head.accuracy,
                    "sigma": head.sigma })
            })
            .collect();
        let layers: Vec<usize> = self
            .vector
            .layers()
            .map(|l| l.directions().keys().copied().collect())
            .unwrap_or_default();
        json!({
            "name": name,
            "alpha": about.alpha,
            "positions": about.positions.to_string(),
            "heads": heads,
            "layers": layers,
            "fingerprint": self.fingerprint,
            "has_probes": Reader::of([&*self.vector]).is_some(),
            "reads_nothing": self.sidecar.reads_nothing(),
            "reading": self.vector.calibration().map(|it| json!({
                "auroc": it.quality.auroc,
                "calibration_error": it.quality.error,
                "n_question": it.quality.n_question,
            })),
            "provenance": {
                "name": about.name,
                "description": about.description,
                "license": about.license,
                "author": about.author,
                "data": about.data_name,
                "data_sha256": about.data_sha256,
                "direction": about.direction.name(),
                "model": about.model_name,
                "candor": about.candor_version,
                "seed": about.seed,
            },
        })
    }
}

/// What tells whether a file changed: when it was written, its length, and which file it is.
pub(super) type Seen = BTreeMap<PathBuf, (SystemTime, u64, u64, i64)>;

/// The GGUF files of a folder.
pub(super) fn look(folder: &Path) -> std::io::Result<Seen> {
    let mut seen = Seen::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "gguf") {
            continue;
        }
        // One that vanishes meanwhile is not there.
        let Ok(about) = path.metadata() else { continue };
        if about.is_file() {
            let time = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let (number, changed) = identity(&about);
            seen.insert(path, (time, about.len(), number, changed));
        }
    }
    Ok(seen)
}

/// The number of a file, and when anything about it changed, in nanoseconds: another file can be given the
/// time and the length of the first.
#[cfg(unix)]
fn identity(about: &std::fs::Metadata) -> (u64, i64) {
    use std::os::unix::fs::MetadataExt as _;

    (about.ino(), about.ctime().wrapping_mul(1_000_000_000).wrapping_add(about.ctime_nsec()))
}

#[cfg(not(unix))]
fn identity(_: &std::fs::Metadata) -> (u64, i64) {
    (0, 0)
}

impl Vectors {
    /// One vector, which no file holds, by its own name.
    pub(super) fn of(sidecar: Sidecar) -> Self {
        let name = sidecar.about.name.clone();
        let by_name = BTreeMap::from([(name, Vector::of(Path::new(""), sidecar))]);
        Self { by_name, default: Vec::new() }
    }

    /// Makes these vectors of the folder known in place of all that came from there before; gives those
    /// whose name another file has.
    pub(super) fn replace(&mut self, vectors: Vec<Vector>) -> Vec<LeftOut> {
        let default: BTreeSet<&String> = self.default.iter().map(|(name, _)| name).collect();
        self.by_name.retain(|name, _| default.contains(name));
        let add = |vector: Vector| {
            let path = vector.path.clone();
            self.add(vector).err().map(|error| (path, error))
        };
        vectors.into_iter().filter_map(add).collect()
    }

    /// Adds a vector times a factor to what steers where a request says nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] where another file has its name.
    pub(super) fn add_default(&mut self, vector: Vector, factor: f32) -> Result<()> {
        let path = vector.path.clone();
        let added = self.add(vector);
        let name = added.map_err(|it| Error::invalid(path.display().to_string(), it))?;
        self.default.push((name, factor));
        Ok(())
    }

    /// Makes a vector known and gives its name.
    fn add(&mut self, vector: Vector) -> Result<String, String> {
        let stem = vector.path.file_stem().and_then(std::ffi::OsStr::to_str);
        let Some(name) = stem.map(str::to_owned) else {
            return Err("its name is not UTF-8, and a vector is called as its file".to_owned());
        };
        let others = self.by_name.get(&name).map(|known| &known.path);
        if let Some(other) = others.filter(|other| !is_same(other, &vector.path)) {
            return Err(format!(
                "the name `{}` is taken by {}: a vector is called as its file, so rename one",
                shown(&name),
                other.display()
            ));
        }
        self.by_name.insert(name.clone(), vector);
        Ok(name)
    }

    /// The default's vectors as their files are now, or were last.
    fn defaults(&self) -> impl Iterator<Item = (&Vector, f32)> {
        self.default.iter().filter_map(|(name, factor)| Some((self.by_name.get(name)?, *factor)))
    }

    /// The names that may be asked for, in alphabetical order.
    pub(super) fn names(&self) -> Vec<String> {
        self.by_name.keys().cloned().collect()
    }

    /// The default in candor's own form; empty where nothing steers.
    pub(super) fn default_text(&self) -> String {
        let one = |(name, factor): &(String, f32)| match *factor {
            1.0 => name.clone(),
            factor => format!("{name}*{factor}"),
        };
        self.default.iter().map(one).collect::<Vec<_>>().join(" + ")
    }

    pub(super) fn json(&self) -> Value {
        let data: Vec<Value> =
            self.by_name.iter().map(|(name, vector)| vector.json(name)).collect();
        // A name may hold what joins names: programs read the list.
        let parts: Vec<Value> = self
            .default
            .iter()
            .map(|(name, factor)| json!({ "source": name, "factor": factor }))
            .collect();
        json!({ "object": "list", "data": data, "default": self.default_text(),
            "default_vectors": parts })
    }

    fn find(&self, name: &str, param: &str) -> Result<&Vector, Refusal> {
        self.by_name.get(name).ok_or_else(|| {
            let name = shown(name);
            Refusal::of(param, format!("there is no vector `{name}`; there are: {}", self.list()))
        })
    }

    /// The names in one line.
    fn list(&self) -> String {
        let names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// Who reads the tokens of a request: the vector that it names, or else those that steer it, or the
    /// server's default.
    pub(super) fn reads(&self, steered: &mut Steered, readings: &Readings) -> Result<(), Refusal> {
        match readings {
            Readings::Off => Ok(()),
            Readings::By(name) => {
                let param = "readings.source";
                let vector = self.find(name, param)?;
                let reader = Reader::of([&*vector.vector]).map(Arc::new);
                let none = || Refusal::of(param, format!("`{}` has no probes", shown(name)));
                steered.reader = Some(reader.ok_or_else(none)?);
                steered.reads_nothing = vector.sidecar.reads_nothing();
                Ok(())
            }
            Readings::On if steered.reader.is_some() => Ok(()),
            Readings::On => {
                let why = match (&steered.steer, self.default.is_empty()) {
                    (Some(_), _) => "the vectors that steer have no probes",
                    (None, false) => "the server's default vector has no probes",
                    (None, true) => "no vector steers the request, and the server has no default",
                };
                let problem = format!(
                    "{why}: say whose probes read it, as in {{\"source\": \"NAME\"}}; there are: {}",
                    self.list()
                );
                Err(Refusal::of("readings", problem))
            }
        }
    }

    /// What `steering` asks for; `None`: the key is not there.
    pub(super) fn steered(&self, steering: Option<&Value>) -> Result<Steered, Refusal> {
        match steering {
            None => self.sum(&self.defaults().collect::<Vec<_>>(), "steering"),
            Some(Value::Null | Value::Bool(false)) => Ok(self.off()),
            Some(Value::String(text)) if text.trim().is_empty() => Ok(self.off()),
            // A name may hold what else joins names.
            Some(Value::String(text)) if self.by_name.contains_key(text) => {
                self.sum(&[(self.find(text, "steering")?, 1.0)], "steering")
            }
            Some(Value::String(text)) => {
                let terms = terms(text)?;
                let found =
                    terms.iter().map(|(name, factor)| Ok((self.find(name, "steering")?, *factor)));
                self.sum(&found.collect::<Result<Vec<_>, Refusal>>()?, "steering")
            }
            Some(Value::Object(object)) => self.object(object),
            Some(_) => {
                let problem = "expected a text such as `truth*0.5 + calm`, an object with `vectors`, \
                               or null for none";
                Err(Refusal::of("steering", problem))
            }
        }
    }

    /// Not steered; read by the default's probes.
    fn off(&self) -> Steered {
        let vectors: Vec<&Vector> = self.defaults().map(|(vector, _)| vector).collect();
        Steered {
            steer: None,
            reads_nothing: vectors.iter().any(|vector| vector.sidecar.reads_nothing()),
            reader: Reader::of(vectors.iter().map(|vector| &*vector.vector)).map(Arc::new),
        }
    }

    /// Names with factors, each at its own strength: what `candor run --steer 'a*0.5' --steer b` adds.
    fn sum(&self, found: &[(&Vector, f32)], param: &str) -> Result<Steered, Refusal> {
        if found.is_empty() {
            return Ok(self.off());
        }
        let reads_nothing = found.iter().any(|(vector, _)| vector.sidecar.reads_nothing());
        if let [(vector, 1.0)] = found {
            return steered(
                vec![(Arc::clone(&vector.vector), vector.sidecar.about.alpha)],
                vector.sidecar.about.positions,
                reads_nothing,
            );
        }
        let parts: Vec<(&Sidecar, f32)> =
            found.iter().map(|(vector, factor)| (&*vector.sidecar, *factor)).collect();
        let mixed =
            Sidecar::mix(&parts, "sum", None, false).map_err(|error| Refusal::of(param, error))?;
        steered(
            vec![(Arc::new(mixed.vector), mixed.about.alpha)],
            mixed.about.positions,
            reads_nothing,
        )
    }

    /// `{"vectors": [{"source", "scale", "apply"}]}`, each at the strength that it says.
    fn object(&self, object: &Map<String, Value>) -> Result<Steered, Refusal> {
        known(object, "steering", &["vectors"])?;
        let Some(Value::Array(vectors)) = object.get("vectors") else {
            let problem = "expected a list of {\"source\", \"scale\", \"apply\"}";
            return Err(Refusal::of("steering.vectors", problem));
        };
        if vectors.is_empty() {
            return Ok(self.off());
        }
        too_many(vectors.len())?;
        let (mut parts, mut positions, mut reads_nothing) = (Vec::new(), None, false);
        for (i, vector) in vectors.iter().enumerate() {
            let param = format!("steering.vectors[{i}]");
            let Value::Object(vector) = vector else {
                return Err(Refusal::of(&param, "expected an object"));
            };
            known(vector, &param, &["source", "scale", "apply"])?;
            let Some(Value::String(source)) = vector.get("source") else {
                return Err(Refusal::of(&format!("{param}.source"), "expected a name"));
            };
            let found = self.find(source, &format!("{param}.source"))?;
            let alpha = match vector.get("scale") {
                None | Some(Value::Null) => found.sidecar.about.alpha,
                Some(scale) => finite(scale)
                    .ok_or_else(|| Refusal::of(&format!("{param}.scale"), "expected a number"))?,
            };
            let own = match vector.get("apply") {
                None | Some(Value::Null) => found.sidecar.about.positions,
                Some(apply) => apply_of(apply).ok_or_else(|| {
                    let problem = "expected \"generated\", \"all\", {\"prompt_positions\": [-1], \
                                   \"generation\": \"all\"} or {\"prompt\": \"all\", \"generation\": \
                                   \"all\"}";
                    Refusal::of(&format!("{param}.apply"), problem)
                })?,
            };
            if *positions.get_or_insert(own) != own {
                let problem = "the vectors of one request steer the same tokens: give all of them \
                               the same";
                return Err(Refusal::of(&format!("{param}.apply"), problem));
            }
            reads_nothing |= found.sidecar.reads_nothing();
            parts.push((Arc::clone(&found.vector), alpha));
        }
        steered(parts, positions.unwrap_or_default(), reads_nothing)
    }
}

fn steered(
    parts: Vec<SteerPart>,
    positions: Positions,
    reads_nothing: bool,
) -> Result<Steered, Refusal> {
    let reader = Reader::of(parts.iter().map(|(vector, _)| &**vector)).map(Arc::new);
    let steer = Steer::new(parts, positions).map_err(|error| Refusal::of("steering", error))?;
    Ok(Steered { steer, reader, reads_nothing })
}
