//! `samclip serve` as a process: the command line's documents over HTTP, keys, configuration, SIGTERM.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use support::{labels, photo, samclip, stderr};

/// A running server; it is killed when the test ends.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_samclip"));
        Self::of(command.arg("serve").args(["--port", "0"]).args(arguments).stderr(Stdio::piped()).stdout(Stdio::null()))
    }

    fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines().map_while(Result::ok);
        let found = lines.find_map(|line| line.strip_prefix("samclip serves on ").map(str::to_owned));
        let url = found.expect("the server says where it is");
        // Nobody reads the log any more, but it must not block the server.
        std::thread::spawn(move || lines.for_each(drop));
        let server = Self { child, url };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&self) {
        let start = Instant::now();
        while self.get("/readyz").0 != 200 {
            assert!(start.elapsed() < Duration::from_secs(60), "not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn get(&self, path: &str) -> (u16, Value) {
        answer(agent().get(format!("{}{path}", self.url)).call())
    }

    fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let request = agent().post(format!("{}{path}", self.url)).header("content-type", "application/json");
        answer(request.send(body.to_string()))
    }

    /// Waits for so many accepted requests and returns how many there are.
    fn wait_until_accepted(&self, least: usize) -> usize {
        let start = Instant::now();
        loop {
            let metrics = agent().get(format!("{}/metrics", self.url)).call();
            let text = metrics.expect("metrics").body_mut().read_to_string().expect("text");
            let line = text.lines().find_map(|line| line.strip_prefix("samclip_requests_in_flight "));
            let count: usize = line.and_then(|count| count.parse().ok()).unwrap_or(0);
            if count >= least {
                return count;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "nothing is accepted");
        }
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().expect("kill runs").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::new_with_config(ureq::Agent::config_builder().http_status_as_error(false).build())
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, Value) {
    match response {
        Err(_) => (0, Value::Null),
        Ok(mut response) => {
            let text = response.body_mut().with_config().limit(1 << 30).read_to_string().unwrap_or_default();
            (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::Null))
        }
    }
}

fn base64_of(path: &Path) -> String {
    base64::prelude::BASE64_STANDARD.encode(std::fs::read(path).expect("the photo is there"))
}

/// A `--json` document without times and key.
fn bare(mut document: Value) -> Value {
    if let Some(fields) = document.as_object_mut() {
        fields.remove("key");
    }
    for image in document["images"].as_array_mut().into_iter().flatten() {
        image.as_object_mut().map(|image| image.remove("timing_ms"));
    }
    document
}

/// What the command line prints for a photo.
fn local(arguments: &[&str]) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("names.txt"), "cat\ndog\nsofa\n").expect("a file");
    let output = samclip(folder.path(), arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    bare(support::json(&output))
}

/// Each verb over HTTP, and the arguments of the command line that say the same.
fn verbs(name: &str) -> Vec<(&'static str, Value, Vec<&'static str>)> {
    let small = [("points_per_side", json!(8)), ("pred_iou_thresh", json!(0.5))];
    let everything: Value = small.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<serde_json::Map<_, _>>().into();
    let mut verbs = vec![
        ("/v1/segment", json!({ "prompts": [{ "text": "cat" }] }), vec!["segment", "--text", "cat"]),
        (
            "/v1/segment",
            json!({ "prompts": [{ "points": [[200, 150], [10, 20]], "labels": [1, 0], "box": [20, 10, 440.5, 290] }] }),
            vec!["segment", "--point", "200,150", "--point", "10,20,0", "--box", "20,10,440.5,290"],
        ),
        (
            "/v1/segment",
            json!({ "prompts": [{ "points": [[200, 150]] }], "multimask": true }),
            vec!["segment", "--point", "200,150", "--multimask"],
        ),
        (
            "/v1/segment",
            json!({ "prompts": [{ "text": "cat" }], "text_mode": "clip-head", "text_threshold": 0.25 }),
            vec!["segment", "--text", "cat", "--text-mode", "clip-head", "--text-threshold", "0.25"],
        ),
        ("/v1/everything", everything, vec!["everything", "--points-per-side", "8", "--pred-iou-thresh", "0.5"]),
        ("/v1/classify", json!({ "texts": ["cat", "dog", "sofa"], "top": 2 }), vec!["classify", "--text", "cat", "--text", "dog", "--text", "sofa", "--top", "2"]),
        ("/v1/locate", json!({ "texts": ["cat", "sofa"] }), vec!["locate", "--text", "cat", "--text", "sofa"]),
        ("/v1/label", json!({ "classes": ["cat", "dog", "sofa"] }), vec!["label", "--classes", "names.txt"]),
    ];
    for (_, body, _) in &mut verbs {
        body["image"] = Value::from(base64_of(&photo(name)));
        body["image_name"] = Value::from(photo(name).display().to_string());
    }
    verbs
}

fn expected(name: &str, arguments: &[&'static str]) -> Value {
    let file = photo(name).display().to_string();
    let (verb, rest) = arguments.split_first().expect("a verb");
    let all: Vec<&str> = [*verb, file.as_str(), "--json"].into_iter().chain(rest.iter().copied()).collect();
    local(&all)
}

#[test]
fn every_verb_is_equal_to_the_command_line_alone_and_sixteen_at_once() {
    let server = Server::start(&[]);
    let mut all = Vec::new();
    for name in ["cat.jpg", "rocket.jpg"] {
        for (path, body, arguments) in verbs(name) {
            let expected = expected(name, &arguments);
            let (status, answer) = server.post(path, &body);
            assert_eq!((status, bare(answer)), (200, expected.clone()), "{name} {arguments:?}");
            all.push((path, body, expected));
        }
    }
    assert_eq!(all.len(), 16);
    std::thread::scope(|scope| {
        let (server, all) = (&server, &all);
        let ask = |i: usize| {
            // half of them the same request
            let (path, body, expected) = &all[if i % 2 == 0 { 0 } else { i }];
            let (status, answer) = server.post(path, body);
            assert_eq!((status, &bare(answer)), (200, expected), "{path}");
        };
        let tasks: Vec<_> = (0..16).map(|i| scope.spawn(move || ask(i))).collect();
        tasks.into_iter().for_each(|task| task.join().expect("equal answers"));
    });
}

#[test]
fn a_batch_through_a_server_writes_what_the_local_run_writes() {
    let server = Server::start(&["--api-key", "s3cret"]);
    let folder = tempfile::tempdir().expect("a folder");
    let (cat, rocket) = (photo("cat.jpg").display().to_string(), photo("rocket.jpg").display().to_string());
    let run = |out: &str, extra: &[&str]| {
        let arguments = ["segment", &cat, "missing.jpg", &rocket, "--text", "cat", "--box", "20,10,200,200", "--json", "--out", out];
        let formats = ["--format", "png", "--format", "overlay", "--format", "coco", "--format", "labelme", "--format", "csv"];
        samclip(folder.path(), &[&arguments[..], &formats, extra].concat())
    };
    let here = run("local", &[]);
    let there = run("remote", &["--server", &server.url, "--server-key", "s3cret"]);
    assert_eq!((here.status.code(), there.status.code()), (Some(2), Some(2)), "one photo is missing");
    assert_eq!(bare(support::json(&here)), bare(support::json(&there)));
    assert_eq!(stderr(&here), stderr(&there));
    let files = |out: &str| -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(folder.path().join(out)).expect("the folder was written");
        let mut files: Vec<_> = entries.map(|e| e.expect("an entry").path()).collect();
        files.sort();
        files.iter().map(|f| (f.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read(f).expect("a file"))).collect()
    };
    assert_eq!(files("local"), files("remote"));
    assert!(files("local").len() >= 8);

    let refused = run("refused", &["--server", &server.url]);
    assert!(stderr(&refused).contains("the API key is missing or wrong"), "{}", stderr(&refused));
    let nobody = run("nobody", &["--server", "http://127.0.0.1:9"]);
    assert!(nobody.status.code() == Some(2) && stderr(&nobody).contains("cannot reach the server"), "{}", stderr(&nobody));
    assert!(!folder.path().join("nobody").exists());
    let mixed = run("mixed", &["--server", &server.url, "--threads", "1"]);
    assert!(stderr(&mixed).contains("--threads is for a model in this process"), "{}", stderr(&mixed));
}

#[test]
fn sigterm_answers_what_was_accepted_and_refuses_the_rest() {
    let mut server = Server::start(&["--deadline", "300", "--grace", "300"]);
    let heavy = json!({ "image": base64_of(&photo("cat.jpg")), "points_per_side": 24, "pred_iou_thresh": 0.5 });
    let quick = json!({ "image": base64_of(&photo("cat.jpg")), "prompts": [{ "points": [[200, 150]] }] });
    let (answers, accepted, late) = std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..4).map(|_| scope.spawn(|| server.post("/v1/everything", &heavy))).collect();
        let accepted = server.wait_until_accepted(2);
        server.signal("-TERM");
        while server.get("/readyz").0 == 200 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let late = server.post("/v1/segment", &quick);
        (tasks.into_iter().map(|task| task.join().expect("a thread")).collect::<Vec<_>>(), accepted, late)
    });
    let good = |answer: &(u16, Value)| answer.0 == 200 && answer.1["images"].as_array().map(Vec::len) == Some(1);
    let refused = |answer: &(u16, Value)| answer.0 == 503 && answer.1["kind"] == "draining";
    let codes: Vec<u16> = answers.iter().map(|answer| answer.0).collect();
    assert!(answers.iter().filter(|answer| good(answer)).count() >= accepted, "{accepted} accepted, {codes:?}");
    assert!(answers.iter().all(|answer| good(answer) || refused(answer)), "{codes:?}");
    assert!(refused(&late), "{late:?}");
    let start = Instant::now();
    let status = loop {
        if let Some(status) = server.child.try_wait().expect("the server can be waited for") {
            break status;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the server did not end");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
}

/// A connection on which bytes can be sent as they are.
struct Wire(TcpStream);

impl Wire {
    fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(server.url.trim_start_matches("http://")).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        Self(stream)
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the server reads");
    }

    /// The head of an answer, and its body.
    fn answer(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("a head").to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
        let mut body = vec![0; length.parse().expect("a length")];
        self.0.read_exact(&mut body).expect("a body");
        (head, String::from_utf8(body).expect("text"))
    }
}

#[test]
fn a_full_queue_refuses_before_the_body_is_there() {
    let server = Server::start(&["--queue", "1", "--deadline", "300"]);
    let heavy = json!({ "image": base64_of(&photo("cat.jpg")), "points_per_side": 48, "pred_iou_thresh": 0.5 });
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| server.post("/v1/everything", &heavy));
        server.wait_until_accepted(1);
        let head = |length: usize, more: &str| {
            format!("POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n")
        };
        // one half of a body has not been sent when the answer comes; then the connection serves another request
        let mut wire = Wire::open(&server);
        wire.send(head(2_000_000, "").as_bytes());
        wire.send(&vec![b' '; 1_000_000]);
        let (told, body) = wire.answer();
        assert!(told.starts_with("http/1.1 429") && told.contains("\r\nretry-after: "), "{told}");
        assert!(body.contains("overloaded") && !told.contains("connection: close"), "{told}");
        wire.send(&vec![b' '; 1_000_000]);
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(wire.answer().0.starts_with("http/1.1 200"));
        // who waits for leave to send hears no, and is not given it
        let mut wire = Wire::open(&server);
        wire.send(head(2_000_000, "Expect: 100-continue\r\n").as_bytes());
        assert!(wire.answer().0.starts_with("http/1.1 429"));
        // a small body, and at once
        let mut wire = Wire::open(&server);
        for _ in 0..20 {
            let start = Instant::now();
            wire.send(head(2, "").as_bytes());
            wire.send(b"{}");
            assert!(wire.answer().0.starts_with("http/1.1 429"));
            assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
        }
        assert_eq!(busy.join().expect("a thread").0, 200);
    });
}

/// An adapter of two steps; its name is the folder's.
fn adapter(folder: &Path, name: &str) -> String {
    let output = samclip(folder, &["adapt", "--data", "data", "--classes", "cat,dog", "--out", name, "--smoke"]);
    assert!(output.status.success(), "{}", stderr(&output));
    folder.join(name).join("adapter.safetensors").display().to_string()
}

#[test]
fn an_adapter_is_chosen_by_the_request() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path();
    labels(&folder.join("data"));
    let (one, two) = (adapter(folder, "one"), adapter(folder, "two"));
    let whole = folder.join("whole.safetensors").display().to_string();
    assert!(samclip(folder, &["adapter", "merge", "--adapter", &one, "--to", &whole]).status.success());
    let server = Server::start(&["--adapter", &one, "--adapter", &two]);
    let models = server.get("/v1/models").1;
    assert_eq!(models["models"][0]["adapters"], json!(["one", "two"]));

    let cat = photo("cat.jpg").display().to_string();
    let image = base64_of(&photo("cat.jpg"));
    std::fs::write(folder.join("names.txt"), "cat\ndog\n").expect("a file");
    let cases: Vec<(&str, Value, Vec<&str>)> = vec![
        ("/v1/segment", json!({ "prompts": [{ "text": "cat" }, { "text": "dog" }] }), vec!["segment", "--text", "cat", "--text", "dog"]),
        (
            "/v1/segment",
            json!({ "prompts": [{ "text": "cat", "points": [[210, 200]], "labels": [1] }] }),
            vec!["segment", "--text", "cat", "--point", "210,200"],
        ),
        ("/v1/segment", json!({ "prompts": [{ "points": [[210, 200]] }] }), vec!["segment", "--point", "210,200"]),
        ("/v1/locate", json!({ "texts": ["cat"] }), vec!["locate", "--text", "cat"]),
        ("/v1/label", json!({ "classes": ["cat", "dog"] }), vec!["label", "--classes", "names.txt"]),
        ("/v1/classify", json!({ "texts": ["cat", "dog"] }), vec!["classify", "--text", "cat", "--text", "dog"]),
    ];
    let mut answers = Vec::new();
    for (name, file) in [("one", &one), ("two", &two)] {
        for (path, body, arguments) in &cases {
            let mut body = body.clone();
            for (key, value) in [("image", image.as_str()), ("image_name", &cat), ("adapter", name)] {
                body[key] = Value::from(value);
            }
            let all: Vec<&str> = [arguments[0], &cat, "--json", "--adapter", file].into_iter().chain(arguments[1..].iter().copied()).collect();
            let output = samclip(folder, &all);
            assert!(output.status.success(), "{}", stderr(&output));
            let (status, answer) = server.post(path, &body);
            assert_eq!((status, bare(answer.clone())), (200, bare(support::json(&output))), "{name} {arguments:?}");
            assert_eq!(answer["model"], format!("sam_clip_nano with adapter {name}"));
            answers.push(answer);
        }
    }
    // a click without a name is the base's, whichever adapter is asked; a name with a click is not a name alone
    let plain = server.post("/v1/segment", &json!({ "image": image, "prompts": [{ "points": [[210, 200]] }] })).1;
    for answer in [&answers[2], &answers[8]] {
        assert_eq!(answer["images"][0]["masks"], plain["images"][0]["masks"]);
    }
    assert_ne!(answers[0]["images"][0]["masks"][0]["segmentation"], answers[1]["images"][0]["masks"][0]["segmentation"]);
    // by the command line over HTTP
    let there = samclip(folder, &["segment", &cat, "--text", "cat", "--text", "dog", "--json", "--adapter", "one", "--server", &server.url]);
    assert_eq!(bare(support::json(&there)), bare(answers[0].clone()), "{}", stderr(&there));

    let (status, answer) = server.post("/v1/segment", &json!({ "image": image, "adapter": "three", "prompts": [{ "text": "cat" }] }));
    assert_eq!((status, &answer["kind"]), (404, &json!("unknown_model")), "{answer}");
    assert_eq!(answer["hint"], "this server has sam_clip_nano, one, two");
    drop(server);
    wrong_adapters(folder, &one, &whole);
}

/// What a server refuses to start with; a merged adapter needs no base.
fn wrong_adapters(folder: &Path, one: &str, whole: &str) {
    let other = samclip_testkit::tiny::weights(folder).display().to_string();
    for (arguments, message) in [
        (&["--weights", &other, "--adapter", one][..], "the adapter was trained on another sam base: expected builtin with hash"),
        (&["--adapter", one, "--adapter", one], "two adapters are called one"),
        (&["--adapter", &other], "not an adapter"),
    ] {
        let output = samclip(folder, &[&["serve", "--port", "0"], arguments].concat());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
    }
    let server = Server::start(&["--weights", &other, "--adapter", whole]);
    let ask = json!({ "image": base64_of(&photo("cat.jpg")), "adapter": "one", "prompts": [{ "text": "cat" }] });
    let (status, answer) = server.post("/v1/segment", &ask);
    assert_eq!(status, 200, "{answer}");
}

#[test]
fn configuration_comes_from_file_environment_and_flags() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |text: &str| std::fs::write(folder.path().join("serve.toml"), text).expect("a file");
    write("queue = 3\nprot = 9000\n");
    let output = samclip(folder.path(), &["serve", "--config", "serve.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("configuration line 2: unknown field `prot`: serve.toml"), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: did you mean `port`?"), "{}", stderr(&output));
    write("precision = \"f64\"\n");
    let output = samclip(folder.path(), &["serve", "--config", "serve.toml"]);
    assert!(stderr(&output).contains("expected one of auto, f32, bf16, found `f64`"), "{}", stderr(&output));
    for (arguments, message) in [
        (&["serve", "--weights", "none.pth"][..], "none.pth"),
        (&["serve", "--model", "sam_vit_z"], "sam_vit_z"),
        (&["serve", "--model", "sam_vit_b"], "needs weights"),
        (&["serve", "--api-key", " "], "the API key is empty"),
        (&["serve", "--adapter", "none.safetensors"], "none.safetensors"),
        (&["serve", "--host", "not an address", "--port", "0"], "cannot listen"),
    ] {
        let output = samclip(folder.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(message), "{arguments:?}: {}", stderr(&output));
    }
    write("api-key = \"from the file\"\nmax-prompts = 1\n");
    let server = Server::start(&["--config", folder.path().join("serve.toml").to_str().expect("a path"), "--api-key", "from the flag"]);
    let with = |key: &str| answer(agent().get(format!("{}/v1/models", server.url)).header("authorization", format!("Bearer {key}")).call()).0;
    assert_eq!((with("from the file"), with("from the flag"), server.get("/healthz").0), (401, 200, 200));
}

#[test]
fn a_key_in_the_environment_is_for_servers_and_a_file_beats_it() {
    let dir = tempfile::tempdir().unwrap();
    let with_key = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_samclip"));
        command.args(arguments).env("SAMCLIP_API_KEY", "of-the-environment").current_dir(dir.path());
        command
    };
    let cat = photo("cat.jpg").display().to_string();
    let local = with_key(&["segment", &cat, "--point", "100,100"]).output().unwrap();
    assert!(local.status.success(), "{}", stderr(&local));

    std::fs::write(dir.path().join("key"), "# of the file\n").unwrap();
    let mut server = with_key(&["serve", "--port", "0", "--api-key-file", "key"]);
    let server = Server::of(server.stderr(Stdio::piped()).stdout(Stdio::null()));
    let models = |key: &str| agent().get(format!("{}/v1/models", server.url)).header("Authorization", key).call();
    assert_eq!(answer(models("Bearer # of the file")).0, 200);
    assert_eq!(answer(models("Bearer of-the-environment")).0, 401);
}
