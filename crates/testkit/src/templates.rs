//! Chat templates: a conversation and options to a text, or to a refusal.

use std::collections::BTreeMap;
use std::ops::Range;

use mlxengine_engine::text::CivilTime;
use mlxengine_engine::{Capabilities, ChatTemplate, EngineError, ErrorKind, Message, RenderOptions};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::sheet::Sheet;
use crate::text::tokenizer;
use crate::{Case, Measure, Stop};

#[derive(Deserialize)]
struct Recording {
    now: String,
    #[serde(flatten)]
    others: Map<String, Value>,
    conversations: BTreeMap<String, Vec<Value>>,
    options: BTreeMap<String, Map<String, Value>>,
    cases: Vec<Rendering>,
}

#[derive(Deserialize)]
struct Rendering {
    conversation: String,
    option: String,
    text: Option<String>,
    error: Option<String>,
    message: Option<String>,
    generation_spans: Option<Vec<[usize; 2]>>,
}

pub(crate) fn check(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let recording: Recording = case.json("cases.json")?;
    let now = time(&recording.now)?;
    let roles = ["bos_token", "eos_token", "unk_token"];
    let special: BTreeMap<String, String> = roles
        .iter()
        .filter_map(|role| Some(((*role).to_owned(), recording.others.get(*role)?.as_str()?.to_owned())))
        .collect();
    let template = ChatTemplate::with_clock(&source(case)?, &special, move || now)?;
    sheet.check("render", || {
        Measure::worst(recording.cases.iter().map(|want| {
            let measure = match recording.conversations.get(&want.conversation).zip(recording.options.get(&want.option))
            {
                Some((messages, kwargs)) => render(&template, messages, &options(kwargs), want),
                None => Err(Stop::failed("its conversation or option was not recorded")),
            };
            (format!("{} {}", want.conversation, want.option), measure)
        }))
    });
    sheet.check("capabilities", || Ok(capabilities(&template, &recording.cases)));
    Ok(())
}

/// Whether what probing finds is what the recorded texts show.
fn capabilities(template: &ChatTemplate, cases: &[Rendering]) -> Measure {
    let text = |conversation: &str, option: &str| {
        let case = cases.iter().find(|case| case.conversation == conversation && case.option == option);
        case.and_then(|case| case.text.as_deref())
    };
    let shows =
        |conversation: &str, option: &str, word: &str| text(conversation, option).is_some_and(|t| t.contains(word));
    let begins = text("single", "gen").zip(text("single", "plain")).and_then(|(with, plain)| with.strip_prefix(plain));
    let switches = text("single", "think_off") != text("single", "think_on");
    let marks = cases.iter().any(|case| case.generation_spans.as_ref().is_some_and(|spans| !spans.is_empty()));
    let found = Capabilities::of(template);
    let switch = found.thinking.iter().any(|switch| switch.variable == "enable_thinking");
    let flags = [
        ("instructions", found.system, shows("system", "plain", "You are terse.")),
        ("tools", found.tools, shows("single", "tools", "get_weather")),
        // An argument of the call, for its name may stand before the result.
        ("calls", found.tool_calls, shows("tool_round", "plain", "ratio")),
        ("results", found.tool_results, shows("tool_round", "plain", "21")),
        ("thinking switch", switch, switches),
        ("marks of generation", found.marks_generation, marks),
    ];
    let begins = begins.filter(|text| !text.is_empty());
    flags
        .iter()
        .fold(Measure::equal("what begins an answer", &found.generation_prompt.as_deref(), &begins), |worst, flag| {
            worst.or_worse(Measure::equal(flag.0, &flag.1, &flag.2))
        })
}

fn source(case: &Case) -> Result<String, Stop> {
    let path = case.dir.join("template.jinja");
    std::fs::read_to_string(&path).map_err(|e| Stop::failed(format!("cannot read {}: {e}", path.display())))
}

/// `2025-03-09T14:05:06`.
fn time(text: &str) -> Result<CivilTime, Stop> {
    let numbers: Vec<u16> = text.split(['-', 'T', ':']).filter_map(|n| n.parse().ok()).collect();
    let [year, month, day, hour, minute, second] = numbers[..] else {
        return Err(Stop::failed(format!("{text:?} is no time")));
    };
    let [month, day, hour, minute, second] = [month, day, hour, minute, second].map(|n| n as u8);
    Ok(CivilTime { year: i32::from(year), month, day, hour, minute, second })
}

/// The keyword arguments of transformers' `apply_chat_template` as options.
fn options(kwargs: &Map<String, Value>) -> RenderOptions {
    let mut extra = kwargs.clone();
    let mut list = |key: &str| extra.shift_remove(key).and_then(|v| v.as_array().cloned());
    let (tools, documents) = (list("tools"), list("documents"));
    let mut flag = |key: &str| extra.shift_remove(key).is_some_and(|v| v == true);
    let (add_generation_prompt, continue_final_message) =
        (flag("add_generation_prompt"), flag("continue_final_message"));
    RenderOptions { tools, documents, add_generation_prompt, continue_final_message, extra }
}

fn render(
    template: &ChatTemplate,
    messages: &[Value],
    options: &RenderOptions,
    want: &Rendering,
) -> Result<Measure, Stop> {
    let got = template.render_values(messages.to_vec(), options);
    let (rendered, text) = match (got, &want.text) {
        (Ok(rendered), Some(text)) => (rendered, text),
        (Err(error), None) => return Ok(refusal(&error, want)),
        (got, _) => return Err(Stop::failed(format!("got {got:?}, want {:?} {:?}", want.text, want.error))),
    };
    let mut measure = Measure::equal("text", &rendered.text, text);
    if let Some(spans) = &want.generation_spans {
        // The recording counts what stands behind the cut of a continued message.
        let end = rendered.text.chars().count();
        let want: Vec<[usize; 2]> = spans.iter().map(|span| span.map(|at| at.min(end))).collect();
        measure =
            measure.or_worse(Measure::equal("spans", &characters(&rendered.text, &rendered.generation_spans), &want));
    }
    // Arguments given as a string become objects in typed messages, which is the point of them.
    let typed = Message::list_from_json(&Value::from(messages.to_vec()));
    if let (Ok(typed), true) = (typed, want.conversation != "tool_str_args") {
        measure = measure.or_worse(Measure::equal("typed messages", &template.render(&typed, options)?, text));
    }
    Ok(measure)
}

/// Refusals that a template words itself have its words.
fn refusal(error: &EngineError, want: &Rendering) -> Measure {
    match (&want.error, &want.message) {
        (Some(kind), Some(message)) if kind == "TemplateError" => {
            let raised = format!("the chat template refuses the conversation: {message}");
            Measure::equal("refusal", error.message(), raised.as_str())
        }
        _ => {
            let fits = matches!(error.kind(), ErrorKind::Template | ErrorKind::InvalidInput);
            Measure::equal("a refusal by the template or for the input", &fits, &true)
        }
    }
}

/// Byte ranges as character ranges.
fn characters(text: &str, spans: &[Range<usize>]) -> Vec<[usize; 2]> {
    spans.iter().map(|span| [span.start, span.end].map(|at| text[..at].chars().count())).collect()
}

#[derive(Deserialize)]
struct Defaults {
    conversations: BTreeMap<String, Value>,
    cases: Vec<Wrapped>,
}

#[derive(Deserialize)]
struct Wrapped {
    tokenizer: String,
    has_thinking: bool,
    conversation: String,
    kwargs: Map<String, Value>,
    text: String,
    ids: Vec<u32>,
}

/// Thinking is on where the vocabulary has markers for it, unless the caller says otherwise.
pub(crate) fn defaults(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let recording: Defaults = case.json("cases.json")?;
    let source = source(case)?;
    sheet.check("render", || {
        Measure::worst(recording.cases.iter().map(|want| {
            let name = format!("{} {} {:?}", want.tokenizer, want.conversation, want.kwargs);
            (name, default(case, &source, &recording, want))
        }))
    });
    Ok(())
}

fn default(case: &Case, source: &str, recording: &Defaults, want: &Wrapped) -> Result<Measure, Stop> {
    let tokenizer = tokenizer(&case.dir.join(format!("tokenizer_{}", want.tokenizer)))?;
    let thinking = tokenizer.think_markers().is_some();
    let mut options = options(&want.kwargs);
    options.extra.entry("enable_thinking").or_insert(thinking.into());
    let conversation = recording.conversations.get(&want.conversation);
    let messages =
        Message::list_from_json(conversation.ok_or_else(|| Stop::failed("the conversation was not recorded"))?)?;
    let text = ChatTemplate::new(source, tokenizer.special_tokens())?.render(&messages, &options)?;
    let ids = tokenizer.encode(&text, false)?;
    Ok(Measure::equal("thinking", &thinking, &want.has_thinking)
        .or_worse(Measure::equal("text", &text, &want.text))
        .or_worse(Measure::equal("ids", &ids, &want.ids)))
}
