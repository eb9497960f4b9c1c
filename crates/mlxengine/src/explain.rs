//! From a conversation to tokens, and what a checkpoint's template can do.

use mlxengine_engine::text::probe::{Parting, parting};
use mlxengine_engine::{AnswerFormat, Capabilities, LoadedModel, Message, RenderOptions, Result, Role};
use serde::Serialize;

use crate::configuration::EndTokenInfo;
use crate::engine::{InferenceEngine, LlmEngine};

/// A token of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenPiece {
    /// Its id.
    pub id: u32,
    /// Its entry in the vocabulary.
    pub token: String,
    /// Whether it is one of those that no text contains.
    pub special: bool,
}

/// What is read again when a conversation goes on behind one of its answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// The answer's number among the messages.
    pub answer: usize,
    /// Tokens that had been read when it was given.
    pub read: usize,
    /// Where the next prompt parts from them; `None` if all of them are used again.
    pub parting: Option<Parting>,
}

/// How a conversation becomes tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The file of the chat template.
    pub template: String,
    /// The templates that the checkpoint has, by name.
    pub templates: Vec<String>,
    /// The text that the template makes.
    pub text: String,
    /// The tokens of that text.
    pub tokens: Vec<TokenPiece>,
    /// What the template can do.
    pub capabilities: Capabilities,
    /// The way in which the model writes calls, if it has one.
    pub tool_format: Option<&'static str>,
    /// What the checkpoint itself calls that way, in `tool_parser_type`; a name that nobody here knows counts for nothing.
    pub tool_parser: Option<String>,
    /// The markers around thoughts.
    pub reasoning: Option<[String; 2]>,
    /// Whether the prompt begins the thoughts.
    pub begins_reasoning: bool,
    /// What ends an answer.
    pub end_tokens: Vec<EndTokenInfo>,
    /// What of the cache is used again after each answer.
    pub turns: Vec<Turn>,
}

/// Explains what a model makes of a conversation.
///
/// # Errors
/// If it has no template, or the template refuses the conversation.
pub fn explain(engine: &InferenceEngine, messages: &[Message], options: &RenderOptions) -> Result<Explanation> {
    let model = engine.model()?;
    let text = model.render(messages, options)?;
    let ids = model.tokenizer.encode(&text, false)?;
    let piece = |id: u32| TokenPiece {
        id,
        token: model.tokenizer.id_to_token(id).unwrap_or_default(),
        special: model.tokenizer.is_added(id),
    };
    Ok(Explanation {
        template: model.templates.origin().to_owned(),
        templates: model.templates.names().map(str::to_owned).collect(),
        capabilities: Capabilities::of(&model.template(options.tools.is_some())?),
        tool_format: match model.answer_format {
            AnswerFormat::Channels => Some("harmony"),
            _ => model.answer_format.tools().map(|format| format.name),
        },
        tool_parser: model.tool_parser.clone(),
        reasoning: model.answer_format.reasoning().map(|markers| [markers.start, markers.end]),
        begins_reasoning: model.answer_format.begins_reasoning(&text),
        end_tokens: engine.configuration().end_tokens.clone(),
        turns: turns(&model, messages, options)?,
        tokens: ids.into_iter().map(piece).collect(),
        text,
    })
}

/// For each answer that something follows: the tokens that giving it read, against the prompt of what follows.
fn turns(model: &LoadedModel, messages: &[Message], options: &RenderOptions) -> Result<Vec<Turn>> {
    let template = model.template(options.tools.is_some())?;
    let mut turns = Vec::new();
    for (answer, message) in messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
        let follows = messages[answer + 1..].iter().position(|m| m.role != Role::Assistant && m.role != Role::System);
        let Some(next) = follows.map(|offset| answer + 2 + offset) else { break };
        let prompt = RenderOptions { add_generation_prompt: true, ..options.clone() };
        let (Ok(before), Ok(after)) =
            (model.encode_chat(&messages[..answer], &prompt), model.encode_chat(&messages[..next], &prompt))
        else {
            continue;
        };
        // What the model said, as far as a message keeps it.
        let said = said(model, message);
        let read: Vec<u32> = before.iter().copied().chain(model.tokenizer.encode(&said, false)?).collect();
        let parting = parting((&template, &model.tokenizer), &read, &after, &messages[..next], &prompt)?;
        turns.push(Turn { answer, read: read.len(), parting });
    }
    Ok(turns)
}

fn said(model: &LoadedModel, message: &Message) -> String {
    let content = message.content.text();
    match (&message.reasoning, model.answer_format.reasoning()) {
        (Some(thoughts), Some(markers)) => format!("{}\n{thoughts}\n{}\n\n{content}", markers.start, markers.end),
        _ => content,
    }
}
