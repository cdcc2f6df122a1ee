//! The endpoints, and their description as an OpenAPI document.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::sync::Semaphore;
use utoipa::{OpenApi, ToSchema};

use super::answer::{code, error, json, refuse, text};
use super::{docs, metrics, page};
use crate::runtime;
use crate::wire::metric;
use crate::wire::status::{ClusterStatus, PathStatus, ServerStatus, StatusError, StatusSource};

/// Requests at once. A status costs microseconds; a cluster status may wait for peers, so more than the cores.
const IN_FLIGHT_MAX: usize = 32;
/// How long a request waits for its turn before it is told that the server is busy.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one answer may take: sources bound their own questions below this.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest path of the filesystem (`PATH_MAX` of Linux).
const PATH_LEN_MAX: usize = 4096;
/// Longest request target: a path of `PATH_LEN_MAX` bytes, all percent-encoded, and the endpoint before it.
const TARGET_LEN_MAX: usize = 3 * PATH_LEN_MAX + 64;

/// What the handlers share.
pub(super) struct App {
    source: Arc<dyn StatusSource>,
    metrics: Option<PrometheusHandle>,
    turns: Semaphore,
}

type Shared = State<Arc<App>>;

pub(super) fn router(source: Arc<dyn StatusSource>, metrics: Option<PrometheusHandle>) -> Router {
    let app = Arc::new(App { source, metrics, turns: Semaphore::new(IN_FLIGHT_MAX) });
    Router::new()
        .route("/", get(status_page))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/status", get(status))
        .route("/cluster", get(cluster))
        .route("/lookup", get(lookup))
        .route("/metrics", get(prometheus))
        .route("/openapi.json", get(openapi_json))
        .route("/docs", get(docs_page))
        .fallback(async || {
            refuse(
                StatusCode::NOT_FOUND,
                code::NO_SUCH_PAGE,
                "there is no such page",
                "see /docs for those there are",
            )
        })
        .method_not_allowed_fallback(async || {
            let hint = "everything here is read with GET";
            refuse(StatusCode::METHOD_NOT_ALLOWED, code::METHOD, "method not allowed", hint)
        })
        .layer(axum::middleware::from_fn_with_state(app.clone(), bounded))
        .with_state(app)
}

/// Around every handler: lengths, turns, time, the headers of every answer, and the count of requests.
async fn bounded(State(app): Shared, request: Request, next: Next) -> Response {
    let path = known_path(request.uri().path());
    let mut response = turn(&app, request, next).await;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let status = response.status().as_u16().to_string();
    ::metrics::counter!(metric::HTTP_REQUESTS, "path" => path, "status" => status).increment(1);
    response
}

async fn turn(app: &App, request: Request, next: Next) -> Response {
    let target = request.uri().path_and_query().map_or(0, |t| t.as_str().len());
    if target > TARGET_LEN_MAX {
        let hint = format!("a path has at most {PATH_LEN_MAX} bytes");
        return refuse(StatusCode::URI_TOO_LONG, code::TOO_LONG, "the request target is too long", hint);
    }
    let Ok(Ok(_turn)) = runtime::timeout(TURN_TIMEOUT, app.turns.acquire()).await else {
        let what = format!("{IN_FLIGHT_MAX} requests are being answered already");
        return refuse(StatusCode::SERVICE_UNAVAILABLE, code::BUSY, what, "try again, less often");
    };
    // Dropping the handler at the timeout loses nothing: all of them only read.
    runtime::timeout(ANSWER_TIMEOUT, next.run(request)).await.unwrap_or_else(|_| {
        let what = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
        refuse(
            StatusCode::GATEWAY_TIMEOUT,
            code::TIMED_OUT,
            what,
            "/status answers without asking other servers",
        )
    })
}

/// As a label of a metric: only paths that exist, or strangers would choose how many series there are.
fn known_path(path: &str) -> &'static str {
    const KNOWN: &[&str] =
        &["/", "/healthz", "/readyz", "/status", "/cluster", "/lookup", "/metrics", "/openapi.json", "/docs"];
    KNOWN.iter().find(|k| **k == path).copied().unwrap_or("other")
}

/// Answer of `/healthz`.
#[derive(Serialize, ToSchema)]
struct Alive {
    /// Always true: a process that answers is alive.
    alive: bool,
}

/// Answer of `/readyz`.
#[derive(Serialize, ToSchema)]
struct Ready {
    /// True if the server can do its work now.
    ready: bool,
    /// Why not; empty when it is ready.
    reason: String,
    /// Its name.
    name: String,
}

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "health", responses((status = 200, body = Alive)))]
async fn healthz() -> Response {
    json(StatusCode::OK, &Alive { alive: true })
}

/// The server can do its work now; 503 with the reason when it cannot.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, body = Ready), (status = 503, body = Ready, description = "Not ready, and why")))]
async fn readyz(State(app): Shared) -> Response {
    let server = app.source.server().await;
    let status = if server.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &Ready { ready: server.ready, reason: server.reason, name: server.name })
}

/// This server: identity, readiness, and the numbers of its role.
#[utoipa::path(get, path = "/status", tag = "status", responses((status = 200, body = ServerStatus)))]
async fn status(State(app): Shared) -> Response {
    json(StatusCode::OK, &app.source.server().await)
}

/// The whole cluster: health with reasons, every server, groups, totals. Any server answers.
#[utoipa::path(get, path = "/cluster", tag = "status",
    responses((status = 200, body = ClusterStatus), (status = 503, body = StatusError)))]
async fn cluster(State(app): Shared) -> Response {
    match app.source.cluster().await {
        Ok(status) => json(StatusCode::OK, &status),
        Err(e) => error(&e),
    }
}

/// What a path leads to: attributes, extents, and all addresses of each block.
#[utoipa::path(get, path = "/lookup", tag = "namespace",
    params(("path" = String, Query, description = "Absolute path; bytes that are no text are percent-encoded, \
        `+` stands for itself", example = "/")),
    responses((status = 200, body = PathStatus), (status = 400, body = StatusError),
        (status = 404, body = StatusError), (status = 503, body = StatusError)))]
async fn lookup(State(app): Shared, request: Request) -> Response {
    let path = match path_of(request.uri().query().unwrap_or_default()) {
        Ok(path) => path,
        Err(what) => {
            let hint = "ask /lookup?path=/a/b, with bytes such as %FF percent-encoded";
            return refuse(StatusCode::BAD_REQUEST, code::BAD_QUERY, what, hint);
        }
    };
    match app.source.lookup(path).await {
        Ok(found) => json(StatusCode::OK, &found),
        Err(e) => error(&e),
    }
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "status",
    responses((status = 200, body = String, content_type = "text/plain")))]
async fn prometheus(State(app): Shared) -> Response {
    let server = app.source.server().await;
    let body = match &app.metrics {
        Some(handle) => metrics::render(handle, &server),
        None => metrics::render_alone(&server),
    };
    text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body)
}

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "pages", responses((status = 200, description = "OpenAPI 3.1")))]
async fn openapi_json() -> Response {
    json(StatusCode::OK, &openapi())
}

/// This document for people.
#[utoipa::path(get, path = "/docs", tag = "pages", responses((status = 200, content_type = "text/html")))]
async fn docs_page() -> Response {
    html(docs::render(&openapi()))
}

/// The cluster, live.
#[utoipa::path(get, path = "/", tag = "pages", responses((status = 200, content_type = "text/html")))]
async fn status_page(State(app): Shared) -> Response {
    html(page::render(&app.source.server().await))
}

fn html(markup: maud::Markup) -> Response {
    let mut response = text(StatusCode::OK, "text/html; charset=utf-8", markup.into_string());
    // Names on the page come from other servers: nothing from outside is ever run or fetched.
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
                  img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    response
}

/// The bytes of `path=` in a query: percent-decoded, absolute, without NUL.
fn path_of(query: &str) -> Result<Vec<u8>, &'static str> {
    let raw = query.split('&').find_map(|pair| pair.strip_prefix("path=")).ok_or("the query has no path")?;
    let mut path = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            path.push(byte);
            continue;
        }
        let digit =
            |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (Some(high), Some(low)) = (digit(bytes.next()), digit(bytes.next())) else {
            return Err("a % in the path is not followed by two hexadecimal digits");
        };
        path.push(high << 4 | low);
    }
    if path.len() > PATH_LEN_MAX {
        return Err("the path has more than 4096 bytes");
    }
    if path.first() != Some(&b'/') {
        return Err("the path is not absolute");
    }
    if path.contains(&0) {
        return Err("the path has a NUL in it");
    }
    Ok(path)
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "POHMELFS",
        description = "Status of a POHMELFS server and of its cluster. Everything is read-only. \
                       Errors are JSON: code, error, hint."
    ),
    paths(healthz, readyz, status, cluster, lookup, prometheus, openapi_json, docs_page, status_page),
    tags(
        (name = "health", description = "For load balancers and orchestrators"),
        (name = "status", description = "For people and dashboards"),
        (name = "namespace", description = "Where a file is"),
        (name = "pages", description = "For browsers")
    )
)]
struct Document;

/// The OpenAPI document of all endpoints.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    Document::openapi()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_bytes() {
        assert_eq!(path_of("path=/a/b").unwrap(), b"/a/b");
        assert_eq!(path_of("x=1&path=/%ff%20+").unwrap(), b"/\xff +");
        assert!(path_of("").is_err());
        assert!(path_of("path=a").is_err());
        assert!(path_of("path=/%f").is_err());
        assert!(path_of("path=/%+f").is_err());
        assert!(path_of("path=/a%00").is_err());
        assert!(path_of(&format!("path=/{}", "a".repeat(PATH_LEN_MAX))).is_err());
    }

    #[test]
    fn strangers_do_not_name_series() {
        assert_eq!(known_path("/status"), "/status");
        assert_eq!(known_path("/../../etc"), "other");
    }
}
