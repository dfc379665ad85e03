//! `--server URL`: a running server answers instead of a model in this process.
//!
//! The photos are sent as they are, so the answer is the one that this machine would give.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use base64::Engine as _;
use samclip_image::{Image, Mask, rle};
use samclip_predict::record::{MaskImage, Segmentation};
use samclip_predict::verbs::{About, SegmentRequest};
use samclip_predict::{PredictError, Prompt, TextMode, prompt};
use serde_json::{Value, json};

use super::common::ModelArgs;

/// How often a busy or starting server is asked again.
const TRIES: usize = 60;

/// Which server.
#[derive(Debug, clap::Args)]
pub struct ServerArgs {
    /// Let this server (`samclip serve`) answer; --model and --adapter then name its own
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Its API key
    #[arg(long, value_name = "KEY", env = "SAMCLIP_API_KEY", hide_env_values = true)]
    server_key: Option<String>,
}

/// A running server.
pub struct Remote {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
    model: Option<String>,
    adapter: Option<String>,
}

impl Remote {
    /// Finds the server, if one was named.
    pub fn new(args: &ServerArgs, model: &ModelArgs) -> Result<Option<Self>> {
        let Some(url) = &args.server else { return Ok(None) };
        let local = [
            ("--weights", model.weights.is_some()),
            ("--text-table", model.text_table.is_some()),
            ("--clip-weights", model.clip_weights.is_some()),
            ("--cache", model.cache.is_some()),
            ("--threads", model.threads.is_some()),
        ];
        if let Some((flag, _)) = local.iter().find(|(_, given)| *given) {
            bail!("{flag} is for a model in this process: expected none with --server");
        }
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(Duration::from_secs(120)));
        Ok(Some(Self {
            agent: ureq::Agent::new_with_config(config.build()),
            url: url.trim_end_matches('/').to_owned(),
            key: args.server_key.clone(),
            model: (model.model != ModelArgs::STANDARD).then(|| model.model.clone()),
            adapter: model.adapter.as_ref().map(|name| name.display().to_string()),
        }))
    }

    /// The served model.
    pub fn about(&self) -> Result<About, PredictError> {
        let answer = self.call("/v1/models", None)?;
        let text = |key: &str| answer["models"][0][key].as_str().unwrap_or_default().to_owned();
        let model = self.adapter.iter().fold(text("name"), |model, adapter| format!("{model} with adapter {adapter}"));
        Ok(About { model, precision: text("precision") })
    }

    /// Masks for prompts on one photo.
    pub fn segment(&self, file: &Path, image: &Image, request: &SegmentRequest, mask: Option<&Mask>) -> Result<MaskImage, PredictError> {
        let prompts = prompt::group(&request.texts, &request.points, &request.boxes, mask)?;
        let prompts = if self.adapter.is_some() { prompt::name_with_clicks(prompts) } else { prompts };
        prompts.iter().try_for_each(|prompt| prompt.validate(image.width(), image.height()))?;
        let bytes = std::fs::read(file).map_err(|source| samclip_image::ImageError::Read { path: file.to_owned(), source })?;
        let mode = match request.options.text_mode {
            TextMode::BothHeads => "both-heads",
            TextMode::ClipHead => "clip-head",
        };
        let body = json!({
            "image": base64::prelude::BASE64_STANDARD.encode(bytes),
            "image_name": file.to_string_lossy(),
            "model": self.model,
            "adapter": self.adapter,
            "prompts": prompts.iter().map(prompt_json).collect::<Vec<Value>>(),
            "multimask": request.options.multimask,
            "text_threshold": request.options.text_threshold,
            "text_mode": mode,
        });
        let mut answer = self.call("/v1/segment", Some(&body))?;
        let mut record: MaskImage = serde_json::from_value(answer["images"][0].take())
            .map_err(|error| self.failure(format!("the server's answer does not parse ({error})"), None))?;
        record.masks.iter_mut().try_for_each(|mask| mask.restore())?;
        file.clone_into(&mut record.file);
        Ok(record)
    }

    fn call(&self, path: &str, body: Option<&Value>) -> Result<Value, PredictError> {
        let url = format!("{}{path}", self.url);
        for _ in 0..TRIES {
            let (status, wait, answer) = self.once(&url, body)?;
            match status {
                200 => return Ok(answer),
                429 | 503 if answer["kind"] != "deadline" => std::thread::sleep(Duration::from_secs(wait.clamp(1, 10))),
                _ => {
                    let error = answer["error"].as_str().map_or_else(|| format!("the server answered {status}"), str::to_owned);
                    return Err(self.failure(error, answer["hint"].as_str().map(str::to_owned)));
                }
            }
        }
        Err(self.failure(format!("the server was busy {TRIES} times"), None))
    }

    /// Code, seconds to wait, document.
    fn once(&self, url: &str, body: Option<&Value>) -> Result<(u16, u64, Value), PredictError> {
        let hint = || Some("start one with `samclip serve`".to_owned());
        let failed = |error: ureq::Error| self.failure(format!("cannot reach the server ({error})"), hint());
        let key = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let response = match body {
            None => {
                let request = self.agent.get(url);
                key.iter().fold(request, |request, key| request.header("Authorization", key)).call()
            }
            Some(body) => {
                let request = self.agent.post(url).header("Content-Type", "application/json");
                key.iter().fold(request, |request, key| request.header("Authorization", key)).send(body.to_string())
            }
        };
        let mut response = response.map_err(failed)?;
        let wait = response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(1 << 30).read_to_string().map_err(failed)?;
        Ok((status, wait.unwrap_or(1), serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    fn failure(&self, error: String, hint: Option<String>) -> PredictError {
        PredictError::Remote { error, hint, url: self.url.clone() }
    }
}

fn prompt_json(prompt: &Prompt) -> Value {
    let mut json = json!({});
    if let Some(text) = &prompt.text {
        json["text"] = text.as_str().into();
    }
    if !prompt.points.is_empty() {
        json["points"] = prompt.points.iter().map(|point| json!([point.x, point.y])).collect();
        json["labels"] = prompt.points.iter().map(|point| u8::from(point.positive)).collect();
    }
    if let Some(bbox) = prompt.bbox {
        json["box"] = json!(bbox);
    }
    if let Some(mask) = &prompt.mask {
        json["mask"] = json!(Segmentation::new(&rle::encode(mask)));
    }
    json
}
