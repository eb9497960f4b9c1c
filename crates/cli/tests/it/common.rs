//! Running the built program, and reading what it said.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The program, with an environment in which no model of this machine is found.
pub fn mlxengine(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mlxengine"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in
        ["MLXENGINE_ISA", "MLXENGINE_THREADS", "MLXENGINE_MODELS", "MLXENGINE_REGISTRY", "LLM_CHAT_API_URL", "HF_HOME"]
    {
        command.env_remove(name);
    }
    for name in ["HF_ENDPOINT", "HF_TOKEN"] {
        command.env_remove(name);
    }
    command.env("HF_HUB_CACHE", "no-such-cache").env("HF_HUB_OFFLINE", "1").env("HF_TOKEN_PATH", "no-such-token");
    command.env("XDG_CACHE_HOME", "no-such-folder");
    command
}

/// What a run said, as one text: standard output, standard error with `! ` before each line, the exit code. Times and speeds
/// are written as `…`.
pub fn transcript(command: &mut Command, input: Option<&str>) -> String {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().expect("the program starts");
    if let Some(input) = input {
        // A program that refuses its arguments does not read first.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    }
    said(child)
}

/// The transcript of a program that was started before.
pub fn said(child: Child) -> String {
    let output = child.wait_with_output().expect("the program ends");
    let mut text = String::from_utf8(output.stdout).expect("UTF-8");
    for line in String::from_utf8(output.stderr).expect("UTF-8").lines() {
        text.push_str(&format!("! {line}\n"));
    }
    let code = output.status.code().map_or("none".to_owned(), |code| code.to_string());
    without_times(&text) + &format!("[exit {code}]\n")
}

/// The transcript of a run without input.
pub fn run(arguments: &[&str]) -> String {
    transcript(&mut mlxengine(arguments), None)
}

/// `first token after 12 ms` as `first token after … ms`.
pub fn without_times(text: &str) -> String {
    let mut words: Vec<&str> = text.split(' ').collect();
    for i in 1..words.len() {
        let number = |word: &str| word.parse::<f64>().is_ok();
        if number(words[i - 1]) && (words[i] == "ms" || words[i].starts_with("tokens/s")) {
            words[i - 1] = "…";
        }
    }
    words.join(" ")
}

/// A folder that is removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder for the test");
        Self(path)
    }

    /// A copy of the demo model's files.
    pub fn with_demo() -> Self {
        let folder = Self::new();
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mlxengine/demo");
        for entry in std::fs::read_dir(demo).expect("the demo model") {
            let entry = entry.expect("a file");
            let bytes = std::fs::read(entry.path()).expect("a file");
            std::fs::write(folder.0.join(entry.file_name()), bytes).expect("a copy");
        }
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn name(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    /// Changes a file's bytes.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::fs::read(self.path(name)).unwrap_or_default();
        change(&mut bytes);
        std::fs::write(self.path(name), bytes).expect("a file");
    }

    /// Changes a file's text.
    pub fn replace(&self, name: &str, from: &str, to: &str) {
        self.change(name, |bytes| {
            let text = String::from_utf8(std::mem::take(bytes)).expect("UTF-8");
            assert!(text.contains(from), "{name} has no {from}");
            *bytes = text.replace(from, to).into_bytes();
        });
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
