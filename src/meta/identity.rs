//! The identity file of a metadata directory: whose log and state lie in it, written once and never guessed.
//!
//! `server` claims the directory before anything else in it is touched, and adds the cluster once that is known. Holds: a
//! directory never serves two nodes (a vote given under one id would be given again under the other) nor two clusters;
//! the file is replaced whole, and a damaged one is an error, never a new identity. Not here: that two processes use one
//! directory (the locks of log and state).
//!
//! ```text
//! DIR/pohmelfs-meta
//!      0   8  magic "PMFSMETA"
//!      8   4  version, 1; 2 once the format level is above the first     (little-endian)
//!     12   4  1 if the cluster is known, else 0
//!     16   8  node
//!     24  16  cluster
//!    [40   4  format level, in version 2]
//!      .   4  crc32c of all before
//! ```
//!
//! The level stands here too, for it is the first thing that is read: a program that does not know it touches nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{StoreError, levels};
use crate::runtime::disk::Disk;
use crate::types::{ClusterId, Level, LevelRange, NodeId};

const FILE: &str = "pohmelfs-meta";
const TEMP: &str = "pohmelfs-meta.tmp";
const MAGIC: [u8; 8] = *b"PMFSMETA";
const VERSION: u32 = 1;
/// With the format level.
const VERSION_LEVEL: u32 = 2;
const BODY_LEN: usize = 40;
const LEVEL_LEN: usize = 4;
const CRC_LEN: usize = 4;
const LEN_MAX: usize = BODY_LEN + LEVEL_LEN + CRC_LEN;

/// Whose directory it is.
#[derive(Debug)]
pub(super) struct Identity {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    told: Told,
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    node: NodeId,
    cluster: Option<ClusterId>,
    level: Level,
}

impl Identity {
    /// The identity of `dir` of `disk`, which is made if it is missing and marked if it is empty, for a program that knows `levels`.
    ///
    /// # Errors
    /// The directory belongs to somebody else, or cannot be used, or this program is too old for what is in it.
    pub(super) fn claim(
        disk: Arc<dyn Disk>,
        dir: &Path,
        node: NodeId,
        levels: LevelRange,
    ) -> Result<Self, StoreError> {
        let refused = |reason: String| Err(StoreError::new(format!("directory {}", dir.display()), reason));
        disk.make_dirs(dir).map_err(|e| StoreError::new(format!("making {}", dir.display()), e))?;
        let path = dir.join(FILE);
        let found = match read(&*disk, &path) {
            Ok(bytes) => Some(bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(StoreError::new(format!("reading {}", path.display()), e)),
        };
        let Some(bytes) = found else {
            if let Some(other) = foreign(&*disk, dir)? {
                return refused(format!(
                    "is not empty (it holds {other:?}) and has no {FILE}; give an empty or a new directory, or mount \
                     the disk that belongs there"
                ));
            }
            let told = Told { node, cluster: None, level: Level::FIRST };
            let new = Self { disk, dir: dir.to_owned(), told };
            new.write()?;
            return Ok(new);
        };
        match decode(&bytes) {
            Ok(Told { node: owner, .. }) if owner != node => refused(format!(
                "belongs to metadata server {owner}, this is {node}; give each server its own directory, or correct \
                 the node id"
            )),
            Ok(Told { level, .. }) if !levels.has(level) => refused(levels::unknown(level, levels)),
            Ok(told) => Ok(Self { disk, dir: dir.to_owned(), told }),
            Err(problem) => refused(format!("{FILE} {problem}")),
        }
    }

    /// The cluster, if it is known.
    pub(super) fn cluster(&self) -> Option<ClusterId> {
        self.told.cluster
    }

    /// The format level that it keeps.
    pub(super) fn level(&self) -> Level {
        self.told.level
    }

    /// Keeps the format level, durably, once it was raised.
    ///
    /// # Errors
    /// The disk fails.
    pub(super) fn keep_level(&mut self, level: Level) -> Result<(), StoreError> {
        self.told.level = level;
        self.write()
    }

    /// Keeps the cluster, durably, once it is known.
    ///
    /// # Errors
    /// It is another one than before, or the disk fails.
    pub(super) fn adopt(&mut self, cluster: ClusterId) -> Result<(), StoreError> {
        match self.told.cluster {
            Some(known) if known == cluster => Ok(()),
            Some(known) => Err(StoreError::new(
                format!("directory {}", self.dir.display()),
                format!(
                    "belongs to cluster {known}, but what lies in it is of cluster {cluster}; put back what was there, \
                     or empty the directory and let the other metadata servers fill it again"
                ),
            )),
            None => {
                self.told.cluster = Some(cluster);
                self.write()
            }
        }
    }

    fn write(&self) -> Result<(), StoreError> {
        let bytes = encode(&self.told);
        let (path, temp) = (self.dir.join(FILE), self.dir.join(TEMP));
        let replaced = self.disk.replace(&path, &temp, &bytes);
        replaced.map_err(|e| StoreError::new(format!("writing {}", path.display()), e))
    }
}

/// At most one byte more than an identity has, whatever lies there.
fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    disk.open(path)?.read_at(0, LEN_MAX + 1)
}

/// A name in a directory without an identity that no first start of ours left there.
fn foreign(disk: &dyn Disk, dir: &Path) -> Result<Option<String>, StoreError> {
    let failed = |e: io::Error| StoreError::new(format!("listing {}", dir.display()), e);
    let names = disk.list(dir).map_err(failed)?.into_iter();
    Ok(names
        .map(|entry| entry.name.to_string_lossy().into_owned())
        .find(|name| name != TEMP && name != "lost+found"))
}

fn encode(told: &Told) -> Vec<u8> {
    let Told { node, cluster, level } = *told;
    let version = if level > Level::FIRST { VERSION_LEVEL } else { VERSION };
    let mut bytes = Vec::with_capacity(LEN_MAX);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&version.to_le_bytes());
    bytes.extend_from_slice(&u32::from(cluster.is_some()).to_le_bytes());
    bytes.extend_from_slice(&node.0.to_le_bytes());
    bytes.extend_from_slice(&cluster.unwrap_or_default().0.to_le_bytes());
    if version == VERSION_LEVEL {
        bytes.extend_from_slice(&u32::from(level.0).to_le_bytes());
    }
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Result<Told, String> {
    const DAMAGED: &str = "is damaged; copy it from a backup, or empty the directory and let the other metadata servers fill it again";
    let (body, crc) = bytes.split_last_chunk::<CRC_LEN>().ok_or(DAMAGED)?;
    let whole = *crc == crc32c::crc32c(body).to_le_bytes() && body.starts_with(&MAGIC);
    let field = |at: usize| body.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_le_bytes);
    // The magic and the version stand where they are in every version there will be.
    let level = match field(8).filter(|_| bytes.starts_with(&MAGIC)) {
        Some(version) if version > VERSION_LEVEL => {
            return Err(format!(
                "has version {version}, or is damaged; this program knows up to {VERSION_LEVEL}: start the program that ran here \
                 before, or a later one"
            ));
        }
        Some(VERSION) if whole && body.len() == BODY_LEN => Level::FIRST,
        Some(VERSION_LEVEL) if whole && body.len() == BODY_LEN + LEVEL_LEN => {
            let level = field(BODY_LEN).and_then(|level| u16::try_from(level).ok());
            level.map(Level).filter(|level| *level > Level::FIRST).ok_or(DAMAGED)?
        }
        _ => return Err(DAMAGED.into()),
    };
    let node = body.get(16..24).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes).ok_or(DAMAGED)?;
    let cluster = body.get(24..40).and_then(|b| b.try_into().ok()).map(u128::from_le_bytes).ok_or(DAMAGED)?;
    let cluster = match field(12) {
        Some(0) => None,
        Some(1) => Some(ClusterId(cluster)),
        _ => return Err(DAMAGED.into()),
    };
    Ok(Told { node: NodeId(node), cluster, level })
}

/// Any bytes as an identity file, as they are and with the checksum set right: for a fuzzer, which cannot guess it.
pub(crate) fn fuzz(input: &[u8]) {
    drop(decode(input));
    for len in [BODY_LEN, BODY_LEN + LEVEL_LEN] {
        let Some(body) = input.get(..len) else { return };
        let sealed = [body, &crc32c::crc32c(body).to_le_bytes()].concat();
        if let Ok(told) = decode(&sealed) {
            assert_eq!(decode(&encode(&told)), Ok(told));
        }
    }
}

/// Valid inputs of [`fuzz`].
pub(crate) fn fuzz_seeds() -> Vec<Vec<u8>> {
    let told = Told { node: NodeId(3), cluster: Some(ClusterId(9)), level: Level::FIRST };
    let others = [Told { cluster: None, ..told }, told, Told { level: Level(2), ..told }];
    others.iter().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::runtime::disk::RealDisk;

    fn claim(dir: &Path, node: NodeId) -> Result<Identity, StoreError> {
        Identity::claim(Arc::new(RealDisk), dir, node, LevelRange::OURS)
    }

    fn refusal(dir: &Path, node: u64) -> String {
        claim(dir, NodeId(node)).unwrap_err().to_string()
    }

    #[test]
    fn a_directory_stays_with_its_node_and_its_cluster() {
        let root = tempfile::TempDir::new().unwrap();
        let dir = root.path().join("made/for/it");
        assert_eq!(claim(&dir, NodeId(1)).unwrap().cluster(), None);
        claim(&dir, NodeId(1)).unwrap().adopt(ClusterId(7)).unwrap();
        let mut again = claim(&dir, NodeId(1)).unwrap();
        assert_eq!(again.cluster(), Some(ClusterId(7)));
        again.adopt(ClusterId(7)).unwrap();
        assert!(again.adopt(ClusterId(8)).unwrap_err().to_string().contains(&ClusterId(8).to_string()));
        let told = refusal(&dir, 2);
        assert!(
            told.contains("belongs to metadata server 1, this is 2") && told.contains("made/for/it"),
            "{told}"
        );
    }

    #[test]
    fn what_is_not_ours_is_left_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        // The mount point of a new disk, after a start that was cut short.
        fs::create_dir(dir.path().join("lost+found")).unwrap();
        fs::write(dir.path().join(TEMP), "half").unwrap();
        claim(dir.path(), NodeId(1)).unwrap();
        fs::remove_file(dir.path().join(FILE)).unwrap();
        fs::write(dir.path().join("letter.txt"), "dear").unwrap();
        let told = refusal(dir.path(), 1);
        assert!(told.contains("letter.txt") && told.contains("an empty or a new directory"), "{told}");
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn a_flipped_byte_or_another_length_is_refused() {
        let dir = tempfile::TempDir::new().unwrap();
        claim(dir.path(), NodeId(1)).unwrap().adopt(ClusterId(7)).unwrap();
        let path = dir.path().join(FILE);
        let good = fs::read(&path).unwrap();
        assert_eq!(good.len(), BODY_LEN + CRC_LEN);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&path, bad).unwrap();
            let told = refusal(dir.path(), 1);
            assert!(told.contains(FILE) && told.contains("damaged"), "byte {at}: {told}");
        }
        for len in [0, 8, BODY_LEN, good.len() - 1] {
            fs::write(&path, &good[..len]).unwrap();
            assert!(refusal(dir.path(), 1).contains("damaged"), "{len} bytes");
        }
        fs::write(&path, [&good[..], &[0]].concat()).unwrap();
        assert!(refusal(dir.path(), 1).contains("damaged"), "a byte too many");
        fs::write(&path, good).unwrap();
        claim(dir.path(), NodeId(1)).unwrap();
    }

    #[test]
    fn a_directory_of_a_level_that_is_not_known_is_left_alone() {
        let dir = tempfile::TempDir::new().unwrap();
        let mut ours = claim(dir.path(), NodeId(1)).unwrap();
        ours.adopt(ClusterId(7)).unwrap();
        ours.keep_level(Level(2)).unwrap();
        let again = claim(dir.path(), NodeId(1)).unwrap();
        assert_eq!((again.cluster(), again.level()), (Some(ClusterId(7)), Level(2)));
        let before = fs::read(dir.path().join(FILE)).unwrap();
        let older = Identity::claim(Arc::new(RealDisk), dir.path(), NodeId(1), LevelRange::BEFORE);
        let told = older.unwrap_err().to_string();
        assert!(told.contains("format level 2") && told.contains("knows level 1"), "{told}");
        assert!(told.contains("start the program that ran here before"), "{told}");
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), before);
        let mut later = before;
        later[8] = 3;
        fs::write(dir.path().join(FILE), [&later[..], b"and more"].concat()).unwrap();
        assert!(refusal(dir.path(), 1).contains("version 3"));
    }

    #[test]
    fn golden_identity() {
        let told = Told { node: NodeId(3), cluster: Some(ClusterId(0x0102)), level: Level(1) };
        let all = [Told { cluster: None, ..told }, told, Told { level: Level(2), ..told }];
        let names = ["of no cluster yet", "of a cluster", "of a cluster at level 2"];
        let samples = names.iter().zip(&all).map(|(name, told)| {
            let bytes = encode(told);
            assert_eq!(decode(&bytes), Ok(*told));
            ((*name).to_owned(), bytes)
        });
        crate::golden::check("identity_meta", samples.collect());
    }
}
