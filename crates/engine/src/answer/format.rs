//! How a checkpoint writes thoughts and calls, found from its template and vocabulary.

use super::body::{Body, Keys, Separators};
use super::tagged::{Attribute, Pairs, Tags};
use crate::text::Tokenizer;

/// How a checkpoint writes its answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AnswerFormat {
    /// Text alone.
    #[default]
    Plain,
    /// Text in which markers set off thoughts and calls.
    Marked {
        /// Around thoughts.
        reasoning: Option<ReasoningMarkers>,
        /// Around the answer after them; the first may be empty.
        response: Option<(&'static str, &'static str)>,
        /// Calls of tools.
        tools: Option<ToolFormat>,
    },
    /// Messages in channels: `<|channel|>analysis<|message|>…<|end|>`.
    Channels,
}

/// The markers around thoughts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasoningMarkers {
    /// Begins them.
    pub start: String,
    /// Ends them.
    pub end: String,
}

/// A way to write calls of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToolFormat {
    /// Its name, as in mlx-lm's `tool_parser_type` where that has one.
    pub name: &'static str,
    /// Templates that have all of one of these lists write calls so.
    told_by: &'static [&'static [&'static str]],
    /// Vocabularies that have all of these tokens do, too.
    vocabulary: &'static [&'static str],
    /// Markers around all calls of an answer, beside those of each; models leave them out now and then.
    pub section: Option<(&'static str, &'static str)>,
    /// The ways to write one call, or a list of them.
    pub calls: &'static [CallSyntax],
}

/// Markers, and what stands between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallSyntax {
    /// Begins a call; empty if an answer that is a call just begins so.
    pub open: &'static str,
    /// Ends it; empty if the answer's end does.
    pub close: &'static str,
    /// What is between.
    pub body: Body,
    /// How a model writes several calls; all ways are read.
    pub several: Several,
}

/// How several calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Several {
    /// Each between its own markers.
    Apart,
    /// In one list; one call is a list, too.
    List,
    /// Between the same markers, each in a line.
    Lines,
}

const fn call(open: &'static str, close: &'static str, body: Body) -> CallSyntax {
    CallSyntax { open, close, body, several: Several::Apart }
}

const fn calls(open: &'static str, close: &'static str, body: Body, several: Several) -> CallSyntax {
    CallSyntax { open, close, body, several }
}

/// The keys of most formats.
const JSON: Body = Body::Json(Keys { id: None, name: "name", arguments: "arguments" });
/// Those of some older ones.
const PARAMETERS: Body = Body::Json(Keys { id: None, name: "name", arguments: "parameters" });
/// Those of Command R's, of which later ones count the calls.
const TOOL_NAME: Body = Body::Json(Keys { id: None, name: "tool_name", arguments: "parameters" });
const TOOL_NAME_ID: Body = Body::Json(Keys { id: Some("tool_call_id"), name: "tool_name", arguments: "parameters" });

const fn format(
    name: &'static str,
    told_by: &'static [&'static [&'static str]],
    section: Option<(&'static str, &'static str)>,
    calls: &'static [CallSyntax],
) -> ToolFormat {
    ToolFormat { name, told_by, vocabulary: &[], section, calls }
}

/// Tags with names between these texts.
const fn tags(argument: &'static str, argument_end: &'static str, name: (&'static str, &'static str)) -> Body {
    Body::Tagged(untyped(argument, argument_end, name))
}

const fn untyped(argument: &'static str, argument_end: &'static str, name: (&'static str, &'static str)) -> Tags {
    let (key, attribute) = (name, None);
    Tags { head_end: ">", argument, argument_end, object: None, name, key, attribute, numbered: false }
}

const QUOTES: (&str, &str) = ("\"", "\"");

/// `<function=name>`, with arguments in tags or as JSON.
const FUNCTION_TAG: CallSyntax = call("<function=", "</function>", tags("<parameter=", "</parameter>", ("", "")));

/// Every known format, the most telling first.
pub const TOOL_FORMATS: [ToolFormat; 29] = [
    format(
        "minimax_m2",
        &[&["<minimax:tool_call>"]],
        Some(("<minimax:tool_call>", "</minimax:tool_call>")),
        &[call("<invoke name=", "</invoke>", tags("<parameter name=", "</parameter>", QUOTES))],
    ),
    format(
        "dsml",
        &[&["｜DSML｜"]],
        Some(("<｜DSML｜function_calls>", "</｜DSML｜function_calls>")),
        &[call(
            "<｜DSML｜invoke name=",
            "</｜DSML｜invoke>",
            Body::Tagged(Tags {
                attribute: Some(Attribute::String),
                ..untyped("<｜DSML｜parameter name=", "</｜DSML｜parameter>", QUOTES)
            }),
        )],
    ),
    format(
        "gemma4",
        &[&["<|tool_call>", "<tool_call|>"]],
        None,
        &[call("<|tool_call>", "<tool_call|>", Body::Braces("<|\"|>"))],
    ),
    format(
        "function_gemma",
        &[&["<start_function_call>"]],
        None,
        &[call("<start_function_call>", "<end_function_call>", Body::Braces("<escape>"))],
    ),
    format(
        "longcat",
        &[&["<longcat_tool_call>"]],
        None,
        &[call(
            "<longcat_tool_call>",
            "</longcat_tool_call>",
            Body::Pairs(Pairs {
                key: ("<longcat_arg_key>", "</longcat_arg_key>"),
                value: ("<longcat_arg_value>", "</longcat_arg_value>"),
            }),
        )],
    ),
    format(
        "glm47",
        &[&["<arg_key>"]],
        None,
        &[call(
            "<tool_call>",
            "</tool_call>",
            Body::Pairs(Pairs { key: ("<arg_key>", "</arg_key>"), value: ("<arg_value>", "</arg_value>") }),
        )],
    ),
    ToolFormat {
        vocabulary: &["<|tool_call_start|>", "<|tool_call_end|>"],
        ..format(
            "pythonic",
            &[&["<|tool_list_start|>"], &["<|tool_call_start|>"]],
            None,
            &[calls("<|tool_call_start|>", "<|tool_call_end|>", Body::Python, Several::List)],
        )
    },
    format("seed_oss", &[&["<seed:tool_call>"]], Some(("<seed:tool_call>", "</seed:tool_call>")), &[FUNCTION_TAG]),
    format("qwen3_coder", &[&["<function=", "<parameter="]], Some(("<tool_call>", "</tool_call>")), &[FUNCTION_TAG]),
    format(
        "kimi_k2",
        &[&["<|tool_calls_section_begin|>"]],
        Some(("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")),
        &[call(
            "<|tool_call_begin|>",
            "<|tool_call_end|>",
            Body::Named(Separators::Indexed("<|tool_call_argument_begin|>")),
        )],
    ),
    ToolFormat {
        vocabulary: &["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"],
        ..format(
            "kimi_k3",
            &[&["<|open|>tools<|sep|>"]],
            Some(("<|open|>tools<|sep|>", "<|close|>tools<|sep|>")),
            &[call(
                "<|open|>call ",
                "<|close|>call<|sep|>",
                Body::Tagged(Tags {
                    head_end: "<|sep|>",
                    argument: "<|open|>argument ",
                    argument_end: "<|close|>argument<|sep|>",
                    object: Some(("<|open|>json", "<|close|>json<|sep|>")),
                    name: ("tool=\"", "\""),
                    key: ("key=\"", "\""),
                    attribute: Some(Attribute::Type),
                    numbered: true,
                }),
            )],
        )
    },
    format(
        "mistral",
        &[&["[TOOL_CALLS]"]],
        None,
        &[call("[TOOL_CALLS]", "", Body::Named(Separators::NameId("[CALL_ID]", "[ARGS]")))],
    ),
    format(
        "deepseek",
        &[&["<｜tool▁calls▁begin｜>"], &["<｜tool▁call▁begin｜>"]],
        Some(("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")),
        &[call("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", Body::Named(Separators::Typed("<｜tool▁sep｜>")))],
    ),
    format(
        "minicpm5",
        &[&["<function name=\"", "<param name=\""]],
        None,
        &[call("<function name=", "</function>", tags("<param name=", "</param>", QUOTES))],
    ),
    format(
        "muse_spark",
        &[&["<atem:function_calls>"]],
        Some(("<atem:function_calls>", "</atem:function_calls>")),
        &[call("<atem:invoke", "</atem:invoke>", tags("<atem:parameter", "</atem:parameter>", (" name=\"", "\"")))],
    ),
    format(
        "command_r",
        &[&["<|START_ACTION|>"]],
        None,
        &[calls("<|START_ACTION|>", "<|END_ACTION|>", TOOL_NAME_ID, Several::List)],
    ),
    format(
        "command_r_action",
        &[&["Action:", "```json", "tool_name"]],
        None,
        &[calls("Action:", "", TOOL_NAME, Several::List)],
    ),
    format(
        "internlm",
        &[&["<|action_start|>"]],
        None,
        &[call("<|action_start|><|plugin|>", "<|action_end|>", PARAMETERS)],
    ),
    format(
        "apertus",
        &[&["<|tools_prefix|>"]],
        None,
        &[calls("<|tools_prefix|>", "<|tools_suffix|>", Body::KeyedJson, Several::List)],
    ),
    format(
        "solar",
        &[&["<|tool_call:begin|>"]],
        Some(("<|tool_calls|>", "")),
        &[call(
            "<|tool_call:begin|>",
            "<|tool_call:end|>",
            Body::Named(Separators::IdName("<|tool_call:name|>", "<|tool_call:args|>")),
        )],
    ),
    format("tool_calls", &[&["<tool_calls>"]], None, &[calls("<tool_calls>", "</tool_calls>", JSON, Several::List)]),
    format("nemotron", &[&["<TOOLCALL>"]], None, &[calls("<TOOLCALL>", "</TOOLCALL>", JSON, Several::List)]),
    format(
        "olmo3",
        &[&["<function_calls>"]],
        None,
        &[calls("<function_calls>", "</function_calls>", Body::Python, Several::Lines)],
    ),
    format(
        "phi4",
        &[&["<|tool_call|>", "<|/tool_call|>"]],
        None,
        &[calls("<|tool_call|>", "<|/tool_call|>", JSON, Several::List), call("functools", "", JSON)],
    ),
    format(
        "granite",
        &[&["<|tool_call|>"]],
        None,
        &[calls("<|tool_call|>", "", JSON, Several::List), call("<tool_call>", "</tool_call>", JSON)],
    ),
    format("json_tools", &[&["<tool_call>"]], None, &[call("<tool_call>", "</tool_call>", JSON)]),
    format("gigachat", &[&["function call<|role_sep|>"]], None, &[call("function call<|role_sep|>", "", JSON)]),
    format(
        "llama4_pythonic",
        &[&["[func_name1("]],
        None,
        &[
            calls("<|python_start|>", "<|python_end|>", Body::Python, Several::List),
            calls("", "", Body::Python, Several::List),
        ],
    ),
    format(
        "llama3_json",
        &[&["<|python_tag|>"], &["\"parameters\": dictionary of argument name"], &["<|python_start|>"]],
        None,
        &[
            call("<|python_tag|>", "", PARAMETERS),
            call("<|python_start|>", "<|python_end|>", Body::Python),
            call("<function=", "</function>", Body::Named(Separators::Name(">"))),
            call("", "", PARAMETERS),
            call("", "", Body::Python),
        ],
    ),
];

/// Markers around thoughts, and what tells that a template uses them.
const REASONING: [(&str, &str); 9] = [
    ("<think>", "</think>"),
    ("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("Here is my thought process:", "Here is my response:"),
    ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
];

/// Markers around answers.
const RESPONSES: [(&str, &str); 5] = [
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
    ("<|open|>response<|sep|>", "<|close|>response<|sep|>"),
    ("<response>", "</response>"),
    ("<answer>", "</answer>"),
    ("", "[END FINAL RESPONSE]"),
];

impl ToolFormat {
    /// The format of this name; some names of other programs are understood.
    pub fn named(name: &str) -> Option<ToolFormat> {
        let name = match name {
            "hermes" | "json" => "json_tools",
            "laguna" => "glm47",
            name => name,
        };
        TOOL_FORMATS.into_iter().find(|format| format.name == name)
    }

    /// The format that a template shows, or else a vocabulary that was made for one.
    pub fn detect(template: &str, tokenizer: &Tokenizer) -> Option<ToolFormat> {
        let shows = |format: &&ToolFormat| format.told_by.iter().any(|all| all.iter().all(|m| template.contains(m)));
        let has = |token: &str| tokenizer.token_to_id(token).is_some();
        let made_for = |format: &&ToolFormat| !format.vocabulary.is_empty() && format.vocabulary.iter().all(|t| has(t));
        TOOL_FORMATS.iter().find(shows).or_else(|| TOOL_FORMATS.iter().find(made_for)).copied()
    }
}

impl AnswerFormat {
    /// How a model with this template and vocabulary writes its answers; calls as `declared`, if the checkpoint says how.
    pub fn detect(template: &str, tokenizer: &Tokenizer, declared: Option<ToolFormat>) -> Self {
        if declared.is_none() && template.contains("<|channel|>") && template.contains("<|message|>") {
            return AnswerFormat::Channels;
        }
        let reasoning = reasoning(template, tokenizer);
        // Without these words a template has examples of an answer at most, and `<answer>` is a common tag.
        let response = RESPONSES.into_iter().find(|(_, close)| reasoning.is_some() && template.contains(close));
        let tools = declared.or_else(|| ToolFormat::detect(template, tokenizer));
        match (&reasoning, &tools) {
            (None, None) => AnswerFormat::Plain,
            _ => AnswerFormat::Marked { reasoning, response, tools },
        }
    }

    /// The markers around thoughts.
    pub fn reasoning(&self) -> Option<ReasoningMarkers> {
        match self {
            AnswerFormat::Plain => None,
            AnswerFormat::Marked { reasoning, .. } => reasoning.clone(),
            AnswerFormat::Channels => Some(ReasoningMarkers {
                start: "<|channel|>analysis<|message|>".to_owned(),
                end: "<|channel|>final<|message|>".to_owned(),
            }),
        }
    }

    /// What ends thoughts that were begun, and begins the answer.
    pub fn reasoning_end(&self) -> Option<String> {
        let markers = self.reasoning()?;
        Some(match self {
            // Thoughts are a message of their own.
            AnswerFormat::Channels => format!("<|end|><|start|>assistant{}", markers.end),
            _ => markers.end,
        })
    }

    /// The way to write calls.
    pub fn tools(&self) -> Option<&ToolFormat> {
        match self {
            AnswerFormat::Marked { tools, .. } => tools.as_ref(),
            _ => None,
        }
    }

    /// Whether a prompt that ends so has begun the thoughts of the answer.
    pub fn begins_reasoning(&self, prompt: &str) -> bool {
        match self {
            AnswerFormat::Marked { reasoning: Some(markers), .. } => {
                prompt.trim_end().ends_with(markers.start.trim_end())
            }
            _ => false,
        }
    }
}

fn reasoning(template: &str, tokenizer: &Tokenizer) -> Option<ReasoningMarkers> {
    let written = REASONING.into_iter().find(|(_, end)| template.contains(end));
    let markers = |(start, end): (&str, &str)| ReasoningMarkers { start: start.to_owned(), end: end.to_owned() };
    let in_vocabulary = || tokenizer.think_markers().map(|m| ReasoningMarkers { start: m.start, end: m.end });
    written.map(markers).or_else(in_vocabulary)
}
