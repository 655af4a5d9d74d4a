//! What a client is told when something is wrong, in the words of the interface that it speaks.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use mlx_native_lm::LmError;
use mlx_native_lm::engine::EngineError;
use serde_json::{Value, json};

/// An error with a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// One line.
    pub message: String,
    /// The field of the request at fault.
    pub param: Option<String>,
    /// A word for programs, such as `model_not_found`.
    pub code: Option<&'static str>,
    /// Seconds after which it may be tried again.
    pub retry_after: Option<u32>,
}

/// `Result` with [`ApiError`].
pub type ApiResult<T> = Result<T, ApiError>;

/// Whose words an error is told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    OpenAi,
    Anthropic,
    Ollama,
}

impl Dialect {
    /// By the path of a request.
    pub fn of(path: &str) -> Self {
        if path.starts_with("/v1/messages") || path.starts_with("/messages") {
            Dialect::Anthropic
        } else if path.starts_with("/api/") {
            Dialect::Ollama
        } else {
            Dialect::OpenAi
        }
    }
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError {
            status,
            message: message.into(),
            param: None,
            code: None,
            retry_after: None,
        }
    }

    /// 400 for a field.
    pub(crate) fn invalid(param: impl Into<String>, message: impl std::fmt::Display) -> Self {
        let param = param.into();
        ApiError {
            message: format!("{param}: {message}"),
            param: Some(param),
            ..Self::new(StatusCode::BAD_REQUEST, "")
        }
    }

    /// 400 for something that is meaningful and not supported.
    pub(crate) fn unsupported(param: impl Into<String>) -> Self {
        ApiError {
            code: Some("unsupported_parameter"),
            ..Self::invalid(param, "this server does not support it")
        }
    }

    pub(crate) fn coded(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn model_not_found(name: &str) -> Self {
        ApiError {
            param: Some("model".to_owned()),
            ..Self::new(
                StatusCode::NOT_FOUND,
                format!("the model {name:?} does not exist"),
            )
        }
        .coded("model_not_found")
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        ApiError {
            retry_after: Some(1),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, message)
        }
        .coded("unavailable")
    }

    /// OpenAI's word for the kind of error.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            401 | 403 => "authentication_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        }
    }

    pub(crate) fn body(&self, dialect: Dialect) -> Value {
        let message = &self.message;
        match dialect {
            Dialect::OpenAi => {
                json!({"error": {"message": message, "type": self.kind(), "param": self.param, "code": self.code}})
            }
            Dialect::Anthropic => {
                let kind = match self.status.as_u16() {
                    413 => "request_too_large",
                    503 => "overloaded_error",
                    500.. => "api_error",
                    _ => self.kind(),
                };
                json!({"type": "error", "error": {"type": kind, "message": message}})
            }
            Dialect::Ollama => json!({"error": message}),
        }
    }

    pub(crate) fn response(&self, dialect: Dialect) -> Response {
        let mut response = (self.status, axum::Json(self.body(dialect))).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let text = error.to_string();
        match error {
            EngineError::Invalid { param, message } => {
                let name = if param == "grammar" {
                    "response_format"
                } else {
                    param
                };
                ApiError::invalid(name, message)
            }
            EngineError::ContextLength { .. } => ApiError {
                param: Some("messages".to_owned()),
                ..ApiError::new(StatusCode::BAD_REQUEST, text)
            }
            .coded("context_length_exceeded"),
            EngineError::Memory { .. } => {
                ApiError::new(StatusCode::BAD_REQUEST, text).coded("context_length_exceeded")
            }
            EngineError::QueueFull { .. } => ApiError {
                retry_after: Some(1),
                ..ApiError::new(StatusCode::TOO_MANY_REQUESTS, text)
            }
            .coded("queue_full"),
            _ => ApiError::unavailable(text),
        }
    }
}

impl From<LmError> for ApiError {
    fn from(error: LmError) -> Self {
        let param = match error {
            LmError::ChatTemplate(_) | LmError::InvalidArgument(_) => Some("messages".to_owned()),
            _ => None,
        };
        ApiError {
            param,
            ..ApiError::new(StatusCode::BAD_REQUEST, error.to_string())
        }
    }
}
