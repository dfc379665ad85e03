//! The page: files of `assets/`, built into the library, or a folder while one works on them.

use std::path::{Component, Path};
use std::sync::Arc;

use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use include_dir::{Dir, include_dir};

use crate::engine::Engine;
use crate::error::{ApiError, Kind};

static ASSETS: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/assets");

/// Nothing but the page's own files runs or is loaded.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";

/// `GET /`.
///
/// # Errors
/// A folder without `index.html`.
pub async fn index(State(engine): State<Arc<Engine>>) -> Result<Response, ApiError> {
    file(&engine, "index.html")
}

/// `GET /assets/…`.
///
/// # Errors
/// A file that is not there.
pub async fn asset(State(engine): State<Arc<Engine>>, UrlPath(path): UrlPath<String>) -> Result<Response, ApiError> {
    file(&engine, &path)
}

fn file(engine: &Engine, path: &str) -> Result<Response, ApiError> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let bytes = match (&engine.settings.assets, plain) {
        (_, false) => None,
        (Some(folder), true) => std::fs::read(folder.join(path)).ok(),
        (None, true) => ASSETS.get_file(path).map(|file| file.contents().to_vec()),
    };
    let Some(bytes) = bytes else {
        let shown: String = path.chars().take(100).collect();
        return Err(ApiError::new(Kind::NotFound, format!("the page has no file {shown}")));
    };
    let mime = mime_guess::from_path(path).first_or_octet_stream();
    let kind = match mime.type_() == mime_guess::mime::TEXT {
        true => format!("{mime}; charset=utf-8"),
        false => mime.to_string(),
    };
    let headers = [
        (header::CONTENT_TYPE, kind.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let mut response = (headers, bytes).into_response();
    if path == "offline.js" {
        // A service worker may serve what is above its own folder only with this.
        response.headers_mut().insert("service-worker-allowed", HeaderValue::from_static("/"));
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_worker_keeps_every_file() {
        let text = ASSETS.get_file("offline.js").unwrap().contents_utf8().unwrap();
        let own = ["index.html", "offline.js"];
        let files = ASSETS.files().filter_map(|file| file.path().to_str()).filter(|name| !own.contains(name));
        let quoted: Vec<&str> = text.split('\'').skip(1).step_by(2).collect();
        let missing: Vec<&str> = files.filter(|name| !quoted.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let gone: Vec<&&str> = quoted.iter().filter(|name| name.contains('.') && ASSETS.get_file(name).is_none()).collect();
        assert!(gone.is_empty(), "{gone:?}");
        assert!(ASSETS.dirs().next().is_none());
    }
}
