//! Configuration files.
//!
//! Responsible for reading a TOML file (or YAML, by its extension) into a struct and for saying
//! exactly what is wrong with it: file, line, key. Always holds: an unknown key is an error (the
//! struct says `#[serde(deny_unknown_fields)]`) with the key that was probably meant. Not here:
//! checking that values make sense together; a daemon's `config/checked.rs` does that.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::disk::Disk;

pub mod duration;
mod suggest;

pub use self::duration::{DurationText, DurationTextError};
pub use self::suggest::closest;

/// Longest configuration file; far beyond any that a person writes.
const FILE_LEN_MAX: usize = 1024 * 1024;

/// The language of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigFormat {
    /// The documented one.
    Toml,
    /// Accepted.
    Yaml,
}

impl ConfigFormat {
    /// By extension: `.yaml` and `.yml` are YAML, everything else is TOML.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("yaml" | "yml") => Self::Yaml,
            _ => Self::Toml,
        }
    }
}

/// Where in a file something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigPlace {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1, where it is known.
    pub line: Option<u64>,
}

impl fmt::Display for ConfigPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.line {
            Some(line) => write!(f, ":{line}"),
            None => Ok(()),
        }
    }
}

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is no text, or too long to be a configuration.
    #[error("{} is not a configuration file: {reason}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// A key that does not exist.
    #[error("{place}: unknown key {key:?}{}", Hint(suggestion.as_deref(), known))]
    UnknownKey {
        /// Where it is.
        place: ConfigPlace,
        /// The key with the path to it: `server.listen`.
        key: String,
        /// The existing key that is spelt most alike, if any is.
        suggestion: Option<String>,
        /// The keys that exist there.
        known: Vec<String>,
    },
    /// A value that does not fit, a key that is missing, or a syntax error.
    #[error("{place}: {}{message}", Prefix(key.as_deref()))]
    Invalid {
        /// Where it is.
        place: ConfigPlace,
        /// The key with the path to it, where it is known.
        key: Option<String>,
        /// What is wrong.
        message: String,
    },
}

struct Hint<'a>(Option<&'a str>, &'a [String]);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(Some(suggestion), _) => write!(f, ", did you mean {suggestion:?}?"),
            Self(None, []) => Ok(()),
            Self(None, known) => write!(f, ", the keys here are {}", known.join(", ")),
        }
    }
}

struct Prefix<'a>(Option<&'a str>);

impl fmt::Display for Prefix<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, "{key}: "),
            None => Ok(()),
        }
    }
}

/// Reads a configuration file.
///
/// # Errors
/// [`ConfigError`] names file, line and key where it can.
pub fn load<T: DeserializeOwned>(disk: &dyn Disk, path: &Path) -> Result<T, ConfigError> {
    let content = disk.read(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    let not_text = |reason| ConfigError::NotText {
        path: path.to_owned(),
        reason,
    };
    if content.len() > FILE_LEN_MAX {
        return Err(not_text("it is longer than 1 MiB"));
    }
    let text = String::from_utf8(content).map_err(|_| not_text("it is not UTF-8 text"))?;
    parse(&text, ConfigFormat::of(path), path)
}

/// Reads a configuration from text; `path` is only named in errors.
///
/// # Errors
/// As [`load`].
pub fn parse<T: DeserializeOwned>(
    text: &str,
    format: ConfigFormat,
    path: &Path,
) -> Result<T, ConfigError> {
    let fault = match format {
        ConfigFormat::Toml => match parse_toml(text) {
            Ok(value) => return Ok(value),
            Err(fault) => fault,
        },
        ConfigFormat::Yaml => match parse_yaml(text) {
            Ok(value) => return Ok(value),
            Err(fault) => fault,
        },
    };
    Err(fault.at(path))
}

/// An error of either language.
struct Fault {
    line: Option<u64>,
    /// Path to the key or value.
    path: Option<serde_path_to_error::Path>,
    message: String,
    unknown: Option<(String, Vec<String>)>,
}

impl Fault {
    fn at(self, path: &Path) -> ConfigError {
        let place = ConfigPlace {
            path: path.to_owned(),
            line: self.line,
        };
        let key = self.path.map(|path| path.to_string());
        // A path of no segments is written as a dot.
        let key = key.filter(|key| key != "." && key != "?");
        match self.unknown {
            Some((field, known)) => ConfigError::UnknownKey {
                place,
                suggestion: closest(&field, &known).map(str::to_owned),
                key: key.unwrap_or(field),
                known,
            },
            None => ConfigError::Invalid {
                place,
                key,
                message: self.message,
            },
        }
    }
}

fn parse_toml<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    let line_of = |error: &toml::de::Error| {
        let before = text.get(..error.span()?.start)?;
        let line = before.bytes().filter(|byte| *byte == b'\n').count();
        u64::try_from(line).ok()?.checked_add(1)
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|error| Fault {
        line: line_of(&error),
        path: None,
        message: error.message().to_owned(),
        unknown: None,
    })?;
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let inner = error.inner();
        Fault {
            line: line_of(inner),
            message: inner.message().to_owned(),
            unknown: unknown_field(inner.message()),
            path: Some(error.path().clone()),
        }
    })
}

fn parse_yaml<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    let path = RefCell::new(None);
    let result = serde_saphyr::with_deserializer_from_str(text, |deserializer| {
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            *path.borrow_mut() = Some(error.path().clone());
            error.into_inner()
        })
    });
    result.map_err(|error| {
        let unknown = match error.without_snippet() {
            serde_saphyr::Error::SerdeUnknownField {
                field, expected, ..
            } => {
                let known = expected.iter().map(ToString::to_string).collect();
                Some((field.clone(), known))
            }
            _ => None,
        };
        Fault {
            line: error.location().map(|location| location.line()),
            path: path.into_inner(),
            message: error.without_snippet().to_string(),
            unknown,
        }
    })
}

/// Takes serde's own message for an unknown field apart, which is all that `toml` keeps of it:
/// ``unknown field `a`, expected one of `b`, `c` ``.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2).map(str::to_owned);
    let field = quoted.next()?;
    Some((field, quoted.collect()))
}

#[cfg(test)]
mod tests;
