//! Answers: JSON, and errors as `{"code":..,"error":..,"hint":..}`.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::wire::status::StatusError;

/// Error codes of this folder: the end of the band of exchanges.
pub(super) mod code {
    pub(in crate::http) const NO_SUCH_PAGE: u16 = 2901;
    pub(in crate::http) const METHOD: u16 = 2902;
    pub(in crate::http) const BUSY: u16 = 2903;
    pub(in crate::http) const TIMED_OUT: u16 = 2904;
    pub(in crate::http) const BAD_QUERY: u16 = 2905;
    pub(in crate::http) const TOO_LONG: u16 = 2906;
    pub(in crate::http) const INTERNAL: u16 = 2907;
}

/// `value` as JSON.
pub(super) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    match serde_json::to_vec_pretty(value) {
        Ok(mut body) => {
            body.push(b'\n');
            text(status, "application/json", body)
        }
        Err(e) => {
            tracing::error!(error = %e, "status does not encode");
            let body = format!(
                "{{\"code\":{},\"error\":\"the answer does not encode\",\"hint\":\"\"}}\n",
                code::INTERNAL
            );
            text(StatusCode::INTERNAL_SERVER_ERROR, "application/json", body)
        }
    }
}

/// A body with its type.
pub(super) fn text(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static(kind))];
    (status, headers, body.into()).into_response()
}

/// An error with the HTTP status it asks for.
pub(super) fn error(e: &StatusError) -> Response {
    json(StatusCode::from_u16(e.http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), e)
}

/// An error of this folder's own.
pub(super) fn refuse(
    http: StatusCode,
    code: u16,
    what: impl Into<String>,
    hint: impl Into<String>,
) -> Response {
    error(&StatusError { code, error: what.into(), hint: hint.into(), http: http.as_u16() })
}
