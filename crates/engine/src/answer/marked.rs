//! Answers in which markers set off thoughts and calls.

use super::format::{CallSyntax, ReasoningMarkers, ToolFormat};
use super::markers::{Seen, first};
use super::tools::Tools;
use super::{Found, body::Fault};

/// Takes such an answer apart.
#[derive(Debug, Clone)]
pub(super) struct Marked {
    reasoning: Option<ReasoningMarkers>,
    response: Option<(&'static str, &'static str)>,
    calls: Option<(ToolFormat, Tools)>,
    mode: Mode,
    /// Text that has not been decided.
    held: String,
    /// Blank space that is text only if text follows.
    blank: String,
    /// Markers around calls that are dropped if a call follows, and text otherwise.
    section: String,
    /// Nothing but blank space since the answer began, a thought ended or a call ended: that space means nothing.
    edge: bool,
    /// No text and no call yet: here a call may come without markers.
    fresh: bool,
    /// The prompt has begun the thoughts, and the model has said nothing yet.
    restart: bool,
    /// Where the end marker stood at which the call was not complete yet, as inside a text: it may have been the end.
    skipped: Option<usize>,
    /// A response's opening marker was seen.
    responding: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Reasoning,
    Text,
    /// In a call of this syntax, in whose text no end was found before this place.
    Call(CallSyntax, usize),
}

/// What a marker in the text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marker {
    ReasoningStart,
    SectionStart,
    SectionEnd,
    Call(CallSyntax),
    ResponseStart,
    ResponseEnd,
}

impl Marked {
    pub(super) fn new(
        reasoning: Option<ReasoningMarkers>,
        response: Option<(&'static str, &'static str)>,
        calls: Option<(ToolFormat, Tools)>,
        inside_reasoning: bool,
    ) -> Self {
        let mode = if inside_reasoning && reasoning.is_some() { Mode::Reasoning } else { Mode::Text };
        Self {
            // Text that stands in front of an answer without markers belongs to it, its blank space too.
            edge: mode == Mode::Reasoning,
            restart: mode == Mode::Reasoning,
            skipped: None,
            responding: response.is_some_and(|(open, _)| open.is_empty()),
            reasoning,
            response,
            calls,
            mode,
            held: String::new(),
            blank: String::new(),
            section: String::new(),
            fresh: true,
        }
    }

    /// Takes more text; `last` says that no more comes.
    pub(super) fn push(&mut self, text: &str, last: bool) -> Vec<Found> {
        self.held.push_str(text);
        let mut found = Vec::new();
        loop {
            let goes_on = match self.mode {
                Mode::Reasoning => self.reasoning_step(last, &mut found),
                Mode::Text => self.text_step(last, &mut found),
                Mode::Call(syntax, searched) => self.call_step(syntax, searched, last, &mut found),
            };
            if !goes_on {
                break;
            }
        }
        if last {
            self.end(&mut found);
        }
        found
    }

    fn reasoning_step(&mut self, last: bool, found: &mut Vec<Found>) -> bool {
        let Some(markers) = self.reasoning.clone() else { return false };
        if self.restart {
            // The prompt has begun the thoughts, and the model may do it again.
            let start = self.held.trim_start();
            if let Some(rest) = start.strip_prefix(markers.start.as_str()) {
                self.held = rest.to_owned();
            } else if !last && markers.start.starts_with(start) {
                return false;
            }
            self.restart = false;
        }
        match first(&self.held, &[&markers.end], last) {
            Seen::Clear(at) => {
                let text = take(&mut self.held, at);
                self.think(&text, found);
                false
            }
            Seen::At(at, _) => {
                let text = take(&mut self.held, at);
                self.think(&text, found);
                take(&mut self.held, markers.end.len());
                self.blank.clear();
                (self.mode, self.edge) = (Mode::Text, true);
                true
            }
        }
    }

    /// Gives out thoughts; blank space around them means nothing.
    fn think(&mut self, text: &str, found: &mut Vec<Found>) {
        let text = self.without_edge(text);
        if let Some(text) = self.with_blank(text) {
            push(found, Found::Reasoning(text));
        }
    }

    /// The text without the blank space at an edge.
    fn without_edge<'t>(&mut self, text: &'t str) -> &'t str {
        if !self.edge {
            return text;
        }
        let text = text.trim_start();
        self.edge = text.is_empty();
        text
    }

    /// The text with the blank space before it, and without that after it, which waits. `None` if there is only such.
    fn with_blank(&mut self, text: &str) -> Option<String> {
        let solid = text.trim_end();
        if solid.is_empty() {
            self.blank.push_str(text);
            return None;
        }
        let whole = std::mem::take(&mut self.blank) + solid;
        self.blank.push_str(&text[solid.len()..]);
        Some(whole)
    }

    fn markers(&self) -> (Vec<&'static str>, Vec<Marker>) {
        let (mut texts, mut meanings) = (Vec::new(), Vec::new());
        let mut add = |text: &'static str, meaning: Marker| {
            if !text.is_empty() {
                texts.push(text);
                meanings.push(meaning);
            }
        };
        if let Some((format, _)) = &self.calls {
            if let Some((open, close)) = format.section {
                add(open, Marker::SectionStart);
                add(close, Marker::SectionEnd);
            }
            for syntax in format.calls {
                add(syntax.open, Marker::Call(*syntax));
            }
        }
        if let Some((open, close)) = self.response {
            add(open, Marker::ResponseStart);
            add(close, Marker::ResponseEnd);
        }
        (texts, meanings)
    }

    fn text_step(&mut self, last: bool, found: &mut Vec<Found>) -> bool {
        if self.fresh
            && let Some(decided) = self.bare_call(last)
        {
            return decided;
        }
        let (mut texts, mut meanings) = self.markers();
        let start = self.reasoning.as_ref().map(|markers| markers.start.clone());
        let mut all: Vec<&str> = std::mem::take(&mut texts);
        if let Some(start) = &start {
            all.push(start);
            meanings.push(Marker::ReasoningStart);
        }
        match first(&self.held, &all, last) {
            Seen::Clear(at) => {
                let text = take(&mut self.held, at);
                self.say(&text, found);
                false
            }
            Seen::At(at, index) => {
                let length = all[index].len();
                let text = take(&mut self.held, at);
                self.say(&text, found);
                let marker = take(&mut self.held, length);
                self.meet(meanings[index], &marker, found);
                true
            }
        }
    }

    /// Whether the answer is a call without markers. `None` if it is not; else whether to go on.
    fn bare_call(&mut self, last: bool) -> Option<bool> {
        let (format, tools) = self.calls.as_ref()?;
        let bare = format.calls.iter().filter(|syntax| syntax.open.is_empty());
        let mut undecided = false;
        for syntax in bare {
            match syntax.body.begins(&self.held) {
                Some(true) if tools.names().next().is_some() => {
                    self.mode = Mode::Call(*syntax, 0);
                    return Some(true);
                }
                Some(_) => {}
                None => undecided = true,
            }
        }
        (undecided && !last).then_some(false)
    }

    /// Gives out text of the answer.
    fn say(&mut self, text: &str, found: &mut Vec<Found>) {
        if !self.section.is_empty() {
            if text.trim().is_empty() {
                self.section.push_str(text);
                return;
            }
            // The markers were no markers.
            let section = std::mem::take(&mut self.section);
            self.edge = false;
            push(found, Found::Text(std::mem::take(&mut self.blank) + &section));
        }
        let text = self.without_edge(text);
        if let Some(text) = self.with_blank(text) {
            self.fresh = false;
            push(found, Found::Text(text));
        }
    }

    fn meet(&mut self, marker: Marker, text: &str, found: &mut Vec<Found>) {
        match marker {
            // In the middle of text it is what somebody writes about.
            Marker::ReasoningStart if !self.edge && !self.fresh => self.say(text, found),
            Marker::ReasoningStart => {
                let section = std::mem::take(&mut self.section);
                if !section.is_empty() {
                    push(found, Found::Text(std::mem::take(&mut self.blank) + &section));
                }
                self.blank.clear();
                (self.mode, self.edge) = (Mode::Reasoning, true);
            }
            Marker::SectionStart => {
                self.section.push_str(text);
            }
            // At an edge it closes the section of the calls before it.
            Marker::SectionEnd if self.edge && !self.fresh && self.section.is_empty() => {}
            Marker::ResponseStart if self.edge || self.fresh => {
                self.blank.clear();
                (self.responding, self.edge) = (true, true);
            }
            Marker::ResponseEnd if self.responding => {
                self.blank.clear();
                (self.responding, self.edge) = (false, true);
            }
            Marker::SectionEnd | Marker::ResponseStart | Marker::ResponseEnd => self.say(text, found),
            Marker::Call(syntax) => self.mode = Mode::Call(syntax, 0),
        }
    }

    fn call_step(&mut self, syntax: CallSyntax, searched: usize, last: bool, found: &mut Vec<Found>) -> bool {
        // Where nothing closes a call, the next one does.
        let end = if syntax.close.is_empty() { syntax.open } else { syntax.close };
        let ended = if end.is_empty() { None } else { self.held[searched..].find(end) };
        let Some(ended) = ended.map(|at| at + searched) else {
            let from = super::markers::unfinished(&self.held, &[end]);
            self.mode = Mode::Call(syntax, from);
            if last {
                self.last_call(syntax, found);
            }
            return last;
        };
        let body = &self.held[..ended];
        let used = if syntax.close.is_empty() { ended } else { ended + end.len() };
        match self.parse(&syntax, body) {
            Err(Fault::Unfinished(_)) => {
                self.skipped.get_or_insert(used);
                self.mode = Mode::Call(syntax, ended + end.len());
            }
            Ok((calls, length)) if body[length..].trim().is_empty() => {
                found.extend(calls.into_iter().map(Found::Call));
                self.leave_call(used);
            }
            result => {
                let reason = result.map_or_else(Fault::reason, |_| "text follows the call".to_owned());
                self.broken(&syntax, used, reason, found);
            }
        }
        true
    }

    fn parse(&self, syntax: &CallSyntax, body: &str) -> super::body::Parsed {
        match &self.calls {
            Some((_, tools)) => syntax.body.parse(body, tools),
            None => Err(Fault::Wrong("there are no tools".to_owned())),
        }
    }

    /// The answer ended in a call.
    fn last_call(&mut self, syntax: CallSyntax, found: &mut Vec<Found>) {
        let parsed = match syntax.close.is_empty() || syntax.body.ends_itself() {
            true => self.parse(&syntax, &self.held),
            false => Err(Fault::Unfinished(format!("the answer ends before `{}`", syntax.close))),
        };
        match parsed {
            Ok((calls, length)) if self.are_known(&syntax, &calls) => {
                found.extend(calls.into_iter().map(Found::Call));
                self.leave_call(length);
            }
            // Without markers it was an answer that only looked like a call.
            _ if syntax.open.is_empty() => {
                (self.mode, self.fresh) = (Mode::Text, false);
            }
            result => {
                let reason = result.map_or_else(Fault::reason, |_| "there is no such tool".to_owned());
                self.broken(&syntax, self.held.len(), reason, found);
            }
        }
    }

    /// A call without markers counts only if there is such a tool.
    fn are_known(&self, syntax: &CallSyntax, calls: &[super::Call]) -> bool {
        let known = |name: &str| self.calls.as_ref().is_some_and(|(_, tools)| tools.names().any(|known| known == name));
        !syntax.open.is_empty() || calls.iter().all(|call| known(&call.name))
    }

    fn leave_call(&mut self, used: usize) {
        take(&mut self.held, used);
        self.skipped = None;
        self.blank.clear();
        self.section.clear();
        (self.mode, self.edge, self.fresh) = (Mode::Text, true, false);
    }

    /// What was held up to `end` is no call; the first end marker that was passed over ends it.
    fn broken(&mut self, syntax: &CallSyntax, end: usize, reason: String, found: &mut Vec<Found>) {
        let text = take(&mut self.held, self.skipped.take().unwrap_or(end));
        let before = std::mem::take(&mut self.blank) + &std::mem::take(&mut self.section);
        found.push(Found::Broken { text: before + syntax.open + &text, reason });
        (self.mode, self.edge, self.fresh) = (Mode::Text, false, false);
    }

    /// Gives out what was held back.
    fn end(&mut self, found: &mut Vec<Found>) {
        if !self.section.is_empty() {
            let text = std::mem::take(&mut self.blank) + &std::mem::take(&mut self.section);
            found.push(Found::Broken { text, reason: "the answer ends where a call is due".to_owned() });
        }
        let blank = std::mem::take(&mut self.blank);
        match self.mode {
            Mode::Text if !blank.is_empty() && !self.edge => push(found, Found::Text(blank)),
            _ => {}
        }
    }
}

/// Cuts the first `length` bytes off.
fn take(text: &mut String, length: usize) -> String {
    let rest = text.split_off(length);
    std::mem::replace(text, rest)
}

/// Adds what was found to its like.
fn push(found: &mut Vec<Found>, new: Found) {
    match (found.last_mut(), new) {
        (Some(Found::Text(text)), Found::Text(more)) | (Some(Found::Reasoning(text)), Found::Reasoning(more)) => {
            text.push_str(&more);
        }
        (_, new) => found.push(new),
    }
}
