//! HTTP beside gRPC: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use granary_model::ErrorKind;
use granary_serving::Reader;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::status::http_status;

#[derive(Debug, Clone)]
pub(crate) struct HttpState {
    pub metrics: Arc<Metrics>,
    pub reader: Arc<Reader>,
    /// Whether reads are answered now.
    pub ready: watch::Receiver<bool>,
    /// Told when the server shuts down.
    pub closing: CancellationToken,
}

pub(crate) fn router(state: HttpState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(state)
}

async fn metrics(State(state): State<HttpState>) -> Response {
    match state.metrics.render(&state.reader) {
        Ok(text) => {
            let format = [(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)];
            (format, text).into_response()
        }
        Err(error) => (code(ErrorKind::Internal), error.to_string()).into_response(),
    }
}

async fn ready(State(state): State<HttpState>) -> Response {
    if *state.ready.borrow() && !state.closing.is_cancelled() {
        "ready\n".into_response()
    } else {
        (code(ErrorKind::Unavailable), "not ready\n").into_response()
    }
}

fn code(kind: ErrorKind) -> StatusCode {
    StatusCode::from_u16(http_status(kind)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
