//! One request from its body to its answer; the same steps for every verb.
//!
//! Body -> place in the queue -> photo (decoded, or from the cache) -> model -> plan (everything that can be
//! refused is refused here) -> embedding (shared with whoever asks for the same) -> verb -> document.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use samclip_image::{DecodeLimits, Image};
use samclip_predict::{Model, PredictError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::body::{Received, decode_image, discard, receive};
use crate::engine::{Engine, Served};
use crate::error::{ApiError, Kind};
use crate::settings::Limits;
use crate::store::{Photo, Store};
use crate::wire::{EmbedRequest, HasSubject, Subject, parse};
use crate::worker::Lane;

/// What a verb needs to have been computed before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// The embedding for prompts.
    Embedding,
    /// Its own view of the image, which is the embedding for models that look only once.
    View,
}

/// A verb of the library as a request.
pub trait Verb: DeserializeOwned + HasSubject + Send + 'static {
    /// The request, checked against image and model.
    type Plan: Send + 'static;
    /// The image's record.
    type Record: Serialize + Send + 'static;
    /// Checks everything that can be wrong.
    ///
    /// # Errors
    /// What is wrong.
    fn plan(self, model: &Model, image: &Image, limits: &Limits) -> Result<Self::Plan, ApiError>;

    /// What comes before.
    fn needs(plan: &Self::Plan, model: &Model) -> Needs;

    /// Hundreds of decoder passes, or an encoder pass of its own.
    fn is_heavy(plan: &Self::Plan, model: &Model) -> bool;

    /// Calls the library. The second value is for the `heat` field.
    ///
    /// # Errors
    /// What the library says.
    fn answer(
        plan: Self::Plan,
        model: &Model,
        file: &Path,
        image: &Image,
    ) -> Result<(Self::Record, Option<serde_json::Value>), PredictError>;
}

/// The document of the command line for one image, and its key.
#[derive(Debug, Serialize)]
pub struct Reply<T> {
    /// The model's name.
    pub model: String,
    /// `f32` or `bf16`.
    pub precision: String,
    /// The image's record.
    pub images: [T; 1],
    /// An image that fails is an HTTP error here.
    pub errors: [(); 0],
    /// For the next request.
    pub key: String,
    /// See `LocateRequest::heat`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heat: Option<serde_json::Value>,
}

/// A request whose photo and model are at hand.
pub struct Asked<R> {
    /// The request without its subject.
    pub request: R,
    /// The photo.
    pub photo: Photo,
    /// Its name in the records.
    pub file: PathBuf,
    /// The model's entry.
    pub served: Arc<Served>,
    /// The model.
    pub model: Arc<Model>,
}

/// A route of a verb.
///
/// # Errors
/// Any of [`Kind`] that the table of routes names for it.
pub async fn ask<V: Verb>(State(engine): State<Arc<Engine>>, request: Request) -> Result<Response, ApiError> {
    let received = admit(&engine, request).await?;
    within(&engine, async {
        let asked = understand::<V>(&engine, received).await?;
        Ok(Json(answer(&engine, asked).await?).into_response())
    })
    .await
}

/// `POST /v1/embed`.
///
/// # Errors
/// See the table of routes.
pub async fn embed(State(engine): State<Arc<Engine>>, request: Request) -> Result<Response, ApiError> {
    let received = admit(&engine, request).await?;
    within(&engine, async {
        let asked = understand::<EmbedRequest>(&engine, received).await?;
        engine.embed(&asked.served, &asked.model, &asked.photo).await?;
        let image = &asked.photo.image;
        let model = &asked.model.name;
        let reply = serde_json::json!({
            "key": asked.photo.key, "width": image.width(), "height": image.height(), "model": model,
        });
        Ok(Json(reply).into_response())
    })
    .await
}

/// Reads a request's body, unless the queue is full already.
///
/// # Errors
/// The queue is full, or see [`receive`].
pub async fn admit(engine: &Engine, request: Request) -> Result<Received, ApiError> {
    let limits = &engine.settings.limits;
    match engine.has_room() {
        Ok(()) => receive(request, limits).await,
        Err(busy) => {
            discard(request, limits);
            Err(busy)
        }
    }
}

/// Takes a place in the queue and answers within the deadline.
///
/// # Errors
/// The queue is full, the deadline has passed, or what `work` says.
pub async fn within<T>(engine: &Arc<Engine>, work: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let place = engine.accept()?;
    let seconds = engine.settings.limits.deadline;
    let answer = tokio::time::timeout(Duration::from_secs(seconds), work).await;
    drop(place);
    let late = || ApiError::new(Kind::Deadline, format!("no answer within {seconds} s")).retry_after(1);
    answer.map_err(|_| late())?
}

/// Parses the request and finds photo and model.
async fn understand<R>(engine: &Arc<Engine>, received: Received) -> Result<Asked<R>, ApiError>
where
    R: DeserializeOwned + HasSubject + Send + 'static,
{
    let (store, max_pixels) = (engine.store.clone(), engine.settings.limits.max_pixels);
    let parsed = blocking(move || {
        let mut request: R = parse(&received.json)?;
        let subject = request.subject();
        let file = file_name(&subject, &received)?;
        let photo = photo(&store, &subject, &received, &file, max_pixels)?;
        Ok((request, subject, photo, file))
    });
    let (request, subject, photo, file) = parsed.await?;
    let (served, model) = engine.model(subject.model.as_deref(), subject.adapter.as_deref()).await?;
    Ok(Asked { request, photo, file, served, model })
}

/// Work that would hold up other connections.
///
/// # Errors
/// What `work` says.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let defect = |_| ApiError::new(Kind::Internal, "the request could not be read");
    tokio::task::spawn_blocking(work).await.map_err(defect)?
}

/// The name for the records; it is never opened.
fn file_name(subject: &Subject, received: &Received) -> Result<PathBuf, ApiError> {
    let form = received.image.as_ref().and_then(|(_, name)| name.as_deref());
    let name = subject.image_name.as_deref().or(form).unwrap_or("image");
    if name.chars().count() > 1000 || name.chars().any(char::is_control) {
        let error = "image_name is not a name: expected at most 1000 printable characters";
        return Err(ApiError::new(Kind::InvalidRequest, error));
    }
    Ok(PathBuf::from(name))
}

fn photo(
    store: &Store,
    subject: &Subject,
    received: &Received,
    file: &Path,
    max_pixels: u64,
) -> Result<Photo, ApiError> {
    let cached = subject.key.as_deref().and_then(|key| store.photo(key));
    match (cached, &received.image, &subject.image, &subject.key) {
        (Some(photo), ..) => Ok(photo),
        (None, Some((bytes, _)), ..) => decoded(store, bytes, file, max_pixels),
        (None, None, Some(text), _) => decoded(store, &decode_image(text)?, file, max_pixels),
        (None, None, None, Some(key)) => {
            let error = format!("no image is cached under the key `{}`", key.chars().take(40).collect::<String>());
            Err(ApiError::new(Kind::UnknownKey, error).hint("send the image again"))
        }
        (None, None, None, None) => Err(ApiError::new(Kind::InvalidRequest, "no image: expected `image` or `key`")),
    }
}

/// A photo from a file's bytes.
///
/// # Errors
/// Bytes that are no image, or one beyond the limit.
pub fn decoded(store: &Store, bytes: &[u8], file: &Path, max_pixels: u64) -> Result<Photo, ApiError> {
    let decode = || Image::decode(bytes, file, &DecodeLimits { max_pixels });
    store.photo_of(bytes, decode).map_err(ApiError::from)
}

/// Plans, encodes if needed, and calls the verb.
///
/// # Errors
/// See [`Verb`].
pub async fn answer<V: Verb>(engine: &Arc<Engine>, asked: Asked<V>) -> Result<Reply<V::Record>, ApiError> {
    let Asked { request, photo, file, served, model } = asked;
    let (planner, image, limits) = (model.clone(), photo.image.clone(), engine.settings.limits.clone());
    let plan = blocking(move || request.plan(&planner, &image, &limits)).await?;
    let lane = match V::needs(&plan, &model) == Needs::Embedding || model.looks_once() {
        true => engine.embed(&served, &model, &photo).await?,
        false => Lane::Heavy,
    };
    let lane = if V::is_heavy(&plan, &model) { Lane::Heavy } else { lane };
    let (worker, image) = (model.clone(), photo.image.clone());
    let (record, heat) = engine.timed(lane, move || V::answer(plan, &worker, &file, &image)).await?;
    Ok(Reply {
        model: model.name.clone(),
        precision: model.precision.to_owned(),
        images: [record],
        errors: [],
        key: photo.key,
        heat,
    })
}
