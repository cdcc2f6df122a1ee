//! From files, environment and flags to a validated configuration.
//!
//! Called once by `cli` at start. Holds: an unknown key is refused with the nearest known one, wherever it came from,
//! except in the environment, where other programs may own variables of the same prefix: there it is logged, unless it steps
//! into one of our tables.
//! Not here: what the keys mean (`meta`, `data`).

use std::fmt::Display;
use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{DataConfig, MetaConfig};

/// Variables of the environment begin with this; `POHMELFS_HTTP_LISTEN` is the key `http_listen`, and two underscores
/// step into a table: `POHMELFS_TIMERS__HEARTBEAT_MS` is `timers.heartbeat_ms`. Lists are separated by commas.
pub const ENV_PREFIX: &str = "POHMELFS_";

/// Variables of the prefix that mean something else.
const ENV_RESERVED: &[&str] = &["cluster", "http", "bin", "log", "log_format", "config", "pretend"];

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file, a variable or a flag cannot be read as what it should be.
    #[error("{0}")]
    Read(String),
    /// A key that does not exist.
    #[error("unknown key `{key}`{}", .nearest.as_ref().map(|n| format!(": did you mean `{n}`?")).unwrap_or_default())]
    UnknownKey {
        /// As it was written, with the tables it is in.
        key: String,
        /// The known key most like it.
        nearest: Option<String>,
    },
    /// A value that cannot be.
    #[error("{key} = {value}: must be {allowed}")]
    Value {
        /// Which key.
        key: String,
        /// What it was set to.
        value: String,
        /// What it may be.
        allowed: String,
    },
}

impl ConfigError {
    /// A value that cannot be, and what would be allowed.
    pub(super) fn value(key: impl Into<String>, value: impl Display, allowed: impl Into<String>) -> Self {
        Self::Value { key: key.into(), value: value.to_string(), allowed: allowed.into() }
    }
}

/// Where a configuration comes from; later parts win over earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// TOML file.
    pub file: Option<PathBuf>,
    /// Environment; only names that begin with [`ENV_PREFIX`] are looked at.
    pub env: Vec<(String, String)>,
    /// Flags, as `(key, value)`; the key with dots for tables.
    pub flags: Vec<(String, String)>,
}

impl Source {
    /// A file, with the environment of this process and no flags.
    #[must_use]
    pub fn file_and_env(file: impl Into<PathBuf>) -> Self {
        Self { file: Some(file.into()), env: std::env::vars().collect(), flags: Vec::new() }
    }
}

/// Configuration of a metadata server.
///
/// # Errors
/// [`ConfigError`] says which key and what is allowed.
pub fn load_meta(source: &Source) -> Result<MetaConfig, ConfigError> {
    let config: MetaConfig = load(source, &shape(&MetaConfig::example()))?;
    config.validate()?;
    Ok(config)
}

/// Configuration of a data server.
///
/// # Errors
/// [`ConfigError`] says which key and what is allowed.
pub fn load_data(source: &Source) -> Result<DataConfig, ConfigError> {
    let config: DataConfig = load(source, &shape(&DataConfig::example()))?;
    config.validate()?;
    Ok(config)
}

/// All keys there are, as a value that has every one of them.
fn shape<T: Serialize>(example: &T) -> Value {
    serde_json::to_value(example).unwrap_or(Value::Null)
}

fn load<T: DeserializeOwned>(source: &Source, shape: &Value) -> Result<T, ConfigError> {
    let mut builder = Config::builder();
    if let Some(file) = &source.file {
        let text = read(file)?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    builder = builder.add_source(environment(&source.env, shape)?);
    for (key, value) in &source.flags {
        check_key(key, shape)?;
        builder = builder
            .set_override(key, flag_value(key, value, shape)?)
            .map_err(|e| ConfigError::Read(format!("flag {key}={value}: {e}")))?;
    }
    let file = source.file.as_ref().map(|f| f.display().to_string());
    let place = file.as_ref().map_or_else(String::new, |f| format!("{f}: "));
    let merged = builder.build().map_err(|e| ConfigError::Read(format!("{place}{e}")))?;
    // From here on a value may come from the environment or a flag as well.
    let place = file.as_ref().map_or_else(String::new, |f| format!("{f}, environment and flags together: "));
    let misread = |e: config::ConfigError| ConfigError::Read(format!("{place}{e}"));
    let tree: Value = merged.clone().try_deserialize().map_err(misread)?;
    check_keys("", &tree, shape)?;
    merged.try_deserialize().map_err(misread)
}

fn read(file: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(file)
        .map_err(|e| ConfigError::Read(format!("cannot read the configuration {}: {e}", file.display())))
}

/// Variables whose name is a key of this role. Others are logged and left alone: an orchestrator may set
/// variables such as `POHMELFS_SERVICE_HOST` for reasons of its own.
fn environment(env: &[(String, String)], shape: &Value) -> Result<Environment, ConfigError> {
    let mut known = config::Map::new();
    for (name, value) in env {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else { continue };
        let key = rest.to_lowercase().replace("__", ".");
        if ENV_RESERVED.contains(&key.as_str()) {
            continue;
        }
        if at(&key, shape).is_some() {
            known.insert(name.clone(), value.clone());
        } else if key.split_once('.').is_some_and(|(table, _)| at(table, shape).is_some_and(Value::is_object))
        {
            let nearest = nearest(&key, shape)
                .map(|key| format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__")));
            return Err(ConfigError::UnknownKey { key: name.clone(), nearest });
        } else {
            let nearest = nearest(&key, shape).unwrap_or_default();
            tracing::warn!(variable = %name, %nearest, "variable of the environment is no key of this server");
        }
    }
    let mut source = Environment::with_prefix(ENV_PREFIX.trim_end_matches('_'))
        .prefix_separator("_")
        .separator("__")
        .try_parsing(true)
        .list_separator(",")
        .source(Some(known));
    for (key, value) in paths(shape) {
        if value.is_array() {
            source = source.with_list_parse_key(&key);
        }
    }
    Ok(source)
}

/// A flag's value as the shape wants it: a list is separated by commas.
fn flag_value(key: &str, value: &str, shape: &Value) -> Result<config::Value, ConfigError> {
    let refused = |allowed: &str| Err(ConfigError::value(key, value, allowed));
    match at(key, shape) {
        Some(Value::Array(of)) if of.first().is_some_and(Value::is_object) => {
            refused("set in the file: it is a list of tables")
        }
        Some(Value::Object(_)) => {
            refused("set key by key, for instance timers.heartbeat_ms=50: it is a table")
        }
        Some(Value::Array(_)) => {
            let list: Vec<&str> = value.split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
            Ok(list.into())
        }
        Some(Value::Number(_)) => value.parse::<i64>().map(Into::into).or_else(|_| refused("a whole number")),
        Some(Value::Bool(_)) => value.parse::<bool>().map(Into::into).or_else(|_| refused("true or false")),
        _ => Ok(value.into()),
    }
}

fn check_key(key: &str, shape: &Value) -> Result<(), ConfigError> {
    match at(key, shape) {
        Some(_) => Ok(()),
        None => Err(ConfigError::UnknownKey { key: key.to_owned(), nearest: nearest(key, shape) }),
    }
}

/// Every key of `tree` must be in `shape`; of a list, the first element of the shape stands for all.
fn check_keys(place: &str, tree: &Value, shape: &Value) -> Result<(), ConfigError> {
    match (tree, shape) {
        (Value::Object(tree), Value::Object(known)) => {
            for (key, value) in tree {
                let path = if place.is_empty() { key.clone() } else { format!("{place}.{key}") };
                let Some(shape) = known.get(key) else {
                    let nearest = nearest_of(key, known.keys().map(String::as_str));
                    let nearest =
                        nearest.map(|n| if place.is_empty() { n.to_owned() } else { format!("{place}.{n}") });
                    return Err(ConfigError::UnknownKey { key: path, nearest });
                };
                check_keys(&path, value, shape)?;
            }
            Ok(())
        }
        (Value::Array(tree), Value::Array(known)) => match known.first() {
            Some(shape) => tree.iter().try_for_each(|value| check_keys(place, value, shape)),
            None => Ok(()),
        },
        _ => Ok(()), // a value of another type: the deserializer says so with the type it wants
    }
}

/// The shape's value at a dotted key.
fn at<'a>(key: &str, shape: &'a Value) -> Option<&'a Value> {
    key.split('.').try_fold(shape, |value, part| value.get(part))
}

/// All dotted keys of the shape, tables included.
fn paths(shape: &Value) -> Vec<(String, &Value)> {
    let mut all = Vec::new();
    if let Value::Object(map) = shape {
        for (key, value) in map {
            all.push((key.clone(), value));
            all.extend(paths(value).into_iter().map(|(rest, v)| (format!("{key}.{rest}"), v)));
        }
    }
    all
}

fn nearest(key: &str, shape: &Value) -> Option<String> {
    let all = paths(shape);
    nearest_of(key, all.iter().map(|(k, _)| k.as_str())).map(str::to_owned)
}

/// The candidate with the fewest edits, if it is near enough that it may have been meant.
fn nearest_of<'a>(key: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near = (key.len() / 2).max(2);
    candidates.map(|c| (distance(key, c), c)).filter(|(d, _)| *d <= near).min().map(|(_, c)| c)
}

/// Levenshtein's edit distance, one row at a time. Keys are short: a flag's length is bounded by the command line.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const META: &str = r#"
        node = 1
        name = "meta-1"
        listen = "127.0.0.1:7001"
        http_listen = "127.0.0.1:8001"
        directory = "/var/lib/pohmelfs"
        [[peers]]
        node = 1
        name = "meta-1"
        address = "127.0.0.1:7001"
    "#;
    const DATA: &str = r#"
        node = 101
        name = "data-1"
        listen = "127.0.0.1:7101"
        http_listen = "127.0.0.1:8101"
        meta_servers = ["127.0.0.1:7001"]
        directories = ["/var/lib/pohmelfs"]
    "#;

    fn source(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> (tempfile::NamedTempFile, Source) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let own = |list: &[(&str, &str)]| list.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let source = Source { file: Some(file.path().into()), env: own(env), flags: own(flags) };
        (file, source)
    }

    fn meta(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<MetaConfig, ConfigError> {
        let (_file, source) = source(text, env, flags);
        load_meta(&source)
    }

    fn data(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<DataConfig, ConfigError> {
        let (_file, source) = source(text, env, flags);
        load_data(&source)
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let of = |env: &[_], flags: &[_]| meta(META, env, flags).unwrap().timers.election_ms_max;
        let default = MetaConfig::example().timers.election_ms_max;
        assert_eq!(of(&[], &[]), default);
        assert_eq!(of(&[("POHMELFS_TIMERS__ELECTION_MS_MAX", "901")], &[]), 901);
        let env = [("POHMELFS_TIMERS__ELECTION_MS_MAX", "901")];
        assert_eq!(of(&env, &[("timers.election_ms_max", "902")]), 902);
        let text = format!("{META}\n[timers]\nelection_ms_max = 900");
        assert_eq!(meta(&text, &[], &[]).unwrap().timers.election_ms_max, 900);
    }

    #[test]
    fn lists_come_from_the_environment_and_flags_too() {
        let env = [("POHMELFS_DIRECTORIES", "/a,/b"), ("POHMELFS_META_SERVERS", "x:1,y:2")];
        let config = data(DATA, &env, &[]).unwrap();
        assert_eq!(config.directories, ["/a", "/b"].map(PathBuf::from));
        assert_eq!(config.meta_servers, ["x:1", "y:2"]);
        let config = data(DATA, &env, &[("directories", "/c")]).unwrap();
        assert_eq!(config.directories, ["/c"].map(PathBuf::from));
    }

    #[test]
    fn a_name_that_looks_like_a_number_stays_a_name() {
        assert_eq!(data(DATA, &[("POHMELFS_NAME", "17")], &[]).unwrap().name, "17");
        assert_eq!(data(DATA, &[], &[("name", "17")]).unwrap().name, "17");
    }

    #[test]
    fn an_unknown_key_names_itself_and_the_nearest_known_one() {
        let told = |r: Result<MetaConfig, ConfigError>| r.unwrap_err().to_string();
        assert_eq!(
            told(meta(&format!("lisen = 1\n{META}"), &[], &[])),
            "unknown key `lisen`: did you mean `listen`?"
        );
        let text = format!("{META}\n[timers]\nhartbeat_ms = 10");
        assert_eq!(
            told(meta(&text, &[], &[])),
            "unknown key `timers.hartbeat_ms`: did you mean `timers.heartbeat_ms`?"
        );
        let text = META.replace("address =", "adress =");
        assert_eq!(told(meta(&text, &[], &[])), "unknown key `peers.adress`: did you mean `peers.address`?");
        assert_eq!(
            told(meta(META, &[], &[("timers.hartbeat_ms", "9")])),
            "unknown key `timers.hartbeat_ms`: did you mean `timers.heartbeat_ms`?"
        );
        assert_eq!(told(meta(&format!("zzzzzzzzzz = 1\n{META}"), &[], &[])), "unknown key `zzzzzzzzzz`");
    }

    #[test]
    fn a_variable_that_is_no_key_is_left_alone() {
        let env = [("POHMELFS_CLUSTER", "a:1"), ("POHMELFS_SERVICE_HOST", "10.0.0.1"), ("HOME", "/")];
        assert!(meta(META, &env, &[]).is_ok());
        // One that steps into a table of ours can mean nothing else.
        let told = meta(META, &[("POHMELFS_TIMERS__HARTBEAT_MS", "5")], &[]).unwrap_err().to_string();
        let meant = "POHMELFS_TIMERS__HEARTBEAT_MS";
        assert_eq!(told, format!("unknown key `POHMELFS_TIMERS__HARTBEAT_MS`: did you mean `{meant}`?"));
    }

    #[test]
    fn a_missing_file_a_missing_key_and_a_wrong_type_say_so() {
        let none = Source { file: Some("/no/such/file.toml".into()), ..Source::default() };
        let told = load_meta(&none).unwrap_err().to_string();
        assert!(told.contains("/no/such/file.toml"), "{told}");
        let told =
            meta(&META.replace("node = 1\n        name = \"meta-1\"\n        listen", "listen"), &[], &[]);
        let told = told.unwrap_err().to_string();
        assert!(told.contains("missing") && told.contains("node"), "{told}");
        let told = meta(META, &[], &[("replicas", "many")]).unwrap_err().to_string();
        assert!(told.contains("many") && told.contains("replicas"), "{told}");
        assert_eq!(told, "replicas = many: must be a whole number");
        for (key, value) in [("peers", "1"), ("timers", "1")] {
            let told = meta(META, &[], &[(key, value)]).unwrap_err().to_string();
            assert!(told.starts_with(&format!("{key} = 1: must be set ")), "{told}");
        }
        let told = meta("node = [", &[], &[]).unwrap_err().to_string();
        assert!(told.contains("TOML") || told.contains("line"), "{told}");
    }

    #[test]
    fn validation_runs_on_what_was_loaded() {
        let told = meta(META, &[], &[("replicas", "9")]).unwrap_err().to_string();
        assert_eq!(told, "replicas = 9: must be 1 to 5");
        let told = data(DATA, &[], &[("directories", "")]).unwrap_err().to_string();
        assert!(told.starts_with("directories = "), "{told}");
    }
}
