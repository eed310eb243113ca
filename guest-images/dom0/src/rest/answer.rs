//! What is answered, and what is read of a request's body: JSON, and refusals in the words of the API.

use api::{Error, Reason};
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A refusal.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) Error);

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.0.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, axum::Json(&self.0)).into_response();
        if let Some((name, value)) = match self.0.reason {
            Reason::Unauthorized => Some((header::WWW_AUTHENTICATE, "Bearer")),
            Reason::TooOften => Some((header::RETRY_AFTER, "60")),
            _ => None,
        } {
            response.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

/// What `control` has answered.
pub(super) struct Answer(pub(super) StatusCode, pub(super) Value);

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        match self.1 {
            Value::Null => StatusCode::NO_CONTENT.into_response(),
            value => (self.0, axum::Json(value)).into_response(),
        }
    }
}

/// A body of JSON, whatever its content type says.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state).await.map_err(|error| {
            let reason = match error.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Reason::TooLarge,
                _ => Reason::Invalid,
            };
            Error::new(reason, format!("the body cannot be read: {}", error.body_text()))
        })?;
        let read = serde_json::from_slice(&bytes).map(Self);
        read.map_err(|error| {
            Refusal(Error::new(Reason::Invalid, format!("the body is not what this takes: {error}")))
        })
    }
}

/// The words behind a path's question mark.
pub(super) struct Words<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Words<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refusal> {
        let read = Query::try_from_uri(&parts.uri).map(|Query(words)| Self(words));
        read.map_err(|error| Refusal(Error::new(Reason::Invalid, error.body_text())))
    }
}

/// The last part of a path: a name, or a number.
pub(super) struct Named<T>(pub(super) T);

impl<T, S> FromRequestParts<S> for Named<T>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
    S: Send + Sync,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let Path(text): Path<String> = Path::from_request_parts(parts, state)
            .await
            .map_err(|error| Error::new(Reason::Invalid, error.body_text()))?;
        text.parse().map(Self).map_err(|error: T::Err| Refusal(Error::new(Reason::Invalid, error)))
    }
}
