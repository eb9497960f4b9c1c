//! Conversations on a terminal: keys are typed, the screen is read.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, open};

use crate::common::{Folder, without_times};

const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const TAB: &str = "\t";
const PATIENCE: Duration = Duration::from_secs(60);

/// What the program has written, and a signal when there is more.
type Screen = Arc<(Mutex<String>, Condvar)>;

/// A program on a terminal of its own.
struct Terminal {
    child: Child,
    keys: fs::File,
    screen: Screen,
    /// How far the screen has been read.
    read: usize,
}

impl Terminal {
    fn start(arguments: &[&str]) -> Self {
        Self::start_in(".", arguments)
    }

    fn start_in(folder: &str, arguments: &[&str]) -> Self {
        Self::start_with(folder, arguments, &[])
    }

    fn start_with(folder: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let (pty, pts) = open().expect("a terminal");
        pty.resize(Size::new(40, 120)).expect("its size");
        let command = Command::new(env!("CARGO_BIN_EXE_mlxengine")).args(arguments).current_dir(folder);
        let command = command.env("TERM", "xterm").env("NO_COLOR", "1").env_remove("LLM_CHAT_API_URL");
        let command = command.envs(variables.iter().copied());
        let child = command.spawn(pts).expect("the program starts");
        let keys: OwnedFd = pty.as_fd().try_clone_to_owned().expect("a terminal");
        let screen = Screen::default();
        let (mut output, shared) = (pty, Arc::clone(&screen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // When the program has ended, reading fails.
            while let Ok(count) = output.read(&mut bytes) {
                let (text, more) = &*shared;
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
                more.notify_all();
            }
        });
        Self { child, keys: keys.into(), screen, read: 0 }
    }

    fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the program reads");
    }

    /// Types a line at the prompt, and waits for what the program says to it.
    fn line(&mut self, line: &str, expected: &str) -> String {
        self.wait_for(">>> ");
        self.keys(line);
        self.keys("\r");
        // The line is drawn again and again while it is typed, prompt and all; it is taken when pasting is switched off.
        self.wait_for("\u{1b}[?2004l");
        self.wait_for(expected)
    }

    /// Waits until the program has written a text, and returns what came before it.
    fn wait_for(&mut self, expected: &str) -> String {
        let (text, more) = &*self.screen;
        let begin = Instant::now();
        let mut screen = text.lock().unwrap();
        loop {
            if let Some(at) = screen[self.read..].find(expected) {
                let before = screen[self.read..self.read + at].to_owned();
                self.read += at + expected.len();
                return before;
            }
            let left = PATIENCE.saturating_sub(begin.elapsed());
            assert!(!left.is_zero(), "no `{expected}` after: {}", &screen[self.read..]);
            screen = more.wait_timeout(screen, left).unwrap().0;
        }
    }

    fn exit_code(&mut self) -> Option<i32> {
        let begin = Instant::now();
        loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => return status.code(),
                None if begin.elapsed() > PATIENCE => panic!("the program goes on"),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn greedy_chat() -> Terminal {
    Terminal::start(&["chat", "demo", "--temp", "0"])
}

#[test]
fn a_conversation_keeps_its_turns() {
    let mut terminal = greedy_chat();
    terminal.line("What is the capital of France?", "The capital of France is Paris.");
    terminal.line("/set verbose on", "verbose  on");
    terminal.line("What is the capital of Spain?", "The capital of Spain is Madrid.");
    terminal.wait_for("(22 cached + ");
    let stats = terminal.line("/stats", "· model demo");
    assert!(without_times(&stats).contains("cached") && stats.contains(" of 1024 tokens"), "{stats}");
    terminal.line("/regenerate", "Madrid.");
    terminal.line("/edit What is the capital of Italy?", "The capital of Italy is Rome.");
    let own = terminal.line("/edit", "#2 What is the capital of Italy?");
    assert!(own.contains("#1 What is the capital of France?"), "{own}");
    terminal.line("/edit #1 What is the capital of Italy?", "Rome.");
    terminal.line("/edit #7 hello", "there is no message #7 of yours; there are 1");
    terminal.line("/clear", "(the turns are forgotten)");
    terminal.line("/regenerate", "there is no answer to give again");
    terminal.line("/bye", "\n");
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn commands_explain_themselves() {
    let mut terminal = greedy_chat();
    let help = terminal.line("/help", "Ctrl-C stops an answer");
    for name in ["system", "save", "load", "clear", "regenerate", "edit", "set", "stats", "bye"] {
        assert!(help.contains(&format!("/{name} ")), "{name} is not in {help}");
    }
    terminal.line("/sytsem", "there is no command /sytsem; did you mean /system?");
    terminal.line("/clear all", "/clear takes nothing after it");
    terminal.line("/system", "(no instructions)");
    terminal.line("/system Answer in one word.", ">>> ");
    terminal.keys("/system\r");
    terminal.wait_for("\nAnswer in one word.");
    let parameters = terminal.line("/set", "verbose");
    assert!(parameters.contains("temperature              0.0") && parameters.contains("top_k                    20"));
    terminal.line("/set top-p 0.5", "  top_p  0.5");
    terminal.line("/set top_p default", "  top_p  0.9");
    terminal.line("/set top_p 7", "top_p must be between 0 and 1, got 7");
    terminal.line("/set top_p much", "top_p must be a number, not \"much\"");
    terminal.line("/set max_tokens 0", "max_tokens must be at least 1, got 0");
    terminal.line("/set temprature 1", "there is no parameter temprature; did you mean temperature?");
    terminal.line("/set stop END", "  stop  [\"END\"]");
    terminal.wait_for(">>> ");
    terminal.keys(&format!("/reg{TAB}\r"));
    terminal.wait_for("there is no answer to give again");
    // Between prompts the terminal itself would take the key for the end of the input.
    terminal.wait_for(">>> ");
    terminal.keys(CTRL_D);
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn conversations_are_saved_and_loaded() {
    let folder = Folder::new();
    fs::write(folder.path("mine.md"), "my own notes").unwrap();
    let mut terminal = Terminal::start_in(folder.name(), &["chat", "demo", "--temp", "0", "--system", "You are kind."]);
    terminal.line("What is the capital of France?", "Paris.");
    for name in ["talk.json", "talk.md", "talk.txt"] {
        terminal.line(&format!("/save {name}"), "(saved talk.");
    }
    terminal.line("/save talk.md", "(replaced talk.md: 3 messages)");
    terminal.line("/save mine.md", "mine.md exists already, and is not from this conversation");
    assert_eq!(fs::read_to_string(folder.path("mine.md")).unwrap(), "my own notes");
    terminal.line("/save --force mine.md", "(replaced mine.md: 3 messages)");
    terminal.line("/save talk.doc", "the name talk.doc does not say the format; end it with .json, .md or .txt");
    terminal.line("/save", "/save needs the name of a file");
    terminal.line("/save no/such/talk.md", "cannot write no/such/talk.md: No such file");
    terminal.line("/load other.md", "cannot read other.md: No such file");
    terminal.line("/bye", "\n");
    assert_eq!(terminal.exit_code(), Some(0));
    assert_eq!(fs::read_dir(folder.path("")).unwrap().count(), 4, "nothing else is left behind");

    for name in ["talk.json", "talk.md", "talk.txt"] {
        let mut terminal = Terminal::start_in(folder.name(), &["chat", "demo", "--temp", "0"]);
        terminal.line(&format!("/load {name}"), &format!("(loaded {name}: 3 messages)"));
        terminal.line("/system", "You are kind.");
        terminal.line("/regenerate", "The capital of France is Paris.");
    }
}

#[test]
fn control_c_stops_the_answer_and_then_the_program() {
    let mut terminal =
        Terminal::start(&["chat", "demo", "--temp", "0", "--ignore-eos", "--isa", "portable", "--threads", "1"]);
    terminal.line("Tell me a story.", "Once");
    terminal.keys(CTRL_C);
    terminal.wait_for("(stopped; Ctrl-C once more leaves)");
    // What was said stays, and the program goes on.
    terminal.line("/edit", "#1 Tell me a story.");
    terminal.wait_for(">>> ");
    terminal.keys(CTRL_C);
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn control_c_throws_away_what_was_typed() {
    let mut terminal = greedy_chat();
    terminal.wait_for(">>> ");
    terminal.keys("What is");
    terminal.wait_for("What is");
    terminal.keys(CTRL_C);
    terminal.line("What is the capital of France?", "Paris.");
    terminal.wait_for(">>> ");
    terminal.keys(CTRL_D);
    assert_eq!(terminal.exit_code(), Some(0));
}

#[test]
fn several_lines_are_one_message() {
    let mut terminal = greedy_chat();
    terminal.wait_for(">>> ");
    terminal.keys("\"\"\"What is the\rcapital of\rFrance?\"\"\"\r");
    terminal.wait_for("Paris.");
    terminal.line("/edit", "#1 What is the capital of France?");
    // Pasted, with the marks that terminals put around it.
    terminal.wait_for(">>> ");
    terminal.keys("\u{1b}[200~What is the\rcapital of Spain?\u{1b}[201~\r");
    terminal.wait_for("Madrid.");
    terminal.line("/edit", "#2 What is the capital of Spain?");
}

#[test]
fn a_conversation_that_is_too_long_is_not_lost() {
    let mut terminal = Terminal::start(&["chat", "demo", "--temp", "0", "--context", "48"]);
    terminal.line("What is the capital of France?", "Paris.");
    terminal.line(
        "What is the capital of Spain? And of Italy? And of Greece? And of Sweden?",
        "and prompt and answer together may have 48",
    );
    terminal.wait_for("hint: /clear forgets the turns so far");
    terminal.line("/edit", "#1 What is the capital of France?");
}

#[test]
fn a_terminal_is_enough_to_chat() {
    for arguments in [&[][..], &["chat"], &["run", "demo"]] {
        let mut terminal = Terminal::start(arguments);
        terminal.wait_for("demo · qwen3 · 4-bit affine group 32");
        terminal.wait_for(">>> ");
        terminal.keys(CTRL_D);
        assert_eq!(terminal.exit_code(), Some(0), "{arguments:?}");
    }
}

#[test]
fn a_benchmark_that_is_stopped_has_said_what_is_done() {
    let mut terminal = Terminal::start(&["bench", "-m", "demo", "-p", "1", "-n", "300", "-r", "100"]);
    terminal.wait_for("pp1 |");
    terminal.wait_for("tg300 [");
    terminal.keys(CTRL_C);
    terminal.wait_for("interrupted");
    assert_eq!(terminal.exit_code(), Some(130));
}

#[test]
fn a_token_is_typed_unseen() {
    let folder = Folder::new();
    let variables = [("HF_HUB_OFFLINE", "1"), ("HF_TOKEN_PATH", "token"), ("HF_TOKEN", "")];
    let mut terminal = Terminal::start_with(folder.name(), &["login"], &variables);
    terminal.wait_for("token (it is not shown): ");
    terminal.keys("hf_unseen1234\r");
    terminal.wait_for("it is kept in token");
    assert_eq!(terminal.exit_code(), Some(0));
    assert!(!terminal.screen.0.lock().unwrap().contains("hf_un"), "it was shown");
    assert_eq!(fs::read_to_string(folder.path("token")).unwrap(), "hf_unseen1234");
    let mut terminal = Terminal::start_with(folder.name(), &["login"], &variables);
    terminal.wait_for("token (it is not shown): ");
    terminal.keys("hf_other\u{3}");
    assert_eq!(terminal.exit_code(), Some(130));
    let mut terminal = Terminal::start_with(folder.name(), &["login"], &[&variables[..], &[("TERM", "dumb")]].concat());
    terminal.wait_for("this terminal would show the token; pipe it in");
    assert_eq!(terminal.exit_code(), Some(1));
    assert_eq!(fs::read_to_string(folder.path("token")).unwrap(), "hf_unseen1234");
}
