//! Where a Label Studio task's image is: in the task itself, or on the Label Studio server that was named.
//!
//! No other address is ever asked, whatever a task says: a server that fetches what it is told to would be a way
//! into the network behind it.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;

use super::unclear;
use crate::body::decode_image;
use crate::error::{ApiError, Kind};
use crate::settings::{LabelStudio, Limits};

/// The bytes of a task's image.
///
/// # Errors
/// An address of another server, a server that does not answer, a file beyond the limit.
pub fn picture(address: &str, settings: Option<&LabelStudio>, limits: &Limits) -> Result<Bytes, ApiError> {
    if address.starts_with("data:") {
        return Ok(decode_image(address)?.into());
    }
    let Some(settings) = settings else {
        return Err(unclear("the task's image is on the Label Studio server, which was not named")
            .hint("start the server with --label-studio-url and --label-studio-key"));
    };
    let url = full(address, &settings.url).ok_or_else(|| {
        unclear(format!("the task's image is not on {}: {}", settings.url, address.chars().take(100).collect::<String>()))
    })?;
    fetch(&url, settings, limits)
}

/// An address on the named server, or none.
fn full(address: &str, server: &str) -> Option<String> {
    let server = server.trim_end_matches('/');
    if address.starts_with('/') && !address.starts_with("//") {
        return Some(format!("{server}{address}"));
    }
    let rest = address.strip_prefix(server)?;
    rest.starts_with('/').then(|| address.to_owned())
}

fn fetch(url: &str, settings: &LabelStudio, limits: &Limits) -> Result<Bytes, ApiError> {
    let failed = |error: String| unclear(format!("cannot fetch the task's image ({error}): {url}"));
    let config = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(limits.patience))).max_redirects(0);
    let mut request = ureq::Agent::new_with_config(config.build()).get(url);
    if let Some(key) = &settings.key {
        request = request.header("Authorization", format!("Token {key}"));
    }
    let mut response = request.call().map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    let mut reader = response.body_mut().as_reader().take(limits.max_body as u64 + 1);
    reader.read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() > limits.max_body {
        return Err(ApiError::new(Kind::BodyTooLarge, format!("the task's image is larger than {} bytes", limits.max_body)));
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_server_is_asked() {
        let on = |address: &str| full(address, "http://ls:8080/");
        assert_eq!(on("/data/upload/1/a.jpg").unwrap(), "http://ls:8080/data/upload/1/a.jpg");
        assert_eq!(on("http://ls:8080/data/a.jpg").unwrap(), "http://ls:8080/data/a.jpg");
        for other in ["http://ls:80800/a", "//evil/a", "http://evil/a", "file:///etc/passwd", "http://ls:8080.evil/a", "s3://b/a"] {
            assert!(on(other).is_none(), "{other}");
        }
        assert_eq!(picture("data:;base64,aGk=", None, &Limits::STANDARD).unwrap(), "hi");
        assert!(picture("/data/a.jpg", None, &Limits::STANDARD).unwrap_err().hint.is_some());
    }
}
