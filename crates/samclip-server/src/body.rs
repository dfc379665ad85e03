//! The body of a request: JSON or a form with an image, within the limits of size and time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Request};
use axum::http::{HeaderMap, header};
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body as _;

use crate::error::{ApiError, Kind};
use crate::settings::Limits;

/// Bytes of all bodies that are being received by this process.
static RECEIVING: AtomicUsize = AtomicUsize::new(0);

/// Counts itself in [`RECEIVING`].
struct Held(usize);

impl Held {
    fn grow(&mut self, bytes: usize) -> usize {
        self.0 += bytes;
        RECEIVING.fetch_add(bytes, Ordering::Relaxed) + bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        RECEIVING.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// What arrived, taken apart but not yet understood.
#[derive(Debug, Default)]
pub struct Received {
    /// The JSON document.
    pub json: Bytes,
    /// The form's image and its file name.
    pub image: Option<(Bytes, Option<String>)>,
}

/// Reads a body and takes a form apart.
///
/// # Errors
/// A content type other than JSON and form, a body over a limit, one that is too slow or broken.
pub async fn receive(request: Request, limits: &Limits) -> Result<Received, ApiError> {
    let kind = content_type(request.headers());
    let is_form = kind == "multipart/form-data";
    if !is_form && kind != "application/json" {
        let error = format!("content type is neither application/json nor multipart/form-data (found `{kind}`)");
        return Err(ApiError::new(Kind::ContentType, error));
    }
    let (parts, body) = request.into_parts();
    let bytes = read(body, &parts.headers, limits).await?;
    if !is_form {
        return Ok(Received { json: bytes, image: None });
    }
    form(Request::from_parts(parts, Body::from(bytes))).await
}

/// The media type without its parameters, in lower case, shortened for messages.
fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().chars().take(60).collect::<String>().to_ascii_lowercase()
}

async fn form(request: Request) -> Result<Received, ApiError> {
    let invalid = |error: String| ApiError::new(Kind::InvalidBody, format!("the form does not parse ({error})"));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| invalid(error.body_text()))?;
    let mut received = Received { json: Bytes::from_static(b"{}"), image: None };
    while let Some(field) = form.next_field().await.map_err(|error| invalid(error.body_text()))? {
        let name = field.name().unwrap_or_default().to_owned();
        let file = field.file_name().map(str::to_owned);
        let bytes = field.bytes().await.map_err(|error| invalid(error.body_text()))?;
        match name.as_str() {
            "image" => received.image = Some((bytes, file)),
            "request" => received.json = bytes,
            _ => return Err(invalid(format!("part `{}` is neither image nor request", short(&name)))),
        }
    }
    Ok(received)
}

fn short(text: &str) -> String {
    text.chars().take(40).filter(|c| !c.is_control()).collect()
}

/// Lets go of a body that nobody reads. What the client still sends is thrown away beside the answer, so that it
/// hears the answer at once and can use its connection again.
pub fn discard(request: Request, limits: &Limits) {
    let (parts, mut body) = request.into_parts();
    // Who waits for leave to send its body is not given it.
    if body.is_end_stream() || parts.headers.contains_key(header::EXPECT) {
        return;
    }
    let (patience, mut left) = (Duration::from_secs(limits.patience), limits.max_body);
    let rest = async move {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    drop(tokio::spawn(tokio::time::timeout(patience, rest)));
}

/// All bytes of a body. What is too large is read on for a while, so that the client hears the answer.
///
/// # Errors
/// A body over a limit, one that is too slow or ends early.
pub async fn read(body: Body, headers: &HeaderMap, limits: &Limits) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<usize>().ok());
    let patience = Duration::from_secs(limits.patience);
    let slow = || ApiError::new(Kind::SlowBody, format!("the body did not arrive within {} s", limits.patience));
    tokio::time::timeout(patience, collect(body, announced.unwrap_or(0), limits)).await.map_err(|_| slow())?
}

async fn collect(mut body: Body, announced: usize, limits: &Limits) -> Result<Bytes, ApiError> {
    let (mut held, mut buffer) = (Held(0), BytesMut::new());
    let mut failure = (announced > limits.max_body).then(|| too_large(limits));
    let mut discarded = 0;
    while let Some(frame) = body.frame().await {
        let broken = |error: axum::Error| ApiError::new(Kind::InvalidBody, format!("the body ended early ({error})"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if failure.is_none() {
            if buffer.len() + data.len() > limits.max_body {
                failure = Some(too_large(limits));
            } else if held.grow(data.len()) > limits.max_receiving {
                failure = Some(ApiError::new(Kind::Overloaded, "too many bytes are being received").retry_after(1));
            } else {
                buffer.extend_from_slice(&data);
                continue;
            }
        }
        buffer = BytesMut::new();
        discarded += data.len();
        if discarded > limits.max_body.saturating_mul(4) {
            break;
        }
    }
    failure.map_or_else(|| Ok(buffer.freeze()), Err)
}

fn too_large(limits: &Limits) -> ApiError {
    let error = format!("the body is larger than the limit of {} bytes", limits.max_body);
    ApiError::new(Kind::BodyTooLarge, error).hint("send a smaller or more compressed image")
}

/// The bytes of base64 text or of a `data:` URL.
///
/// # Errors
/// Text that is neither.
pub fn decode_image(text: &str) -> Result<Vec<u8>, ApiError> {
    let invalid = |error: &str| ApiError::new(Kind::InvalidBase64, format!("field `image` is not base64 ({error})"));
    let encoded = match text.strip_prefix("data:") {
        None => text,
        Some(url) => {
            let (head, data) = url.split_once(',').ok_or_else(|| invalid("data: URL without a comma"))?;
            if !head.ends_with(";base64") {
                return Err(invalid("data: URL that is not base64"));
            }
            data
        }
    };
    let encoded = encoded.trim_ascii();
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    // MIME's line breaks.
    let decoded = match encoded.bytes().any(|byte| byte.is_ascii_whitespace()) {
        true => engine.decode(encoded.bytes().filter(|b| !b.is_ascii_whitespace()).collect::<Vec<u8>>()),
        false => engine.decode(encoded),
    };
    decoded.map_err(|error| invalid(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_in_its_forms() {
        for text in ["aGVsbG8=", "aGVsbG8", " aGVs\r\nbG8= ", "data:image/png;base64,aGVsbG8="] {
            assert_eq!(decode_image(text).unwrap(), b"hello", "{text}");
        }
        for text in ["aGVsbG8*", "data:image/png,hello", "data:;base64", "a"] {
            assert_eq!(decode_image(text).unwrap_err().kind, Kind::InvalidBase64, "{text}");
        }
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_by_header_and_by_count() {
        let limits = Limits { max_body: 10, ..Limits::STANDARD };
        let read_all = |length: Option<&str>, size: usize| {
            let mut headers = HeaderMap::new();
            if let Some(length) = length {
                headers.insert(header::CONTENT_LENGTH, length.parse().unwrap());
            }
            let limits = limits.clone();
            async move { read(Body::from(vec![b'x'; size]), &headers, &limits).await }
        };
        assert_eq!(read_all(Some("10"), 10).await.unwrap().len(), 10);
        assert_eq!(read_all(None, 11).await.unwrap_err().kind, Kind::BodyTooLarge);
        assert_eq!(read_all(Some("11"), 0).await.unwrap_err().kind, Kind::BodyTooLarge);
        assert_eq!(RECEIVING.load(Ordering::Relaxed), 0);
    }
}
