//! The models behind the routes: who is served, what is encoded, and in which order.
//!
//! No inference here: every answer comes from a verb of samclip-predict, called on the one worker thread.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use samclip_image::Image;
use samclip_predict::adapter::AdapterBase;
use samclip_predict::cache::EmbeddingStore;
use samclip_predict::{Model, ModelSpec, PredictError, Prompt, SegmentOptions};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::error::{ApiError, Kind};
use crate::settings::Settings;
use crate::store::{Photo, Store};
use crate::worker::{Lane, Worker};

/// One model that requests can name.
#[derive(Debug)]
pub struct Served {
    /// The variant.
    pub name: String,
    /// The adapter's name.
    pub adapter: Option<String>,
    /// The adapter's file.
    file: Option<PathBuf>,
    model: OnceLock<Arc<Model>>,
}

/// What an encode that several requests wait for came to.
type Encoded = watch::Receiver<Option<Result<(), ApiError>>>;

/// Models, cache and worker.
pub struct Engine {
    /// What the server was told.
    pub settings: Settings,
    /// Photos and embeddings.
    pub store: Arc<Store>,
    served: Vec<Arc<Served>>,
    /// The loaded base, for adapters.
    base: Arc<OnceLock<AdapterBase>>,
    worker: Worker,
    places: Arc<Semaphore>,
    encodes: Mutex<HashMap<String, Encoded>>,
    ready: AtomicBool,
    draining: AtomicBool,
    encoder_runs: AtomicU64,
    /// When the last self-test was good.
    sound: tokio::sync::Mutex<Option<Instant>>,
    /// Running mean of the microseconds that a job takes, for Retry-After.
    pace: AtomicU64,
}

impl Engine {
    /// Nothing is loaded yet: see [`Engine::load`].
    ///
    /// # Errors
    /// An adapter file that cannot be read, two of one name, no thread.
    pub fn new(settings: Settings) -> Result<Self, PredictError> {
        let entry = |adapter, file| {
            Arc::new(Served { name: settings.model.variant.clone(), adapter, file, model: OnceLock::new() })
        };
        let mut served = vec![entry(None, None)];
        for path in &settings.adapters {
            let name = samclip_predict::adapter::inspect(path)?.about.name;
            if served.iter().any(|other| other.adapter.as_ref() == Some(&name)) {
                let what = format!("two adapters are called {name}");
                return Err(PredictError::Input { what, path: path.clone() });
            }
            served.push(entry(Some(name), Some(path.clone())));
        }
        let worker = Worker::start().map_err(|source| PredictError::Io {
            action: "start the worker thread",
            source,
            path: "inference".into(),
        })?;
        Ok(Self {
            store: Arc::new(Store::new(settings.limits.cache)),
            places: Arc::new(Semaphore::new(settings.limits.queue)),
            settings,
            served,
            base: Arc::default(),
            worker,
            encodes: Mutex::default(),
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            encoder_runs: AtomicU64::new(0),
            sound: tokio::sync::Mutex::default(),
            pace: AtomicU64::new(100_000),
        })
    }

    /// Loads the base model, holds the adapters against it and answers one click, then says that the server is ready.
    ///
    /// # Errors
    /// The model cannot be loaded or gives no sound answer, an adapter is of another base.
    pub async fn load(&self) -> Result<(), ApiError> {
        let model = self.loaded(&self.served[0]).await?;
        let base = AdapterBase::new(&self.settings.model, model);
        let (kept, files) = (self.base.clone(), self.settings.adapters.clone());
        let check = move || files.iter().try_for_each(|file| base.check(file)).map(|()| drop(kept.set(base)));
        self.worker.run(Lane::Heavy, check).await??;
        self.self_test().await?;
        self.ready.store(true, Ordering::Release);
        Ok(())
    }

    /// [`Engine::self_test`], but at most once a second: it is open to everybody.
    ///
    /// # Errors
    /// The model cannot answer.
    pub async fn is_sound(&self) -> Result<(), ApiError> {
        // held while the test runs: who asks meanwhile waits for its answer instead of queueing another
        let mut last = self.sound.lock().await;
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            return Ok(());
        }
        self.self_test().await?;
        *last = Some(Instant::now());
        Ok(())
    }

    /// A real, tiny inference: one click on a built-in picture (for a model without masks: one name).
    ///
    /// # Errors
    /// The model cannot answer.
    pub async fn self_test(&self) -> Result<(), ApiError> {
        let pixels: Vec<u8> = (0..48 * 48 * 3).map(|i| (i * 7 % 251) as u8).collect();
        let photo = Photo::new(Image::new(48, 48, pixels)?);
        let model = self.loaded(&self.served[0]).await?;
        let lane = self.embed(&self.served[0], &model, &photo).await?;
        let image = photo.image.clone();
        let sound = self.worker.run(lane, move || -> Result<bool, PredictError> {
            let Ok(segmenter) = model.prompt_segmenter() else {
                let answer = model.classifier()?.classify(&image, &["dog".to_owned()])?;
                return Ok(answer.probabilities.iter().all(|p| p.is_finite()));
            };
            let answer = segmenter.segment(&image, &[Prompt::point(24.0, 24.0)], &SegmentOptions::STANDARD)?;
            Ok(answer.masks.iter().all(|mask| mask.predicted_iou.is_finite()))
        });
        match sound.await?? {
            true => Ok(()),
            false => Err(ApiError::new(Kind::Internal, "the model gives values that are not finite")),
        }
    }

    /// Whether [`Engine::load`] is done.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether the server was told to stop.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// From now on only what was accepted is finished.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Requests that were accepted and not answered.
    pub fn in_flight(&self) -> usize {
        self.settings.limits.queue - self.places.available_permits()
    }

    /// How often an encoder was asked for so far.
    pub fn encodes(&self) -> u64 {
        self.encoder_runs.load(Ordering::Relaxed)
    }

    /// Jobs that wait: prompts, heavy ones.
    pub fn waiting(&self) -> [usize; 2] {
        self.worker.waiting()
    }

    /// Every model and adapter, the default first.
    pub fn served(&self) -> &[Arc<Served>] {
        &self.served
    }

    /// A place in the queue for one request, kept until it is answered.
    ///
    /// # Errors
    /// The queue is full, the model is not there yet, the server is stopping.
    pub fn accept(&self) -> Result<Place, ApiError> {
        if self.is_draining() {
            return Err(ApiError::draining());
        }
        if !self.is_ready() {
            return Err(ApiError::starting());
        }
        match self.places.clone().try_acquire_owned() {
            Ok(permit) => Ok(Place { _permit: permit }),
            Err(_) => Err(self.overloaded()),
        }
    }

    /// Says no where [`Engine::accept`] would for want of a place, so that no body is read in vain. No place is
    /// taken: who sends slowly must not keep others out.
    ///
    /// # Errors
    /// The queue is full.
    pub fn has_room(&self) -> Result<(), ApiError> {
        let is_full = self.is_ready() && !self.is_draining() && self.places.available_permits() == 0;
        if is_full { Err(self.overloaded()) } else { Ok(()) }
    }

    fn overloaded(&self) -> ApiError {
        let queue = self.settings.limits.queue as u64;
        let seconds = (queue * self.pace.load(Ordering::Relaxed)).div_ceil(1_000_000).clamp(1, 60);
        let error = format!("the server is busy with {queue} requests");
        ApiError::new(Kind::Overloaded, error).hint("try again later").retry_after(seconds)
    }

    /// The model that a request names.
    ///
    /// # Errors
    /// No such model or adapter, or its file cannot be loaded.
    pub async fn model(&self, name: Option<&str>, adapter: Option<&str>) -> Result<(Arc<Served>, Arc<Model>), ApiError> {
        let fits = |served: &&Arc<Served>| name.is_none_or(|name| name == served.name) && served.adapter.as_deref() == adapter;
        let Some(served) = self.served.iter().find(fits) else {
            let known: Vec<&str> = self.served.iter().map(|s| s.adapter.as_deref().unwrap_or(&s.name)).collect();
            let asked = adapter.or(name).unwrap_or_default();
            let error = ApiError::new(Kind::UnknownModel, format!("unknown model or adapter `{asked}`"));
            return Err(error.hint(format!("this server has {}", known.join(", "))));
        };
        Ok((served.clone(), self.loaded(served).await?))
    }

    async fn loaded(&self, served: &Arc<Served>) -> Result<Arc<Model>, ApiError> {
        if let Some(model) = served.model.get() {
            return Ok(model.clone());
        }
        let (theirs, base, store): (_, _, Arc<dyn EmbeddingStore>) = (served.clone(), self.base.clone(), self.store.clone());
        let alone = ModelSpec { adapter: None, clip_weights: None, cache: None, ..self.settings.model.clone() };
        let load = move || -> Result<Arc<Model>, ApiError> {
            if let Some(model) = theirs.model.get() {
                return Ok(model.clone());
            }
            let model = match &theirs.file {
                Some(file) => Model::over(base.get().ok_or_else(ApiError::starting)?, file)?,
                None => Model::load_over(&alone, Some(&store))?,
            };
            Ok(theirs.model.get_or_init(|| Arc::new(model)).clone())
        };
        self.worker.run(Lane::Heavy, load).await?
    }

    /// Encodes a photo unless that has been done, together with everyone else who asks for the same. Returns the
    /// lane for what follows.
    ///
    /// # Errors
    /// The encoder gave up.
    pub async fn embed(&self, served: &Served, model: &Arc<Model>, photo: &Photo) -> Result<Lane, ApiError> {
        if model.is_embedded(&photo.image) {
            metrics::counter!("samclip_cache_hits_total").increment(1);
            return Ok(Lane::Prompt);
        }
        metrics::counter!("samclip_cache_misses_total").increment(1);
        let name = format!("{}-{}-{:?}", photo.key, served.name, served.adapter);
        self.encoded(name, model, photo).await?;
        Ok(if model.is_embedded(&photo.image) { Lane::Prompt } else { Lane::Heavy })
    }

    async fn encoded(&self, name: String, model: &Arc<Model>, photo: &Photo) -> Result<(), ApiError> {
        loop {
            let (mut receiver, sender) = self.join(&name);
            if let Some(sender) = sender {
                // Whoever encoded may have been done between the caller's look into the cache and now.
                if model.is_embedded(&photo.image) {
                    self.forget(&name);
                    return Ok(());
                }
                let _forget = Forget { engine: self, name: &name };
                let (model, image) = (model.clone(), photo.image.clone());
                metrics::counter!("samclip_encodes_total").increment(1);
                self.encoder_runs.fetch_add(1, Ordering::Relaxed);
                let work = move || model.embed(&image);
                let result = self.timed(Lane::Heavy, work).await;
                let _ = sender.send(Some(result.clone()));
                return result;
            }
            metrics::counter!("samclip_encodes_coalesced_total").increment(1);
            match receiver.wait_for(Option::is_some).await {
                Ok(result) => return result.clone().unwrap_or(Ok(())),
                // The request that encoded went away: the next one takes over.
                Err(_) => continue,
            }
        }
    }

    fn forget(&self, name: &str) {
        self.encodes.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Waits with the others, or becomes the one who encodes.
    fn join(&self, name: &str) -> (Encoded, Option<watch::Sender<Option<Result<(), ApiError>>>>) {
        let mut encodes = self.encodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = encodes.get(name)
            && running.has_changed().is_ok()
        {
            return (running.clone(), None);
        }
        let (sender, receiver) = watch::channel(None);
        encodes.insert(name.to_owned(), receiver.clone());
        (receiver, Some(sender))
    }

    /// Runs a verb on the worker.
    ///
    /// # Errors
    /// What the verb says.
    pub async fn timed<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> Result<T, PredictError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let timed = move || {
            let start = Instant::now();
            (work(), start.elapsed())
        };
        let (result, took) = self.worker.run(lane, timed).await?;
        metrics::histogram!("samclip_job_seconds", "lane" => format!("{lane:?}").to_lowercase()).record(took);
        let (old, new) = (self.pace.load(Ordering::Relaxed), took.as_micros() as u64);
        self.pace.store((old * 15 + new) / 16, Ordering::Relaxed);
        Ok(result?)
    }
}

impl Served {
    /// The loaded model, if it is.
    pub fn get(&self) -> Option<&Arc<Model>> {
        self.model.get()
    }
}

/// Whoever encodes leaves the list when it is done, or goes away.
struct Forget<'a> {
    engine: &'a Engine,
    name: &'a str,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.engine.forget(self.name);
    }
}

/// A request's place in the queue.
pub struct Place {
    _permit: OwnedSemaphorePermit,
}
