//! Connections, routes, and what every request passes: size, key, origin, id.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use subtle::ConstantTimeEq as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::api::{anthropic, chat, completions, misc, ollama, responses};
use crate::app::{App, ServeConfig};
use crate::error::{ApiError, Dialect};
use crate::models::{ModelSource, Models};

/// Longest time that the head of a request may take.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// Longest time that the rest of a request may take.
const BODY_TIME: Duration = Duration::from_secs(120);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: that of its header, or a new one.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub String);

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let id = parts.extensions.get::<RequestId>().cloned();
        Ok(id.unwrap_or_else(|| RequestId(String::new())))
    }
}

/// Tells a server to stop: once, and it ends what it has begun; twice, and it ends at once.
#[derive(Debug, Clone)]
pub struct Stop(Arc<watch::Sender<u32>>);

impl Stop {
    /// Asks for the end.
    pub fn stop(&self) {
        self.0.send_modify(|n| *n += 1);
    }
}

/// A server, bound to nothing yet.
pub struct Server {
    app: Arc<App>,
    stop: Stop,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("config", &self.app.config)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server of these models, of which the first answers where a request names none.
    #[must_use]
    pub fn new(models: Vec<ModelSource>, config: ServeConfig) -> Self {
        Server {
            app: Arc::new(App::new(Models::new(models), config)),
            stop: Stop(Arc::new(watch::Sender::new(0))),
        }
    }

    /// What stops it.
    #[must_use]
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// Loads the first model; until that is done `/health` says that the server is not ready. The error says why it could not be
    /// loaded.
    pub fn loader(&self) -> impl Future<Output = Result<(), String>> + Send + use<> {
        let app = self.app.clone();
        async move {
            app.models.get(None).await.map_err(|e| e.message)?;
            app.warm.store(true, Relaxed);
            Ok(())
        }
    }

    /// Answers on `listener` until it is stopped.
    ///
    /// # Errors
    /// What the system reports of the listener.
    pub async fn run(self, listener: TcpListener) -> std::io::Result<()> {
        let app = self.app.clone();
        let router = router(app.clone());
        let mut stopped = self.stop.0.subscribe();
        let (alive, mut gone) = tokio::sync::mpsc::channel::<()>(1);
        let (close, _) = watch::channel(false);
        let mut tick = tokio::time::interval(Duration::from_secs(5));
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let task = connection(stream, peer, router.clone(), close.subscribe(), alive.clone());
                        tokio::spawn(task);
                    }
                    // Out of file handles, most likely: a moment later there may be some.
                    Err(error) => {
                        (app.config.log)(&format!("a connection could not be taken: {error}"));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                _ = stopped.changed() => break,
                _ = tick.tick() => {
                    if let Some(keep) = app.config.keep_alive {
                        app.models.unload_idle(keep);
                    }
                }
            }
        }
        app.draining.store(true, Relaxed);
        drop(listener);
        close.send_replace(true);
        drop(alive);
        tokio::select! {
            _ = gone.recv() => {}
            _ = stopped.changed() => {}
            () = tokio::time::sleep(app.config.drain_timeout) => {}
        }
        Ok(())
    }
}

/// Serves one connection; when the server stops, the request in it is the last.
async fn connection(
    stream: TcpStream,
    _peer: SocketAddr,
    router: Router,
    mut close: watch::Receiver<bool>,
    _alive: tokio::sync::mpsc::Sender<()>,
) {
    // Small pieces go out at once.
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that closes its side is gone: only so is the machine free at once when one leaves. One that closes its writing side
        // alone and still waits looks the same until something is written to it, and gets no answer.
        .half_close(false)
        .header_read_timeout(HEADER_TIME)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let mut closing = false;
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = close.changed(), if !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Both with `/v1` before it and without.
fn both(router: Router<Arc<App>>, path: &str, method: MethodRouter<Arc<App>>) -> Router<Arc<App>> {
    router
        .route(path, method.clone())
        .route(&format!("/v1{path}"), method)
}

fn router(app: Arc<App>) -> Router {
    let mut router = Router::new()
        .route("/", get(misc::page))
        .route("/status", get(misc::status_page))
        .route("/status.json", get(misc::status))
        .route("/health", get(misc::health))
        .route("/v1/health", get(misc::health))
        .route("/ping", get(misc::health))
        .route("/metrics", get(misc::metrics))
        .route("/version", get(misc::version))
        .route("/tokenize", post(misc::tokenize))
        .route("/detokenize", post(misc::detokenize))
        .route("/api/chat", post(ollama::chat))
        .route("/api/generate", post(ollama::generate))
        .route("/api/tags", get(ollama::tags))
        .route("/api/show", post(ollama::show))
        .route("/api/version", get(ollama::version));
    router = both(router, "/chat/completions", post(chat::handle));
    router = both(router, "/completions", post(completions::handle));
    router = both(router, "/responses", post(responses::handle));
    router = both(router, "/embeddings", post(misc::embeddings));
    router = both(router, "/messages", post(anthropic::handle));
    router = both(router, "/messages/count_tokens", post(anthropic::count_tokens));
    router = both(router, "/models", get(misc::models));
    router = both(router, "/models/{*id}", get(misc::model));
    router
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(app.clone(), pass))
        .with_state(app)
}

async fn not_found(request: Request) -> Response {
    let path = request.uri().path();
    let error =
        ApiError::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}")).coded("not_found");
    error.response(Dialect::of(path))
}

async fn wrong_method(request: Request) -> Response {
    let path = request.uri().path();
    let message = format!("{path} does not answer {}", request.method());
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message)
        .coded("method_not_allowed")
        .response(Dialect::of(path))
}

/// What every request passes.
async fn pass(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&app, request.headers());
    let origin = request.headers().get(header::ORIGIN).cloned();
    let line = format!("{} {}", request.method(), request.uri().path());
    let mut response = answer(&app, &id, request, next).await;
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, value);
    }
    if let Some(origin) = origin.filter(|o| is_allowed(&app.config, o)) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("x-request-id"),
        );
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
    let status = response.status().as_u16();
    app.metrics.answered(status);
    if status >= 400 {
        (app.config.log)(&format!(
            "{id} {line} {status} {}ms",
            started.elapsed().as_millis()
        ));
    }
    response
}

fn request_id(app: &App, headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|v| v.to_str().ok());
    let is_plain = |id: &&str| {
        !id.is_empty()
            && id.len() <= 128
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
    };
    given
        .filter(is_plain)
        .map_or_else(|| app.id("req-"), str::to_owned)
}

async fn answer(app: &Arc<App>, id: &str, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let dialect = Dialect::of(&path);
    if request.method() == Method::OPTIONS {
        return preflight(&app.config, request.headers());
    }
    let open = ["/health", "/v1/health", "/ping", "/", "/status"].contains(&path.as_str());
    if !open && !is_authorized(&app.config, request.headers()) {
        let error = ApiError::new(StatusCode::UNAUTHORIZED, "the API key is missing or wrong")
            .coded("invalid_api_key");
        return error.response(dialect);
    }
    // A page of another origin may not ask; nothing but its browser would keep it from reading the answer.
    let origin = request.headers().get(header::ORIGIN);
    if request.method() != Method::GET && origin.is_some_and(|o| !is_allowed(&app.config, o)) {
        let error = ApiError::new(
            StatusCode::FORBIDDEN,
            "pages of this origin may not use the server",
        )
        .coded("origin_not_allowed");
        return error.response(dialect);
    }
    let most = app.config.max_body;
    let (mut parts, body) = request.into_parts();
    parts.extensions.insert(RequestId(id.to_owned()));
    let too_large = || {
        let message = format!("the body of a request has at most {most} bytes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
            .coded("request_too_large")
            .response(dialect)
    };
    let length = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|n| n > most) {
        return too_large();
    }
    let bytes = match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(body, most)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return too_large(),
        Err(_) => {
            let error = ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "the body of the request took too long",
            );
            return error.response(dialect);
        }
    };
    next.run(Request::from_parts(parts, bytes.into())).await
}

/// Whether one of the keys is named, as `Authorization: Bearer` or `x-api-key`. How long that takes does not tell how much of a key
/// was right.
fn is_authorized(config: &ServeConfig, headers: &HeaderMap) -> bool {
    if config.api_keys.is_empty() {
        return true;
    }
    let text = |name: HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    let bearer = text(header::AUTHORIZATION).and_then(|v| {
        let (scheme, key) = v.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let given = [bearer, text(HeaderName::from_static("x-api-key"))];
    let mut found = subtle::Choice::from(0);
    for given in given.into_iter().flatten() {
        for key in &config.api_keys {
            found |= key.as_bytes().ct_eq(given.as_bytes());
        }
    }
    found.into()
}

/// Whether pages of an origin may ask: those of this machine, and those that were allowed.
fn is_allowed(config: &ServeConfig, origin: &HeaderValue) -> bool {
    let Ok(origin) = origin.to_str() else { return false };
    if config.allowed_origins.iter().any(|o| o == "*" || o == origin) {
        return true;
    }
    let rest = origin
        .strip_prefix("http://")
        .or_else(|| origin.strip_prefix("https://"));
    let Some(rest) = rest else { return false };
    let host = match rest.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => rest,
    };
    ["localhost", "127.0.0.1", "[::1]"].contains(&host)
}

/// The answer to a browser that asks whether a page may ask.
fn preflight(config: &ServeConfig, headers: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    if headers.get(header::ORIGIN).is_none_or(|o| !is_allowed(config, o)) {
        return response;
    }
    let out = response.headers_mut();
    out.insert(
        header::ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST, OPTIONS"),
    );
    // Clients send headers of their own, such as x-stainless-os: all that are asked for are fine.
    let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned();
    let wanted = wanted.unwrap_or_else(|| HeaderValue::from_static("authorization, content-type"));
    out.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    out.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    response
}
