//! Every way in which a request can fail: one table of kinds, each with its code and meaning.
//!
//! The OpenAPI document is made from the same table (`openapi.rs`), and a test sends malformed requests and holds
//! the answers against it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use samclip_image::ImageError;
use samclip_predict::PredictError;
use serde::Serialize;
use utoipa::ToSchema;

macro_rules! kinds {
    ($($variant:ident $name:literal $status:ident $about:literal;)*) => {
        /// What kind of failure; `kind` in the answer.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Kind { $(#[doc = $about] $variant,)* }

        impl Kind {
            /// All of them, by code.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name on the wire.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP code.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            /// One sentence for the documentation.
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $about,)* }
            }
        }
    };
}

kinds! {
    InvalidBody "invalid_body" BAD_REQUEST "The body ended early, or its multipart form is malformed.";
    InvalidJson "invalid_json" BAD_REQUEST "The request is not JSON (or not UTF-8).";
    InvalidBase64 "invalid_base64" BAD_REQUEST "The image is neither base64 nor a data: URL.";
    Unauthorized "unauthorized" UNAUTHORIZED "The API key is missing or wrong.";
    NotFound "not_found" NOT_FOUND "There is nothing at this path.";
    UnknownKey "unknown_key" NOT_FOUND "No image is cached under this key (any more): send the image again.";
    UnknownModel "unknown_model" NOT_FOUND "The server does not have this model or adapter.";
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The path exists, but not for this method.";
    SlowBody "slow_body" REQUEST_TIMEOUT "The body did not arrive in time.";
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "The body is larger than the server's limit.";
    TooManyPixels "too_many_pixels" PAYLOAD_TOO_LARGE "The image has more pixels than the server's limit.";
    TooManyPrompts "too_many_prompts" PAYLOAD_TOO_LARGE "More prompts, points or names than the server's limit.";
    ContentType "unsupported_content_type" UNSUPPORTED_MEDIA_TYPE "Neither application/json nor multipart/form-data.";
    ImageType "unsupported_image" UNSUPPORTED_MEDIA_TYPE "The image is not JPEG, PNG, WebP, BMP or TIFF.";
    InvalidRequest "invalid_request" UNPROCESSABLE_ENTITY "JSON with a field that is missing, unknown or of the wrong type.";
    InvalidPrompt "invalid_prompt" UNPROCESSABLE_ENTITY "A prompt that says nothing or does not fit the image.";
    TextWithClicks "text_with_clicks" UNPROCESSABLE_ENTITY "A text together with clicks, which only an adapter takes.";
    UnknownName "unknown_name" UNPROCESSABLE_ENTITY "A name that the model's text table does not hold.";
    InvalidOption "invalid_option" UNPROCESSABLE_ENTITY "An option outside its range.";
    DamagedImage "damaged_image" UNPROCESSABLE_ENTITY "The image is truncated or damaged.";
    NoRole "no_role" UNPROCESSABLE_ENTITY "The served model cannot do this.";
    Overloaded "overloaded" TOO_MANY_REQUESTS "The queue is full; Retry-After says when to come back.";
    Internal "internal" INTERNAL_SERVER_ERROR "A defect of the server; its log has the request's id.";
    Starting "starting" SERVICE_UNAVAILABLE "The model is being loaded; Retry-After says when to come back.";
    Draining "draining" SERVICE_UNAVAILABLE "The server was told to stop and only finishes what it has accepted.";
    Deadline "deadline" SERVICE_UNAVAILABLE "The answer was not ready within the server's deadline.";
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{error}")]
pub struct ApiError {
    /// What kind.
    pub kind: Kind,
    /// What is wrong.
    pub error: String,
    /// Advice.
    pub hint: Option<String>,
    /// Seconds to wait before the next try.
    pub retry_after: Option<u64>,
}

/// The body of every answer that is an error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong, for people.
    pub error: String,
    /// What kind of failure, for programs.
    pub kind: &'static str,
    /// Advice, or null.
    pub hint: Option<String>,
}

impl ApiError {
    /// A failure without advice.
    pub fn new(kind: Kind, error: impl Into<String>) -> Self {
        Self { kind, error: error.into(), hint: None, retry_after: None }
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a time to come back.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    /// The server is not ready yet.
    pub fn starting() -> Self {
        Self::new(Kind::Starting, "the model is being loaded").retry_after(1)
    }

    /// The server is about to end.
    pub fn draining() -> Self {
        Self::new(Kind::Draining, "the server is stopping").retry_after(5)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorBody { error: self.error, kind: self.kind.name(), hint: self.hint };
        let mut response = (self.kind.status(), axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if matches!(self.kind, Kind::Draining | Kind::SlowBody | Kind::BodyTooLarge) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(self.kind);
        response
    }
}

impl From<PredictError> for ApiError {
    fn from(error: PredictError) -> Self {
        let (text, hint) = (error.to_string(), error.hint());
        Self { kind: kind(&error), error: text, hint, retry_after: None }
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        PredictError::from(error).into()
    }
}

fn kind(error: &PredictError) -> Kind {
    use samclip_predict::ModelError;
    match error {
        PredictError::Prompt(_) => Kind::InvalidPrompt,
        PredictError::Image(ImageError::Format { .. } | ImageError::Empty { .. }) => Kind::ImageType,
        PredictError::Image(ImageError::TooManyPixels { .. }) => Kind::TooManyPixels,
        PredictError::Image(_) => Kind::DamagedImage,
        PredictError::Model(ModelError::UnknownName { .. }) => Kind::UnknownName,
        PredictError::Model(ModelError::EmptyText) => Kind::InvalidPrompt,
        PredictError::Option { .. } => Kind::InvalidOption,
        PredictError::NoRole { .. } | PredictError::NoTextTable { .. } => Kind::NoRole,
        PredictError::InFile { source, .. } => kind(source),
        _ => Kind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_codes_are_errors() {
        let mut names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|kind| kind.status().is_client_error() || kind.status().is_server_error()));
    }

    #[test]
    fn what_the_library_refuses_is_the_callers_mistake() {
        let option = PredictError::Option { name: "--top", expected: "1", found: "0".to_owned() };
        assert_eq!(ApiError::from(option).kind, Kind::InvalidOption);
        let empty = PredictError::from(ImageError::Empty { path: "x".into() }).in_file("x".as_ref());
        assert_eq!(ApiError::from(empty).kind, Kind::ImageType);
    }
}
