//! Logs and metrics.

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

static METRICS: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// Logs to stderr: lines for people on a terminal, JSON elsewhere. `PORTREEVE_LOG` filters, as `RUST_LOG` would.
pub fn init_logs(default_filter: &str) {
    let filter = EnvFilter::try_from_env("PORTREEVE_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    // A log that cannot be written is nothing to die of: its errors would be printed to stderr, which panics where it is full.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false);
    let started = if std::io::stderr().is_terminal() {
        lines.compact().try_init()
    } else {
        lines.json().flatten_event(true).try_init()
    };
    // A second start in one process (tests) keeps the first one's logs.
    drop(started);
}

/// Starts counting. Once per process; later calls do nothing.
pub fn init_metrics() {
    METRICS.get_or_init(|| {
        let seconds = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        let built = PrometheusBuilder::new().set_buckets(&seconds).map(PrometheusBuilder::install_recorder);
        match built {
            Ok(Ok(handle)) => Some(handle),
            Ok(Err(error)) | Err(error) => {
                tracing::error!(error = %error, "metrics are not counted");
                None
            }
        }
    });
}

/// The metrics in Prometheus' text format.
#[must_use]
pub fn metrics_text() -> String {
    METRICS.get().and_then(Option::as_ref).map(PrometheusHandle::render).unwrap_or_default()
}
