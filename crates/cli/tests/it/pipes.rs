//! Readers that go away, disks that are full, and signals.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Folder, mlxengine, said};

/// An answer that goes on until the context is full.
const LONG: [&str; 4] = ["run", "demo", "Tell me a story.", "--ignore-eos"];

fn interrupt(child: &Child) {
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(status.success());
}

#[test]
fn a_reader_that_has_seen_enough_ends_it_quietly() {
    let mut child = mlxengine(&LONG).spawn().unwrap();
    let mut start = [0; 4];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    assert_eq!(&start, b"Once");
    assert_eq!(said(child), "[exit 0]\n");
    for arguments in [&["show", "demo"][..], &["families"], &["completions", "zsh"], &["--version"]] {
        let mut child = mlxengine(arguments).spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(said(child), "[exit 0]\n", "{arguments:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_an_error() {
    let full = std::fs::File::create("/dev/full").unwrap();
    let said = said(mlxengine(&["run", "demo", "hi"]).stdout(full).spawn().unwrap());
    assert!(said.starts_with("! error: cannot write to standard output: ") && said.ends_with("[exit 1]\n"), "{said}");
}

#[test]
fn an_interrupted_answer_says_so() {
    let mut child = mlxengine(&[&LONG[..], &["--isa", "portable", "--threads", "1"]].concat()).spawn().unwrap();
    let mut start = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut start).unwrap();
    interrupt(&child);
    let said = said(child);
    assert!(said.ends_with("\n! interrupted\n[exit 130]\n"), "{said}");
}

#[test]
fn an_interrupt_while_nothing_is_generated_leaves() {
    let mut command = mlxengine(&["run", "demo"]);
    // Its input never comes.
    let child = command.stdin(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    // Until the handler is in place, the signal ends the program as any other, without an exit code.
    std::thread::sleep(Duration::from_millis(500));
    interrupt(&child);
    let mut child = child;
    let held = child.stdin.take();
    let text = said(child);
    drop(held);
    assert_eq!(text, "[exit 130]\n");
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn an_interrupt_keeps_the_answers_that_are_whole() {
    let folder = Folder::new();
    let [prompts, output] = ["in.jsonl", "out.jsonl"].map(|name| folder.path(name));
    let short = "{\"prompt\": \"Hi!\", \"max_tokens\": 1}\n";
    let long = "{\"prompt\": \"Tell me a story.\", \"ignore_eos\": true}\n";
    std::fs::write(&prompts, format!("{short}{long}{long}")).unwrap();
    let [prompts, output] = [prompts.to_str().unwrap(), output.to_str().unwrap()];
    let arguments =
        ["generate", "demo", "--prompts", prompts, "--output", output, "--isa", "portable", "--threads", "1"];
    let child = mlxengine(&arguments).spawn().unwrap();
    let written = || std::fs::read_to_string(output).unwrap_or_default();
    let begin = Instant::now();
    while written().is_empty() && begin.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(20));
    }
    interrupt(&child);
    let said = said(child);
    assert!(said.starts_with("! 1 of 3 rows answered · 2 left: the same command goes on"), "{said}");
    assert!(said.ends_with("! interrupted\n[exit 130]\n"), "{said}");
    assert!(written().ends_with("}\n") && written().lines().count() == 1);
}
