//! Connections: accept, serve, drain.
//!
//! Told to stop, the server is no longer ready and refuses new work, but goes on listening until everything that
//! it has accepted is answered; then it closes, at the latest after the grace.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::IntoResponse;
use axum::{Router, middleware};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::engine::Engine;
use crate::error::{ApiError, Kind};
use crate::{access, routes, telemetry};

/// The router with everything around it.
pub fn app(engine: &Arc<Engine>) -> Router {
    let defect = |_| ApiError::new(Kind::Internal, "a defect; the server's log has more").into_response();
    let app = routes::router()
        .layer(middleware::from_fn_with_state(engine.clone(), access::check))
        .layer(CatchPanicLayer::custom(defect))
        .layer(DefaultBodyLimit::disable());
    let app = match cors(&engine.settings.cors) {
        Some(layer) => app.layer(layer),
        None => app,
    };
    app.layer(middleware::from_fn_with_state(engine.clone(), telemetry::observe)).with_state(engine.clone())
}

fn cors(origins: &[String]) -> Option<CorsLayer> {
    let allowed = match origins {
        [] => return None,
        _ if origins.iter().any(|origin| origin == "*") => AllowOrigin::any(),
        _ => AllowOrigin::list(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok())),
    };
    let headers = [header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("token")];
    let layer = CorsLayer::new().allow_origin(allowed).allow_methods([Method::GET, Method::POST]);
    Some(layer.allow_headers(headers).max_age(Duration::from_secs(3600)))
}

/// Serves until `stop` resolves and what was accepted is answered. `listening` hears the address.
///
/// # Errors
/// The address cannot be had, or the model cannot be loaded.
pub async fn run(
    engine: Arc<Engine>,
    listening: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    telemetry::install();
    let address = format!("{}:{}", engine.settings.host, engine.settings.port);
    let bind = |source| ServeError::Bind { source, address: address.clone() };
    let listener = TcpListener::bind(&address).await.map_err(bind)?;
    listening(listener.local_addr().map_err(bind)?);
    let connections = Connections::new(&engine);
    let mut stop = pin!(stop);
    let mut load = pin!(engine.load());
    let mut loading = true;
    loop {
        tokio::select! {
            () = &mut stop => break,
            result = &mut load, if loading => {
                loading = false;
                result?;
                tracing::info!(model = engine.served()[0].name, "ready");
            }
            () = connections.next(&listener) => {}
        }
    }
    engine.drain();
    tracing::info!(in_flight = engine.in_flight(), "draining");
    let grace = Duration::from_secs(engine.settings.limits.grace);
    let drained = tokio::time::timeout(grace, connections.drain(&engine, listener)).await;
    match drained {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!(in_flight = engine.in_flight(), "stopped at the end of the grace"),
    }
    Ok(())
}

/// What ends a server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, or not of this machine.
    #[error("cannot listen ({source}): {address}")]
    Bind {
        /// What the system said.
        source: std::io::Error,
        /// Host and port.
        address: String,
    },
    /// The model cannot be loaded.
    #[error("{0}")]
    Load(#[from] ApiError),
}

/// Every open connection.
struct Connections {
    app: Router,
    graceful: GracefulShutdown,
    places: Arc<Semaphore>,
    patience: Duration,
}

impl Connections {
    fn new(engine: &Arc<Engine>) -> Self {
        let limits = &engine.settings.limits;
        Self {
            app: app(engine),
            graceful: GracefulShutdown::new(),
            places: Arc::new(Semaphore::new(limits.connections)),
            patience: Duration::from_secs(limits.patience),
        }
    }

    /// Accepts one connection when there is room and serves it in a task of its own.
    async fn next(&self, listener: &TcpListener) {
        let Ok(place) = self.places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // No file descriptor left, or the client is gone already: others may have more luck.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                return;
            }
        };
        let _ = stream.set_nodelay(true);
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(self.patience);
        let service = TowerToHyperService::new(self.app.clone());
        let connection = self.graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }

    /// Answers what was accepted, refuses what comes, and closes.
    async fn drain(self, engine: &Engine, listener: TcpListener) {
        let finished = async {
            while engine.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Whoever was about to ask hears that the server is stopping.
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        let mut finished = pin!(finished);
        loop {
            tokio::select! {
                () = &mut finished => break,
                () = self.next(&listener) => {}
            }
        }
        drop(listener);
        self.graceful.shutdown().await;
    }
}
