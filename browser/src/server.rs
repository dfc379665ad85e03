//! `samclip serve` as a process that can be killed and started again, and the command line to compare with.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

/// The binary: `SAMCLIP_BIN`, or the release build of the workspace around this one.
fn binary() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/samclip");
    let path = std::env::var_os("SAMCLIP_BIN").map_or_else(built, PathBuf::from);
    assert!(path.exists(), "build the binary first (cargo build --release): {}", path.display());
    path
}

/// A photo of the repository.
pub fn photo(name: &str) -> PathBuf {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    examples.canonicalize().expect("the repository has examples").join(name)
}

/// A folder that goes away.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// Runs the command line; its JSON document where it prints one.
pub fn command_line(args: &[&str]) -> Value {
    let output = Command::new(binary()).args(args).output().expect("the binary starts");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// A running server.
pub struct Server {
    child: Option<Child>,
    extra: Vec<String>,
    port: u16,
}

impl Server {
    /// Starts on a free port.
    pub fn start(extra: &[&str]) -> Self {
        let mut server =
            Self { child: None, extra: extra.iter().map(ToString::to_string).collect(), port: 0 };
        server.launch();
        server
    }

    /// Where the page is.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Ends the process at once, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts again where it was.
    pub fn restart(&mut self) {
        self.kill();
        self.launch();
    }

    fn launch(&mut self) {
        let port = self.port.to_string();
        let mut child = Command::new(binary())
            .args(["serve", "--host", "127.0.0.1", "--port", &port])
            .args(&self.extra)
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, port)) = line.rsplit_once("http://127.0.0.1:") {
                    let _ = tell.send(port.trim_end_matches('/').parse::<u16>());
                } else {
                    println!("server: {line}");
                }
            }
        });
        self.child = Some(child);
        let port = told.recv_timeout(Duration::from_secs(60)).expect("the server says where it listens");
        self.port = port.expect("the address ends in a port");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
