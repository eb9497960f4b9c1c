//! From a text to a text: tokenizer, model, detokenizer and the end of an answer together.

use std::path::Path;
use std::sync::Arc;

use mlxengine_engine::{
    FinishReason, GenerateOptions, GenerateParams, Generation, LoadedModel, Message, RenderOptions, Step, Tokenizer,
    TokenizerFiles,
};
use mlxengine_models::{Checkpoint, Precision};
use serde_json::Value;

use crate::manifest::Text;
use crate::set::json;
use crate::sheet::Sheet;
use crate::{Measure, Stop};

/// Tokens that were asked for when the texts were recorded.
const MOST: usize = 24;

/// The tokenizer of a directory.
pub(crate) fn tokenizer(dir: &Path) -> Result<Tokenizer, Stop> {
    let path = dir.join("tokenizer.json");
    let bytes = std::fs::read(&path).map_err(|e| Stop::failed(format!("cannot read {}: {e}", path.display())))?;
    let [config, special, model] =
        ["tokenizer_config.json", "special_tokens_map.json", "config.json"].map(|name| optional(dir, name));
    let files = TokenizerFiles {
        tokenizer_json: Some(&bytes),
        tokenizer_config: config.as_ref(),
        special_tokens_map: special.as_ref(),
        model_type: model.as_ref().and_then(|c| c["model_type"].as_str()),
        file_names: &[],
    };
    Ok(Tokenizer::from_files(&files)?)
}

fn optional(dir: &Path, name: &str) -> Option<Value> {
    json(&dir.join(name)).ok()
}

pub(crate) fn check(sheet: &mut Sheet<'_>, dir: &Path, recorded: &Text) {
    sheet.check("text", || {
        let model = Arc::new(LoadedModel::load(&Checkpoint::open_directory(dir)?, Precision::Exact, |_, _| {})?);
        let prompt = model.tokenizer.encode(&recorded.prompt, true)?;
        let params = GenerateParams::default().with_max_tokens(MOST);
        let options = GenerateOptions::default();
        let steps: Vec<Step> =
            Generation::new(Arc::clone(&model), None, prompt.clone(), &params, &options)?.collect::<Result<_, _>>()?;
        let tokens: Vec<u32> = steps.iter().map(|s| s.token).collect();
        let text: String = steps.iter().map(|s| s.text.as_str()).collect();
        let reason = match steps.last().and_then(|s| s.finish) {
            Some(FinishReason::Stop) => "stop",
            Some(FinishReason::Length) => "length",
            Some(FinishReason::Cancelled) => "cancelled",
            None => "none",
        };
        let parts = [
            Measure::equal("prompt tokens", &prompt, &recorded.prompt_tokens),
            Measure::equal("tokens", &tokens, &recorded.tokens),
            Measure::equal("text", text.as_str(), recorded.text.as_str()),
            Measure::equal("finish reason", reason, recorded.finish_reason.as_str()),
            chat(&model, recorded)?,
        ];
        Ok(parts.into_iter().fold(Measure::default(), Measure::or_worse))
    });
}

/// The checkpoint's own template.
fn chat(model: &LoadedModel, recorded: &Text) -> Result<Measure, Stop> {
    let Some(chat) = &recorded.chat else { return Ok(Measure::default()) };
    let messages = Message::list_from_json(&chat.messages)?;
    let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
    let text = model.render(&messages, &options)?;
    let tokens = model.encode_chat(&messages, &options)?;
    let rendered = Measure::equal("chat", text.as_str(), chat.text.as_str());
    Ok(rendered.or_worse(Measure::equal("chat tokens", &tokens, &chat.tokens)))
}
