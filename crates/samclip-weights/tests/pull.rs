//! `pull` against a server on 127.0.0.1 that misbehaves on request.
#![cfg(feature = "pull")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use samclip_weights::registry::{Digest, OfficialModel};
use samclip_weights::{Verified, WeightsError, pull, pull_model};
use sha2::{Digest as _, Sha256};

const SIZE: usize = 700_001;

fn content() -> Vec<u8> {
    (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn leak(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

fn sha256(bytes: &[u8]) -> &'static str {
    leak(Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect())
}

/// What the server does to the n-th request.
#[derive(Clone, Copy)]
enum Act {
    /// Answers, honouring `Range`.
    Serve,
    /// Promises everything and hangs up after so many bytes.
    Cut(usize),
    /// Ignores `Range`.
    Whole,
    /// Answers with this status and no body.
    Status(u16),
    /// Redirects to `/real` and states a digest.
    Redirect(&'static str),
    /// Answers 206 from 0, whatever was asked.
    WrongRange,
}

/// Path and start of the `Range` header of each request.
type Requests = Mutex<Vec<(String, Option<usize>)>>;

struct Server {
    url: &'static str,
    asked: Arc<Requests>,
}

fn serve(acts: Vec<Act>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = leak(format!("http://{}/model.bin", listener.local_addr().unwrap()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    thread::spawn(move || {
        for (act, stream) in acts.into_iter().zip(listener.incoming()) {
            answer(act, stream.unwrap(), &log);
        }
    });
    Server { url, asked }
}

fn answer(act: Act, mut stream: TcpStream, log: &Requests) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let path = lines.next().unwrap_or_default().split(' ').nth(1).unwrap_or_default().to_owned();
    let range = lines
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.to_ascii_lowercase().strip_prefix("range: bytes=").map(str::to_owned))
        .find_map(|r| r.trim_end_matches('-').parse::<usize>().ok());
    log.lock().unwrap().push((path, range));
    let all = content();
    let head = |status: &str, more: String, len: usize| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {len}\r\nConnection: close\r\n{more}\r\n")
    };
    let from = |start: usize| format!("Content-Range: bytes {start}-{}/{SIZE}\r\n", SIZE - 1);
    let mut send = |head: String, body: &[u8]| {
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).ok();
    };
    match (act, range) {
        (Act::Serve, Some(start)) => {
            send(head("206 Partial Content", from(start), SIZE - start), &all[start..])
        }
        (Act::Serve | Act::Whole, _) => send(head("200 OK", String::new(), SIZE), &all),
        (Act::Cut(n), Some(start)) => {
            send(head("206 Partial Content", from(start), SIZE - start), &all[start..start + n])
        }
        (Act::Cut(n), None) => send(head("200 OK", String::new(), SIZE), &all[..n]),
        (Act::Status(code), _) => send(head(&format!("{code} No"), String::new(), 0), b""),
        (Act::Redirect(tag), _) => {
            send(head("302 Found", format!("Location: /real\r\nX-Linked-Etag: \"{tag}\"\r\n"), 0), b"");
        }
        (Act::WrongRange, _) => send(head("206 Partial Content", from(0), SIZE), &all),
    }
}

fn model(url: &'static str, digest: Digest) -> OfficialModel {
    let size = matches!(digest, Digest::Sha256(_)).then_some(SIZE as u64);
    OfficialModel { name: "t", variant: "t", url, file: "model.bin", size, digest, licence: "MIT", about: "" }
}

fn good() -> Digest {
    Digest::Sha256(sha256(&content()))
}

fn files(dir: &tempfile::TempDir) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn whole_file_then_nothing_to_do() {
    let (server, dir) = (serve(vec![Act::Serve]), tempfile::tempdir().unwrap());
    let mut last = (0, None);
    let model = model(server.url, good());
    let done =
        pull_model(&model, &dir.path().join("new/folder"), None, &mut |n, total| last = (n, total)).unwrap();
    assert_eq!(std::fs::read(&done.path).unwrap(), content());
    assert_eq!((done.verified, done.fetched), (Verified::Registry, SIZE as u64));
    assert_eq!(last, (SIZE as u64, Some(SIZE as u64)));
    // The server is gone; the file is verified where it lies.
    let again = pull_model(&model, &dir.path().join("new/folder"), None, &mut |_, _| {}).unwrap();
    assert_eq!(again.fetched, 0);
    // A damaged file is not taken for the real one, and not silently replaced.
    std::fs::write(&again.path, b"damaged").unwrap();
    let e = pull_model(&model, &dir.path().join("new/folder"), None, &mut |_, _| {}).unwrap_err();
    assert!(matches!(e, WeightsError::Checksum { what: "size", .. }), "{e}");
}

#[test]
fn a_cut_connection_is_resumed_in_the_same_run() {
    let acts = vec![Act::Cut(300_000), Act::Status(503), Act::Cut(100_000), Act::Serve];
    let (server, dir) = (serve(acts), tempfile::tempdir().unwrap());
    let done = pull_model(&model(server.url, good()), dir.path(), None, &mut |_, _| {}).unwrap();
    assert_eq!(std::fs::read(&done.path).unwrap(), content());
    assert_eq!(done.fetched, SIZE as u64, "no byte twice");
    let starts: Vec<_> = server.asked.lock().unwrap().iter().map(|(_, start)| *start).collect();
    assert_eq!(starts, [None, Some(300_000), Some(300_000), Some(400_000)]);
    assert_eq!(files(&dir), ["model.bin"]);
}

#[test]
fn a_cut_connection_is_resumed_in_a_later_run() {
    let dir = tempfile::tempdir().unwrap();
    let first = serve(vec![Act::Cut(250_000), Act::Status(404)]);
    let e = pull_model(&model(first.url, good()), dir.path(), None, &mut |_, _| {}).unwrap_err();
    assert!(e.to_string().contains("404"), "{e}");
    assert_eq!(files(&dir), ["model.bin.part"], "no final name yet");
    let second = serve(vec![Act::Serve]);
    let done = pull_model(&model(second.url, good()), dir.path(), None, &mut |_, _| {}).unwrap();
    assert_eq!(done.fetched, (SIZE - 250_000) as u64);
    assert_eq!(std::fs::read(&done.path).unwrap(), content());
}

#[test]
fn servers_without_ranges_or_with_wrong_ones_cost_a_restart() {
    for acts in [vec![Act::Cut(200_000), Act::Whole], vec![Act::Cut(200_000), Act::WrongRange, Act::Serve]] {
        let (server, dir) = (serve(acts), tempfile::tempdir().unwrap());
        let done = pull_model(&model(server.url, good()), dir.path(), None, &mut |_, _| {}).unwrap();
        assert_eq!(std::fs::read(&done.path).unwrap(), content());
    }
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let (server, dir) = (serve(vec![Act::Serve]), tempfile::tempdir().unwrap());
    let digest = Digest::Sha256(sha256(b"something else"));
    let e = pull_model(&model(server.url, digest), dir.path(), None, &mut |_, _| {}).unwrap_err();
    assert!(matches!(e, WeightsError::Checksum { what: "sha-256", .. }), "{e}");
    assert!(e.hint().is_some());
    assert!(files(&dir).is_empty());
}

#[test]
fn the_hubs_digest_is_used_where_the_registry_has_none() {
    let right = sha256(&content());
    let (server, dir) = (serve(vec![Act::Redirect(right), Act::Serve]), tempfile::tempdir().unwrap());
    let done = pull_model(&model(server.url, Digest::Hub), dir.path(), None, &mut |_, _| {}).unwrap();
    assert_eq!(done.verified, Verified::Hub);
    assert_eq!(server.asked.lock().unwrap()[1].0, "/real");

    let wrong = sha256(b"something else");
    let (server, dir) = (serve(vec![Act::Redirect(wrong), Act::Serve]), tempfile::tempdir().unwrap());
    assert!(pull_model(&model(server.url, Digest::Hub), dir.path(), None, &mut |_, _| {}).is_err());

    let (server, dir) = (serve(vec![Act::Serve]), tempfile::tempdir().unwrap());
    let done = pull_model(&model(server.url, Digest::Hub), dir.path(), None, &mut |_, _| {}).unwrap();
    assert_eq!(done.verified, Verified::Nothing(right.to_owned()));
}

#[test]
fn the_mirror_is_asked_instead() {
    let (server, dir) = (serve(vec![Act::Serve]), tempfile::tempdir().unwrap());
    let base = server.url.strip_suffix("/model.bin").unwrap();
    let model = model("http://127.0.0.1:1/never", good());
    pull_model(&model, dir.path(), Some(&format!("{base}/sub/")), &mut |_, _| {}).unwrap();
    assert_eq!(server.asked.lock().unwrap()[0].0, "/sub/model.bin");
}

#[test]
fn offline_says_what_to_put_where() {
    let dir = tempfile::tempdir().unwrap();
    // Port 1 refuses at once.
    let e = pull("sam_vit_b", dir.path(), Some("http://127.0.0.1:1"), &mut |_, _| {}).unwrap_err();
    let hint = e.hint().unwrap();
    let place = dir.path().join("sam_vit_b_01ec64.pth");
    for part in [
        "https://dl.fbaipublicfiles.com",
        "375042383 bytes",
        "ec2df627",
        "SAMCLIP_MIRROR",
        &place.display().to_string(),
    ] {
        assert!(hint.contains(part), "{part} in {hint}");
    }
    assert!(!place.exists());
    let e = pull("sam_vit_x", dir.path(), None, &mut |_, _| {}).unwrap_err();
    assert!(e.to_string().contains("sam_vit_x") && e.to_string().contains("sam_vit_b"), "{e}");
}

#[test]
fn an_unwritable_folder_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let e = pull("sam_vit_b", &file.join("sub"), None, &mut |_, _| {}).unwrap_err();
    assert!(matches!(e, WeightsError::Io { .. }), "{e}");
}
