//! What the server says about itself: Prometheus metrics, a request id and one log line per request.
//!
//! No log line and no metric holds anything of an image or a prompt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::engine::Engine;
use crate::error::Kind;

/// Bounds of the time histograms, in seconds.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 20.0, 40.0];

/// Installs the recorder once per process.
fn recorder() -> Option<&'static PrometheusHandle> {
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    let install = || {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("seconds".to_owned()), &BOUNDS);
        builder.ok()?.install_recorder().ok()
    };
    HANDLE.get_or_init(install).as_ref()
}

/// Before the first request, so that nothing is lost.
pub fn install() {
    recorder();
}

/// Prometheus' text format.
pub fn render(engine: &Engine) -> String {
    let (bytes, entries) = engine.store.usage();
    metrics::gauge!("samclip_cache_bytes").set(bytes as f64);
    metrics::gauge!("samclip_cache_entries").set(entries as f64);
    metrics::gauge!("samclip_requests_in_flight").set(engine.in_flight() as f64);
    for (lane, jobs) in ["prompt", "heavy"].into_iter().zip(engine.waiting()) {
        metrics::gauge!("samclip_queue_length", "lane" => lane).set(jobs as f64);
    }
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("samclip_resident_bytes").set(bytes as f64);
    }
    recorder().map(PrometheusHandle::render).unwrap_or_default()
}

/// Memory of this process; Linux only.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

/// The caller's id where it is a plain word, else one of ours: start of the process and a counter.
fn request_id(request: &Request) -> String {
    static START: OnceLock<u64> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let plain = |id: &&str| !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if let Some(id) = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).filter(plain) {
        return id.to_owned();
    }
    let start = START.get_or_init(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.map_or(0, |since| since.as_micros() as u64) ^ (u64::from(std::process::id()) << 40)
    });
    format!("{start:x}-{:x}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Counts a refusal; the first one of a second logs how many there were since the last line.
fn refused(now: Instant) {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static TOLD: AtomicU64 = AtomicU64::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed);
    let second = now.saturating_duration_since(*FIRST.get_or_init(|| now)).as_secs() + 1;
    if TOLD.swap(second, Ordering::Relaxed) != second {
        let refused = COUNT.swap(0, Ordering::Relaxed);
        tracing::warn!(refused, "the queue is full");
    }
}

/// Times a request, counts it, logs one line (a refusal only with -v, see [`refused`]) and sends its id back.
pub async fn observe(State(_): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = request_id(&request);
    let route = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let mut response = next.run(request).await;
    let (took, code) = (start.elapsed(), response.status().as_u16());
    metrics::counter!("samclip_requests_total", "route" => route.clone(), "code" => code.to_string()).increment(1);
    metrics::histogram!("samclip_request_seconds", "route" => route.clone()).record(took);
    let ms = (took.as_secs_f64() * 1e4).round() / 10.0;
    let kind = response.extensions().get::<Kind>().copied();
    let name = kind.map_or("", Kind::name);
    match kind {
        // A line for every refusal would be work that an overload has no time for.
        Some(Kind::Overloaded) => {
            tracing::debug!(request_id = %id, %method, route, code, kind = name, ms, "request");
            refused(start);
        }
        _ => tracing::info!(request_id = %id, %method, route, code, kind = name, ms, "request"),
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}
