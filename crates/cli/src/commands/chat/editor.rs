//! The line that the user types: history, completion, several lines between triple quotes.

use std::borrow::Cow;
use std::cell::Cell;

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::MemHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Config, Context, Helper};

use super::commands::COMMANDS;
use super::parameters;
use crate::failure::{Result, io};
use crate::printer::Printer;

const PROMPT: &str = ">>> ";
const QUOTES: &str = "\"\"\"";

/// What the user typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// An empty line.
    Nothing,
    /// Something to say.
    Message(String),
    /// A command, without its slash.
    Command(String),
    /// Ctrl-D, or Ctrl-C on an empty line.
    End,
}

/// Reads what the user types.
pub struct Editor {
    lines: rustyline::Editor<Assistant, MemHistory>,
}

impl Editor {
    /// An editor with an empty history, which is kept in memory alone.
    pub fn new(printer: &Printer) -> Result<Self> {
        let config = Config::builder().auto_add_history(true).completion_type(CompletionType::List).build();
        let failed = |e| io("cannot set up the terminal", std::io::Error::other(e));
        let history = MemHistory::with_config(&config);
        let mut lines = rustyline::Editor::with_history(config, history).map_err(failed)?;
        lines.set_helper(Some(Assistant::new(printer)));
        Ok(Self { lines })
    }

    /// Waits for the user.
    pub fn read(&mut self) -> Result<Typed> {
        loop {
            return match self.lines.readline(PROMPT) {
                Ok(line) => Ok(understand(&line)),
                Err(ReadlineError::Interrupted) if self.was_empty() => Ok(Typed::End),
                // As in a shell, Ctrl-C throws away what was typed so far.
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => Ok(Typed::End),
                Err(error) => Err(io("cannot read from the terminal", std::io::Error::other(error)).into()),
            };
        }
    }

    fn was_empty(&self) -> bool {
        self.lines.helper().is_none_or(|helper| helper.empty.get())
    }
}

/// A command begins with a slash. A text that does too is typed with a space before it, or between quotes.
fn understand(line: &str) -> Typed {
    if let Some(command) = line.strip_prefix('/') {
        return Typed::Command(command.trim().to_owned());
    }
    let text = line.trim();
    let inner = text.strip_prefix(QUOTES).map(|rest| rest.strip_suffix(QUOTES).unwrap_or(rest));
    match inner.map_or(text, |inner| inner.trim_matches('\n')) {
        "" => Typed::Nothing,
        text => Typed::Message(text.to_owned()),
    }
}

/// Whether quotes were opened at the beginning and not closed.
fn is_open(input: &str) -> bool {
    input.trim_start().strip_prefix(QUOTES).is_some_and(|rest| !rest.trim_end().ends_with(QUOTES))
}

/// What helps while a line is typed.
struct Assistant {
    files: FilenameCompleter,
    colours: bool,
    /// Whether the line has nothing in it: the editor does not say so when Ctrl-C ends it.
    empty: Cell<bool>,
}

impl Assistant {
    fn new(printer: &Printer) -> Self {
        Self { files: FilenameCompleter::new(), colours: printer.has_colours(), empty: Cell::new(true) }
    }
}

impl Helper for Assistant {}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        let Some(command) = typed.strip_prefix('/') else { return Ok((pos, Vec::new())) };
        let same = |name: &str| Pair { display: name.to_owned(), replacement: name.to_owned() };
        match command.split_once(' ') {
            None => {
                let names = COMMANDS.iter().map(|c| c.name).filter(|name| name.starts_with(command));
                Ok((1, names.map(same).collect()))
            }
            Some(("save" | "load", _)) => self.files.complete(line, pos, context),
            Some(("set", rest)) if !rest.contains(' ') => {
                let names = parameters::names();
                Ok((pos - rest.len(), names.iter().filter(|name| name.starts_with(rest)).map(|n| same(n)).collect()))
            }
            Some(_) => Ok((pos, Vec::new())),
        }
    }
}

impl Hinter for Assistant {
    type Hint = String;

    fn hint(&self, line: &str, pos: usize, _: &Context<'_>) -> Option<String> {
        self.empty.set(line.is_empty());
        if line.is_empty() {
            return None;
        }
        // Shows what a command takes once its name is complete.
        let name = line.strip_prefix('/').filter(|_| pos == line.len())?;
        let command = COMMANDS.iter().find(|c| c.name == name && !c.takes.is_empty())?;
        Some(format!(" {}", command.takes))
    }
}

impl Highlighter for Assistant {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _: bool) -> Cow<'b, str> {
        if self.colours { Cow::Owned(format!("\x1b[1;36m{prompt}\x1b[0m")) } else { Cow::Borrowed(prompt) }
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        if self.colours { Cow::Owned(format!("\x1b[2m{hint}\x1b[0m")) } else { Cow::Borrowed(hint) }
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(if is_open(context.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_texts_are_told_apart() {
        let message = |text: &str| Typed::Message(text.to_owned());
        for (line, want) in [
            ("", Typed::Nothing),
            ("  ", Typed::Nothing),
            ("\"\"\"\"\"\"", Typed::Nothing),
            ("/help", Typed::Command("help".into())),
            ("/set temp 1 ", Typed::Command("set temp 1".into())),
            (" /etc/hosts is what?", message("/etc/hosts is what?")),
            ("\"\"\"\na\n\n  b\n\"\"\"", message("a\n\n  b")),
            ("\"\"\"one line\"\"\"", message("one line")),
            ("say \"hi\"", message("say \"hi\"")),
        ] {
            assert_eq!(understand(line), want, "{line:?}");
        }
    }

    #[test]
    fn quotes_stay_open_until_they_are_closed() {
        for (input, open) in [
            ("\"\"\"", true),
            ("\"\"\" a", true),
            ("\"\"\"a\nb\"\"\"", false),
            ("a \"\"\"", false),
            ("\"\"\"\n/help", true),
        ] {
            assert_eq!(is_open(input), open, "{input:?}");
        }
    }
}
