//! Who may ask: the API key, as `Authorization: Bearer`, `Token:` or the password of basic authentication.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use sha2::{Digest, Sha256};

use crate::engine::Engine;
use crate::error::{ApiError, Kind};
use crate::routes::{Access, ROUTES};

/// Lets a request through if its route is open or it has the key. Unknown paths want the key too: without it
/// nothing can be learnt about the server.
pub async fn check(State(engine): State<Arc<Engine>>, request: Request, next: Next) -> Response {
    let Some(key) = &engine.settings.api_key else { return next.run(request).await };
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let open = ROUTES.iter().any(|route| route.access == Access::Open && Some(route.path) == path);
    if open || request.method() == Method::OPTIONS || given(request.headers()).is_some_and(|given| same(&given, key)) {
        return next.run(request).await;
    }
    let error = ApiError::new(Kind::Unauthorized, "the API key is missing or wrong");
    error.hint("send it as `Authorization: Bearer KEY`").into_response()
}

fn given(headers: &HeaderMap) -> Option<String> {
    if let Some(token) = headers.get("token") {
        return token.to_str().ok().map(str::to_owned);
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, value) = value.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" | "token" => Some(value.trim().to_owned()),
        "basic" => {
            let decoded = base64::prelude::BASE64_STANDARD.decode(value.trim()).ok()?;
            String::from_utf8(decoded).ok()?.split_once(':').map(|(_, password)| password.to_owned())
        }
        _ => None,
    }
}

/// Equal, in a time that says nothing about where they differ.
fn same(given: &str, key: &str) -> bool {
    let (given, key) = (Sha256::digest(given), Sha256::digest(key));
    given.iter().zip(key.iter()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_comes_in_four_ways() {
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            given(&headers)
        };
        assert_eq!(with("authorization", "Bearer s3cret").unwrap(), "s3cret");
        assert_eq!(with("authorization", "bearer  s3cret ").unwrap(), "s3cret");
        assert_eq!(with("token", "s3cret").unwrap(), "s3cret");
        assert_eq!(with("authorization", "Basic dXNlcjpzM2NyZXQ=").unwrap(), "s3cret");
        assert!(with("authorization", "Digest s3cret").is_none() && with("authorization", "s3cret").is_none());
        assert!(same("a", "a") && !same("a", "b") && !same("", "a"));
    }
}
