//! Numbers for operators, in the OpenMetrics text format.
//!
//! Responsible for one registry per process. Always holds: every metric of a daemon carries the
//! same prefix, and rendering blocks no counting. Not here: the metrics themselves; each crate
//! keeps its own, named in one file.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

/// The `Content-Type` of [`Metrics::text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one process. A clone shares them.
#[derive(Clone)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// An empty registry whose metrics all begin with `prefix` and an underscore.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self(Arc::new(Mutex::new(Registry::with_prefix(prefix))))
    }

    /// Adds metrics, usually once, at start.
    pub fn register<R>(&self, add: impl FnOnce(&mut Registry) -> R) -> R {
        add(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics as text.
    ///
    /// # Errors
    /// When one of them cannot be encoded, which is a fault in its definition.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn registered_metrics_are_rendered_with_prefix() {
        let metrics = Metrics::new("mintmark");
        let issued: Counter = Counter::default();
        metrics.register(|registry| {
            let registry = registry.sub_registry_with_prefix("server");
            registry.register("svids_issued", "SVIDs issued", issued.clone());
        });
        issued.inc();
        let text = metrics.text().unwrap();
        assert!(
            text.contains("mintmark_server_svids_issued_total 1\n"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
