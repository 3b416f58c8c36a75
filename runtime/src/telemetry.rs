//! Logging.
//!
//! Responsible for one subscriber per process: text for people, JSON for machines, on standard
//! error. Always holds: time stamps come from the injected clock, colour appears only on a
//! terminal that wants it, a misspelt filter is refused, the level can be changed while running.
//! Not here: what is logged.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::str::FromStr;
use std::sync::Arc;

use mintmark_identity::clock::Clock;
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for LogFormat {
    type Err = LoggingError;
    fn from_str(text: &str) -> Result<Self, LoggingError> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LoggingError::Format),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoggingError {
    /// The filter is malformed or names no level.
    #[error(
        "{directive:?} is no log filter: give a level (error, warn, info, debug, trace, off) or target=level, separated by commas"
    )]
    Filter {
        /// The part that is wrong.
        directive: String,
    },
    /// The format is unknown.
    #[error("a log format is text or json")]
    Format,
    /// A subscriber was installed before.
    #[error("logging is already set up")]
    AlreadySet,
    /// The subscriber is gone.
    #[error("logging is not set up any more")]
    Gone,
}

/// Changes the filter while the process runs.
#[derive(Clone, Debug)]
pub struct LogControl(reload::Handle<EnvFilter, Registry>);

impl LogControl {
    /// Replaces the filter: `info`, or `info,openraft=warn`.
    ///
    /// # Errors
    /// [`LoggingError::Filter`]; the old filter stays then.
    pub fn set_filter(&self, filter: &str) -> Result<(), LoggingError> {
        let filter = parse_filter(filter)?;
        self.0.reload(filter).map_err(|_| LoggingError::Gone)
    }
}

/// Sets up logging for the process, to standard error.
///
/// # Errors
/// [`LoggingError::Filter`], [`LoggingError::AlreadySet`].
pub fn init_logging(
    format: LogFormat,
    filter: &str,
    clock: Arc<dyn Clock>,
) -> Result<LogControl, LoggingError> {
    let color = wants_color();
    let (dispatch, control) = subscriber(format, filter, clock, color, io::stderr)?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|_| LoggingError::AlreadySet)?;
    Ok(control)
}

/// Sends panics to the log, so that they are not lost between JSON lines.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|info| {
        let message = crate::task::panic_message(info.payload());
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(message, location, %backtrace, "panic");
    }));
}

#[expect(
    clippy::disallowed_methods,
    reason = "NO_COLOR is an environment variable: no-color.org"
)]
fn wants_color() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !refused
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    clock: Arc<dyn Clock>,
    color: bool,
    writer: W,
) -> Result<(Dispatch, LogControl), LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(parse_filter(filter)?);
    let layer = tracing_subscriber::fmt::layer()
        .with_timer(ClockTime(clock))
        .with_ansi(color)
        .with_writer(writer);
    let registry = tracing_subscriber::registry().with(filter);
    let dispatch = match format {
        LogFormat::Text => dispatch(registry.with(layer.boxed())),
        LogFormat::Json => dispatch(registry.with(layer.json().flatten_event(true).boxed())),
    };
    Ok((dispatch, LogControl(handle)))
}

fn dispatch(subscriber: impl Subscriber + Send + Sync + 'static) -> Dispatch {
    Dispatch::new(subscriber)
}

/// Time stamps from the injected clock, RFC 3339 in UTC.
struct ClockTime(Arc<dyn Clock>);

impl FormatTime for ClockTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        write!(writer, "{}", self.0.now())
    }
}

/// What a directive without a target may say.
const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Reads a filter. `EnvFilter` takes a bare word for the name of a target, so that `inof` would
/// silence everything; a bare word must be a level here.
fn parse_filter(text: &str) -> Result<EnvFilter, LoggingError> {
    let bad = |directive: &str| LoggingError::Filter {
        directive: directive.to_owned(),
    };
    let mut directives = Vec::new();
    for directive in text.split(',').map(str::trim) {
        let is_bare = !directive.contains(['=', '[']);
        let is_level = LEVELS
            .iter()
            .any(|level| level.eq_ignore_ascii_case(directive));
        if is_bare && !is_level {
            return Err(bad(directive));
        }
        directives.push(directive);
    }
    let parsed = EnvFilter::builder().parse(directives.join(","));
    parsed.map_err(|_| bad(text))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use mintmark_identity::clock::{ManualClock, Timestamp};
    use std::sync::Mutex;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
        }
    }

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logging(format: LogFormat, filter: &str, color: bool) -> (Dispatch, LogControl, Sink) {
        let clock = ManualClock::new(Timestamp::from_unix_secs(1_700_000_000));
        let sink = Sink::default();
        let writer = sink.clone();
        let made = subscriber(format, filter, Arc::new(clock), color, move || {
            writer.clone()
        });
        let (dispatch, control) = made.unwrap();
        (dispatch, control, sink)
    }

    #[test]
    fn text_lines_carry_the_injected_time_and_no_colour() {
        let (dispatch, _control, sink) = logging(LogFormat::Text, "info", false);
        tracing::dispatcher::with_default(&dispatch, || tracing::info!(entry = "e1", "minted"));
        let line = sink.take();
        assert!(line.starts_with("2023-11-14T22:13:20Z "), "{line}");
        assert!(line.contains("minted entry=\"e1\""), "{line}");
        assert!(!line.contains('\u{1b}'), "{line:?}");
    }

    #[test]
    fn colour_appears_when_asked_for() {
        let (dispatch, _control, sink) = logging(LogFormat::Text, "info", true);
        tracing::dispatcher::with_default(&dispatch, || tracing::info!("minted"));
        assert!(sink.take().contains('\u{1b}'));
    }

    #[test]
    fn json_lines_are_objects() {
        let (dispatch, _control, sink) = logging(LogFormat::Json, "info", false);
        tracing::dispatcher::with_default(&dispatch, || tracing::warn!(entry = "e1", "minted"));
        let line: serde_json::Value = serde_json::from_str(&sink.take()).unwrap();
        assert_eq!(line["message"], "minted");
        assert_eq!(line["entry"], "e1");
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["timestamp"], "2023-11-14T22:13:20Z");
    }

    #[test]
    fn the_filter_can_be_changed_while_running() {
        let (dispatch, control, sink) = logging(LogFormat::Text, "warn", false);
        tracing::dispatcher::with_default(&dispatch, || {
            tracing::info!("quiet");
            assert_eq!(sink.take(), "");
            control.set_filter("off,mintmark_runtime=info").unwrap();
            tracing::info!("loud");
            assert!(sink.take().contains("loud"));
            control.set_filter("inof").unwrap_err();
            tracing::info!("still loud");
            assert!(sink.take().contains("still loud"));
        });
    }

    #[test]
    fn misspelt_filters_are_refused() {
        for filter in ["", "inof", "info,dbug", "openraft=loud", "info,=warn="] {
            let result = parse_filter(filter);
            assert!(
                matches!(result, Err(LoggingError::Filter { .. })),
                "{filter}"
            );
        }
        for filter in ["info", "INFO", "off", "info,openraft=warn", "warn, h2=off"] {
            assert!(parse_filter(filter).is_ok(), "{filter}");
        }
    }

    #[test]
    fn formats_round_trip() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse::<LogFormat>().unwrap(), format);
        }
        assert!("xml".parse::<LogFormat>().is_err());
    }
}
