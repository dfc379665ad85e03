//! Headless Chromium through its WebDriver, and what a user's hand does on the page.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use fantoccini::actions::{
    InputSource, KeyAction, KeyActions, MOUSE_BUTTON_LEFT, MOUSE_BUTTON_RIGHT, MouseActions, PointerAction,
};
use fantoccini::key::Key;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};

/// How long the page may take for anything, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(40);

fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// True, and said, where the machine has no browser.
pub fn skip_without_browser() -> bool {
    let missing = ["chromedriver", "chromium"].into_iter().find(|name| in_path(name).is_none());
    if let Some(name) = missing {
        println!("skipped: no {name} (Debian: apt-get install chromium chromium-driver)");
    }
    missing.is_some()
}

/// A browser with a fresh profile.
pub struct Browser {
    driver: Child,
    /// The WebDriver session.
    pub client: Client,
    downloads: tempfile::TempDir,
    _profile: tempfile::TempDir,
}

/// Which mouse button clicks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hand {
    /// Adds.
    Left,
    /// Removes.
    Right,
}

impl Browser {
    /// Opens a page in a window of this size; `dark` is what the system would prefer.
    pub async fn open(url: &str, [width, height]: [u32; 2], dark: bool) -> Self {
        let (driver, port) = start_driver();
        let (downloads, profile) = (crate::scratch(), crate::scratch());
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        let preferences =
            json!({ "download.default_directory": downloads.path(), "download.prompt_for_download": false });
        let options = json!({ "args": arguments, "prefs": preferences, "binary": in_path("chromium") });
        let capabilities = json!({ "goog:chromeOptions": options, "browserName": "chrome" });
        let capabilities = capabilities.as_object().expect("an object").clone();
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromedriver opens a session");
        let browser = Self { driver, client, downloads, _profile: profile };
        browser.resize([width, height]).await;
        browser.scheme(dark).await;
        browser.client.goto(url).await.expect("the page opens");
        browser
    }

    /// Makes the page (not the window) this large.
    pub async fn resize(&self, [width, height]: [u32; 2]) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// What the system prefers: a dark or a light page.
    pub async fn scheme(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// A command of the DevTools protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let call = Devtools(json!({ "cmd": command, "params": parameters }));
        self.client.issue_cmd(call).await.expect("DevTools answer")
    }

    /// Ends the session.
    pub async fn close(self) {
        let _ = self.client.clone().close().await;
    }

    /// The value of a JavaScript expression, which may await.
    pub async fn js(&self, expression: &str) -> Value {
        self.js_with(expression, vec![]).await
    }

    async fn js_with(&self, expression: &str, arguments: Vec<Value>) -> Value {
        let script = format!(
            "const done = arguments[arguments.length - 1], args = [...arguments].slice(0, -1);
             (async () => {expression})().then((value) => done({{ value }}), (error) => done({{ error: String(error.stack) }}));"
        );
        let answer = self.client.execute_async(&script, arguments).await.expect("the script runs");
        assert!(answer["error"].is_null(), "{expression}: {}", answer["error"]);
        answer["value"].clone()
    }

    /// Waits until a JavaScript expression is true.
    pub async fn until(&self, expression: &str) {
        let start = Instant::now();
        while self.js(&format!("Boolean({expression})")).await != json!(true) {
            if start.elapsed() > PATIENCE {
                let state = self.js("[document.querySelector('#status').textContent, document.querySelector('#trouble').textContent, document.querySelector('#object-list').innerText]").await;
                panic!("never came true: {expression}; the page says {state}");
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until every object on the screen has its answer and its picture has been drawn.
    pub async fn settled(&self) {
        self.until(
            "document.querySelectorAll('.object').length > 0 && !document.querySelector('.object .waiting')",
        )
        .await;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }

    /// Drops files on the page, as a drag from a file manager does.
    pub async fn drop_photos(&self, photos: &[PathBuf]) {
        let bytes = |path: &PathBuf| {
            base64::engine::general_purpose::STANDARD.encode(std::fs::read(path).expect("a photo"))
        };
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let files: Vec<Value> = photos.iter().map(|path| json!([name(path), bytes(path)])).collect();
        let before =
            self.js("document.querySelectorAll('.photo').length").await.as_u64().unwrap_or(0);
        let script = "{
            const transfer = new DataTransfer();
            for (const [name, text] of args[0]) {
                const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type: 'image/jpeg' }));
            }
            for (const kind of ['dragenter', 'dragover', 'drop']) {
                document.querySelector('main').dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
            }
        }";
        self.js_with(script, vec![Value::Array(files)]).await;
        self.until(&format!(
            "document.querySelectorAll('.photo').length === {}",
            before as usize + photos.len()
        ))
        .await;
        self.until("(await import('/assets/view.js')).view.shown === (await import('/assets/store.js')).state.current").await;
    }

    /// Types into what has the focus.
    pub async fn type_text(&self, text: &str) {
        let field = self.client.active_element().await.expect("something has the focus");
        field.send_keys(text).await.expect("it takes text");
    }

    /// Types a name and presses Enter.
    pub async fn find(&self, name: &str) {
        let text = self.client.find(Locator::Id("text")).await.expect("the text box");
        text.clear().await.expect("it can be emptied");
        text.send_keys(&format!("{name}\n")).await.expect("it takes text");
        self.js("document.querySelector('#stage').focus()").await;
    }

    /// The viewport position of the middle of a photo's pixel.
    async fn place(&self, [x, y]: [u32; 2]) -> [f64; 2] {
        let script = "{
            const { view } = await import('/assets/view.js');
            const box = document.querySelector('#stage').getBoundingClientRect();
            return [box.left + ((args[0] + 0.5) * view.scale + view.left) / view.ratio,
                    box.top + ((args[1] + 0.5) * view.scale + view.top) / view.ratio];
        }";
        let at = self.js_with(script, vec![json!(x), json!(y)]).await;
        [at[0].as_f64().expect("a number"), at[1].as_f64().expect("a number")]
    }

    async fn mouse(&self, actions: Vec<PointerAction>) {
        let start = MouseActions::new("mouse".to_owned());
        let all = actions.into_iter().fold(start, |mouse, action| mouse.then(action));
        self.client.perform_actions(all).await.expect("the mouse moves");
    }

    async fn move_to(&self, pixel: [u32; 2]) -> PointerAction {
        let [x, y] = self.place(pixel).await;
        PointerAction::MoveTo { duration: Some(Duration::from_millis(40)), x, y }
    }

    /// Rests on a pixel of the photo.
    pub async fn hover(&self, pixel: [u32; 2]) {
        let to = self.move_to(pixel).await;
        self.mouse(vec![to]).await;
    }

    /// Clicks on a pixel of the photo.
    pub async fn click(&self, pixel: [u32; 2], hand: Hand) {
        let button = if hand == Hand::Left { MOUSE_BUTTON_LEFT } else { MOUSE_BUTTON_RIGHT };
        let to = self.move_to(pixel).await;
        self.mouse(vec![to, PointerAction::Down { button }, PointerAction::Up { button }]).await;
    }

    /// Drags from one pixel of the photo to another.
    pub async fn drag(&self, from: [u32; 2], to: [u32; 2]) {
        let (first, last) = (self.move_to(from).await, self.move_to(to).await);
        let middle = self.move_to([(from[0] + to[0]) / 2, (from[1] + to[1]) / 2]).await;
        let (down, up) = (
            PointerAction::Down { button: MOUSE_BUTTON_LEFT },
            PointerAction::Up { button: MOUSE_BUTTON_LEFT },
        );
        self.mouse(vec![first, down, middle, last, up]).await;
    }

    /// Presses keys one after the other: `n`, `Control+z`, `Escape`, `Shift+ArrowDown`.
    pub async fn keys(&self, combinations: &[&str]) {
        for combination in combinations {
            let codes: Vec<char> = match *combination {
                "+" => vec!['+'],
                other => other.split('+').map(key).collect(),
            };
            let downs = codes.iter().map(|&value| KeyAction::Down { value });
            let ups = codes.iter().rev().map(|&value| KeyAction::Up { value });
            let all =
                downs.chain(ups).fold(KeyActions::new("keys".to_owned()), |keys, action| keys.then(action));
            self.client.perform_actions(all).await.expect("the keyboard works");
        }
    }

    /// Clicks on an element of the page.
    pub async fn press(&self, css: &str) {
        let element = self.client.find(Locator::Css(css)).await.unwrap_or_else(|e| panic!("{css}: {e}"));
        element.click().await.unwrap_or_else(|e| panic!("{css}: {e}"));
    }

    /// Downloads this photo's masks (or all photos') in a format and returns the file.
    pub async fn download(&self, format: &str, all: bool) -> PathBuf {
        let known = self.downloaded();
        self.press("#download").await;
        self.press(&format!("#formats input[value={format}]")).await;
        self.press(if all { "#scopes input[value=all]" } else { "#scopes input[value=one]" }).await;
        self.press("#download-go").await;
        let start = Instant::now();
        loop {
            let new = self.downloaded().into_iter().find(|path| !known.contains(path));
            if let Some(path) = new {
                self.until("!document.querySelector('dialog[open]')").await;
                return path;
            }
            assert!(start.elapsed() < PATIENCE, "nothing was downloaded");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn downloaded(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.downloads.path()).expect("the folder is there");
        let paths = entries.flatten().map(|entry| entry.path());
        paths.filter(|path| path.extension().is_none_or(|e| e != "crdownload") && !hidden(path)).collect()
    }

    /// Saves what the window shows as JPEG.
    pub async fn screenshot(&self, path: &Path) {
        let answer =
            self.devtools("Page.captureScreenshot", json!({ "format": "jpeg", "quality": 82 })).await;
        let data = answer["data"].as_str().expect("a picture");
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).expect("base64");
        std::fs::write(path, bytes).expect("the picture can be written");
    }
}

fn hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

fn key(name: &str) -> char {
    let code = match name {
        "Control" => Key::Control,
        "Shift" => Key::Shift,
        "Alt" => Key::Alt,
        "Escape" => Key::Escape,
        "Enter" => Key::Enter,
        "Tab" => Key::Tab,
        "Delete" => Key::Delete,
        "F2" => Key::F2,
        "PageUp" => Key::PageUp,
        "PageDown" => Key::PageDown,
        "ArrowLeft" => Key::Left,
        "ArrowRight" => Key::Right,
        "ArrowUp" => Key::Up,
        "ArrowDown" => Key::Down,
        other => return other.chars().next().expect("a key has a name"),
    };
    code.chars().next().expect("a key has a code")
}

/// chromedriver on a port of its choice.
fn start_driver() -> (Child, u16) {
    let mut child = Command::new("chromedriver")
        .arg("--port=0")
        .process_group(0)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("chromedriver starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    let port = lines.by_ref().map_while(Result::ok).find_map(|line| {
        let (_, rest) = line.split_once("started successfully on port ")?;
        rest.trim_end_matches('.').parse().ok()
    });
    std::thread::spawn(move || lines.for_each(drop));
    (child, port.expect("chromedriver says its port"))
}

impl Drop for Browser {
    /// A test that failed leaves no browser behind: it is in the driver's process group.
    fn drop(&mut self) {
        let group = format!("-{}", self.driver.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status();
        let _ = self.driver.wait();
    }
}

/// Chromium's extension of WebDriver.
#[derive(Debug)]
struct Devtools(Value);

impl fantoccini::wd::WebDriverCompatibleCommand for Devtools {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/goog/cdp/execute", session.unwrap_or_default()))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.0.to_string()))
    }
}
