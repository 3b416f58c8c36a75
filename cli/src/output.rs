//! The only place that prints data. Tables are for people and may change; JSON and YAML are for
//! scripts and are stable: fields are added, never renamed.
//!
//! Data goes to stdout, everything else (progress, notes, errors) to stderr.

use std::io::Write as _;
use std::os::fd::AsFd as _;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use tokio::io::Interest;
use tokio::net::unix::pipe;

use crate::failure::{Exit, Failure};

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// The table with more columns.
    Wide,
    /// JSON: a list is an array, a stream one object on each line.
    Json,
    /// YAML.
    Yaml,
}

/// Something that can stand in a row.
pub trait Row: Serialize {
    /// Column titles, upper case; `wide` may add some at the end.
    fn titles(wide: bool) -> Vec<&'static str>;
    /// The cells, as many as titles.
    fn cells(&self, wide: bool) -> Vec<String>;
}

/// Prints data in the chosen format.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    format: Format,
}

impl Output {
    /// A printer for `format`.
    pub fn new(format: Format) -> Self {
        Self { format }
    }

    /// The chosen format.
    pub fn format(self) -> Format {
        self.format
    }

    /// Prints a list. An empty one says so on stderr when a person reads.
    pub fn list<T: Row>(self, items: &[T], what: &str) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json_pretty(&items),
            Format::Yaml => self.yaml(&items),
            Format::Table | Format::Wide => {
                if items.is_empty() {
                    note(&format!("no {what}"));
                    return Ok(());
                }
                let wide = self.format == Format::Wide;
                let mut table = Table::new();
                table.load_style(presets::NOTHING);
                table.set_content_arrangement(ContentArrangement::Disabled);
                table.set_header(T::titles(wide));
                for item in items {
                    table.add_row(item.cells(wide));
                }
                print(&trimmed(&table))
            }
        }
    }

    /// Prints one item: as a table of names and values for people.
    pub fn one<T: Serialize>(self, item: &T, fields: &[(&str, String)]) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json_pretty(item),
            Format::Yaml => self.yaml(item),
            Format::Table | Format::Wide => {
                let width = fields
                    .iter()
                    .map(|(name, _)| name.chars().count())
                    .max()
                    .unwrap_or(0);
                let mut text = String::new();
                for (name, value) in fields {
                    for (index, line) in value.lines().enumerate() {
                        let label = if index == 0 { *name } else { "" };
                        text.push_str(&format!("{label:<width$}  {line}\n"));
                    }
                    if value.is_empty() {
                        text.push_str(&format!("{name:<width$}  -\n"));
                    }
                }
                print(text.trim_end_matches('\n'))
            }
        }
    }

    /// Prints one element of a stream: one line of JSON, one YAML document, or `line`.
    pub fn stream<T: Serialize>(self, item: &T, line: &str) -> Result<(), Failure> {
        match self.format {
            Format::Json => print(&serde_json::to_string(item).map_err(|e| unprintable(&e))?),
            Format::Yaml => {
                let text = serde_saphyr::to_string(item).map_err(|e| unprintable(&e))?;
                print(&format!("---\n{}", text.trim_end()))
            }
            Format::Table | Format::Wide => print(line),
        }
    }

    /// Prints a value that has no table of its own, as JSON or YAML.
    pub fn structured<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        match self.format {
            Format::Yaml => self.yaml(value),
            _ => self.json_pretty(value),
        }
    }

    /// Prints text that is data in itself (PEM, a token, a bundle document).
    pub fn raw(self, text: &str) -> Result<(), Failure> {
        print(text.trim_end_matches('\n'))
    }

    fn json_pretty<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        print(&serde_json::to_string_pretty(value).map_err(|e| unprintable(&e))?)
    }

    fn yaml<T: Serialize>(self, value: &T) -> Result<(), Failure> {
        let text = serde_saphyr::to_string(value).map_err(|e| unprintable(&e))?;
        print(text.trim_end())
    }
}

/// Says something to the person on stderr. Where nobody can hear it, nothing else is to be done: what
/// a command is asked for does not depend on it, nor does its exit code.
pub fn note(text: &str) {
    let _ = writeln!(anstream::stderr(), "{text}");
}

/// Waits until the reader of the output goes away, which a command that waits for something else would
/// notice only at its next line. An output that is no pipe has no reader that could go.
pub async fn reader_leaves() -> Failure {
    let watched = async {
        let output = std::io::stdout().as_fd().try_clone_to_owned()?;
        // Unchecked leaves the output blocking, as printing wants it; nothing is written here.
        let output = pipe::Sender::from_file_unchecked(output.into())?;
        output.ready(Interest::ERROR).await
    };
    if watched.await.is_err() {
        std::future::pending::<()>().await;
    }
    Failure::reader_left()
}

fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .map_err(|e| unwritable(&e))
}

fn trimmed(table: &Table) -> String {
    let lines: Vec<String> = table
        .lines()
        .map(|line| {
            line.strip_prefix(' ')
                .unwrap_or(&line)
                .trim_end()
                .to_owned()
        })
        .collect();
    lines.join("\n")
}

fn unprintable(error: &dyn std::error::Error) -> Failure {
    Failure::new(
        "MM-3002",
        Exit::Failure,
        "cannot write the result in this format",
    )
    .because(error)
}

fn unwritable(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return Failure::reader_left();
    }
    Failure::new("MM-3001", Exit::Failure, "cannot write to the output")
        .because(error)
        .next("is the disk full?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Fruit {
        name: String,
        seeds: u32,
    }

    impl Row for Fruit {
        fn titles(wide: bool) -> Vec<&'static str> {
            if wide {
                vec!["NAME", "SEEDS"]
            } else {
                vec!["NAME"]
            }
        }
        fn cells(&self, wide: bool) -> Vec<String> {
            let mut cells = vec![self.name.clone()];
            if wide {
                cells.push(self.seeds.to_string());
            }
            cells
        }
    }

    #[test]
    fn a_row_has_as_many_cells_as_titles() {
        let fruit = Fruit {
            name: "quince".into(),
            seeds: 10,
        };
        for wide in [false, true] {
            assert_eq!(Fruit::titles(wide).len(), fruit.cells(wide).len());
        }
    }

    #[test]
    fn tables_have_no_frame_and_no_trailing_space() {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(vec!["A", "B"]);
        table.add_row(vec!["longer", "x"]);
        let text = trimmed(&table);
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text:?}");
        assert!(text.starts_with('A'), "{text:?}");
    }
}
