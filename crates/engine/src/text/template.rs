//! Chat templates: a conversation to the text that the model was trained on.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind as JinjaKind, Value as JinjaValue};
use serde_json::{Map, Value, json};

use super::strftime::CivilTime;
use super::template_env::{Clock, FUEL, MARKS, Raised, environment, rewrite_generation};
use crate::error::{EngineError, ErrorKind, Result};
use crate::message::Message;

const NAME: &str = "chat_template";

/// Put behind the final message to find where its text ends in the rendering. Templates that measure the content see
/// it, so it is the reference implementation's, its trailing space included.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// What is rendered beside the messages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RenderOptions {
    /// Tools that the model may call, as OpenAI describes them.
    pub tools: Option<Vec<Value>>,
    /// Documents for templates that cite them.
    pub documents: Option<Vec<Value>>,
    /// End with the beginning of an assistant's turn.
    pub add_generation_prompt: bool,
    /// End inside the final message, so that the model continues it.
    pub continue_final_message: bool,
    /// Variables that the template knows, such as `enable_thinking`.
    pub extra: Map<String, Value>,
}

/// A rendered conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text, to be encoded without adding special tokens.
    pub text: String,
    /// The byte ranges that `{% generation %}` blocks wrote: what the model itself would say.
    pub generation_spans: Vec<Range<usize>>,
}

/// A compiled chat template.
///
/// Jinja as transformers sets it up: blocks trimmed, loop controls, `tojson` as `json.dumps` writes, `raise_exception`,
/// `strftime_now`, Python's methods on strings and dicts, and Python's way to print values. Iterating over nothing is
/// an empty loop here, and an error there. Fuel bounds the steps a template may take.
#[derive(Clone)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: Arc<str>,
    special: BTreeMap<String, String>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("source", &self.source).field("special", &self.special).finish()
    }
}

impl ChatTemplate {
    /// Compiles a template; `special_tokens` (`bos_token`, `eos_token`, …) are its variables. The clock is UTC.
    pub fn new(source: &str, special_tokens: &BTreeMap<String, String>) -> Result<Self> {
        Self::with_clock(source, special_tokens, CivilTime::now_utc)
    }

    /// The same with a clock of the caller's, for local time and for tests.
    pub fn with_clock(
        source: &str,
        special_tokens: &BTreeMap<String, String>,
        clock: impl Fn() -> CivilTime + Send + Sync + 'static,
    ) -> Result<Self> {
        let clock: Clock = Arc::new(clock);
        let mut env = environment(clock).map_err(explain)?;
        env.add_template_owned(NAME, rewrite_generation(source)).map_err(explain)?;
        Ok(ChatTemplate { env, source: source.into(), special: special_tokens.clone() })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// True if the template mentions the variable or marker `word`.
    pub fn mentions(&self, word: &str) -> bool {
        self.source.contains(word)
    }

    /// True if the template marks what the model says with `{% generation %}`.
    pub fn marks_generation(&self) -> bool {
        rewrite_generation(&self.source) != *self.source
    }

    /// Renders a conversation.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let values = messages.iter().map(Message::to_template_value).collect::<Result<Vec<_>>>()?;
        self.run(values, options, None).map(|rendered| rendered.text)
    }

    /// Renders a conversation and says which parts the model itself would say.
    pub fn render_with_spans(&self, messages: &[Message], options: &RenderOptions) -> Result<Rendered> {
        let values = messages.iter().map(Message::to_template_value).collect::<Result<Vec<_>>>()?;
        self.render_values(values, options)
    }

    /// Renders messages that are given as JSON, exactly as they are: any role, any keys.
    pub fn render_values(&self, messages: Vec<Value>, options: &RenderOptions) -> Result<Rendered> {
        let marks = if self.marks_generation() { Some(self.unused_marks(&messages, options)?) } else { None };
        self.run(messages, options, marks)
    }

    /// Two characters of the private use area that occur nowhere in what is rendered.
    fn unused_marks(&self, messages: &[Value], options: &RenderOptions) -> Result<[char; 2]> {
        let mut all = json!([messages, options.tools, options.documents, options.extra]).to_string();
        all.push_str(&self.source);
        all.extend(self.special.values().map(String::as_str));
        let mut free = ('\u{E000}'..='\u{F8FF}').filter(|c| !all.contains(*c));
        match (free.next(), free.next()) {
            (Some(open), Some(close)) => Ok([open, close]),
            _ => Err(EngineError::new(ErrorKind::InvalidInput, "the messages use all private use characters")),
        }
    }

    fn run(&self, mut messages: Vec<Value>, options: &RenderOptions, marks: Option<[char; 2]>) -> Result<Rendered> {
        let kept = match (options.continue_final_message, options.add_generation_prompt) {
            (false, _) => None,
            (true, false) => Some(tag_final_message(&mut messages)?),
            (true, true) => {
                return Err(EngineError::new(
                    ErrorKind::InvalidParameter,
                    "continue_final_message and add_generation_prompt exclude each other",
                ));
            }
        };
        let mut context: Map<String, Value> = Map::new();
        context.extend(self.special.iter().map(|(role, text)| (role.clone(), Value::from(text.as_str()))));
        context.extend(options.extra.iter().map(|(name, value)| (name.clone(), value.clone())));
        context.insert("messages".to_owned(), messages.into());
        context.insert("tools".to_owned(), options.tools.clone().into());
        context.insert("documents".to_owned(), options.documents.clone().into());
        context.insert("add_generation_prompt".to_owned(), options.add_generation_prompt.into());
        if let Some(marks) = marks {
            context.insert(MARKS.to_owned(), marks.iter().collect::<String>().into());
        }
        let template = self.env.get_template(NAME).map_err(explain)?;
        let text = template.render(JinjaValue::from(Serde(context))).map_err(explain)?;
        let mut rendered = match marks {
            Some(marks) => take_marks(&text, marks),
            None => Rendered { text, generation_spans: Vec::new() },
        };
        if let Some(kept) = kept {
            cut_after_final_message(&mut rendered, &kept)?;
        }
        Ok(rendered)
    }
}

/// Appends the tag to the last text of the final message and returns that text.
fn tag_final_message(messages: &mut [Value]) -> Result<String> {
    let nothing =
        |what: &str| EngineError::new(ErrorKind::InvalidInput, format!("cannot continue the final message: {what}"));
    let last = messages.last_mut().ok_or_else(|| nothing("there are no messages"))?;
    let text = match last.get_mut("content") {
        Some(text @ Value::String(_)) => Some(text),
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        _ => None,
    };
    match text {
        Some(Value::String(text)) => {
            let original = text.clone();
            text.push_str(CONTINUE_TAG);
            Ok(original)
        }
        _ => Err(nothing("it has no text")),
    }
}

/// Cuts the rendering where the final message ends.
fn cut_after_final_message(rendered: &mut Rendered, final_text: &str) -> Result<()> {
    let tag = CONTINUE_TAG.trim_end();
    let found = rendered.text.rfind(tag).filter(|_| rendered.text.contains(final_text.trim()));
    let Some(at) = found else {
        return Err(EngineError::new(
            ErrorKind::InvalidInput,
            "cannot continue the final message: the chat template does not render its text",
        ));
    };
    let spaced = rendered.text[at..].starts_with(CONTINUE_TAG);
    rendered.text.truncate(at);
    if !spaced {
        // The template trims contents, so the text before the tag is trimmed as the message alone would be.
        rendered.text.truncate(rendered.text.trim_end().len());
    }
    let end = rendered.text.len();
    rendered.generation_spans.retain_mut(|span| {
        span.end = span.end.min(end);
        span.start <= span.end
    });
    Ok(())
}

/// Takes the marks out of the text and notes where they were.
fn take_marks(text: &str, [open, close]: [char; 2]) -> Rendered {
    let mut out = Rendered { text: String::with_capacity(text.len()), generation_spans: Vec::new() };
    let mut start = None;
    for c in text.chars() {
        if c == open {
            start.get_or_insert(out.text.len());
        } else if c == close {
            out.generation_spans.extend(start.take().map(|start| start..out.text.len()));
        } else {
            out.text.push(c);
        }
    }
    out
}

/// The template's own words if it refused, else what failed and in which line.
fn explain(error: minijinja::Error) -> EngineError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref::<Raised>() {
            let message = format!("the chat template refuses the conversation: {message}");
            return EngineError::new(ErrorKind::Template, message).with_source(error);
        }
        cause = current.source();
    }
    let line = error.line().map(|line| format!(" in line {line}")).unwrap_or_default();
    let detail = error.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    let message = match error.kind() {
        JinjaKind::OutOfFuel => format!("the chat template takes more than {FUEL} steps{line}"),
        JinjaKind::SyntaxError => format!("the chat template does not compile{line}{detail}"),
        kind => format!("the chat template fails{line}: {kind}{detail}"),
    };
    EngineError::new(ErrorKind::Template, message).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> Result<ChatTemplate> {
        let noon = CivilTime { year: 2026, month: 1, day: 2, hour: 12, minute: 0, second: 0 };
        let special = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
        ChatTemplate::with_clock(source, &special, move || noon)
    }

    #[track_caller]
    fn render(source: &str, messages: &[Message], options: &RenderOptions) -> String {
        template(source).and_then(|t| t.render(messages, options)).unwrap_or_else(|e| format!("error: {e}"))
    }

    #[test]
    fn sees_tokens_clock_tools_and_extras() {
        let mut options = RenderOptions { add_generation_prompt: true, ..Default::default() };
        options.extra.insert("enable_thinking".to_owned(), false.into());
        let source = "{{ bos_token }}{{ strftime_now('%d %b') }}{{ tools is none }}{{ enable_thinking }}{{ messages[0].x }}\
                      {{ add_generation_prompt }}{{ eos_token }}";
        let mut message = Message::user("a");
        message.extra.insert("x".to_owned(), 7.into());
        assert_eq!(render(source, &[message], &options), "<s>02 JanTrueFalse7True");
    }

    #[test]
    fn errors_say_what_and_where() {
        let none = RenderOptions::default();
        for (source, want) in [
            (
                "\n{{ raise_exception('roles must ' + 'alternate') }}",
                "the chat template refuses the conversation: roles must alternate",
            ),
            (
                "{% macro f() %}{{ raise_exception('inside') }}{% endmacro %}{{ f() }}",
                "the chat template refuses the conversation: inside",
            ),
            ("a\n{{ messages[0].content + 1 }}", "the chat template fails in line 2: invalid operation"),
            ("a\nb\n{% if %}", "the chat template does not compile in line 3"),
            (
                "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
                "the chat template takes more than 20000000 steps",
            ),
        ] {
            let got = render(source, &[Message::user("a")], &none);
            assert!(got.starts_with(&format!("error: {want}")), "{got}");
        }
    }

    #[test]
    fn continues_a_final_message_where_it_ends() {
        let options = RenderOptions { continue_final_message: true, ..Default::default() };
        let messages = [Message::user("q"), Message::assistant("so far ")];
        let plain = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
        let trimmed = "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}";
        assert_eq!(render(plain, &messages, &options), "<q><so far ");
        assert_eq!(render(trimmed, &messages, &options), "<q><so far");
        assert!(render("x", &messages, &options).contains("does not render"));
        assert!(render(plain, &[], &options).contains("no messages"));
        let both = RenderOptions { add_generation_prompt: true, ..options };
        assert!(render(plain, &messages, &both).contains("exclude each other"));
    }

    #[test]
    fn spans_are_bytes_and_marks_leave_no_trace() {
        let source = "{% for m in messages %}é{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}";
        let template = template(source).unwrap();
        let messages = [Message::assistant("\u{E000}ü"), Message::assistant("")];
        let rendered = template.render_with_spans(&messages, &RenderOptions::default()).unwrap();
        assert_eq!(rendered.text, "é\u{E000}ü|é|");
        assert_eq!(rendered.generation_spans, [2..7, 10..10]);
        assert_eq!(template.render(&messages, &RenderOptions::default()).unwrap(), rendered.text);
    }
}
