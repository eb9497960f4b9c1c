//! How well a model predicts texts, and which of several endings it finds likeliest; by the rules of mlx-lm.

use mlxengine_engine::evaluate::{Likelihood, Perplexity, likelihoods, losses};
use mlxengine_engine::{CancelToken, EngineError, ErrorKind, LoadedModel, Message, RenderOptions, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::InferenceEngine;

/// A text of a data set, in the formats that mlx-lm trains on.
#[derive(Clone, Debug, PartialEq)]
pub enum Example {
    /// `{"text": …}`
    Text(String),
    /// `{"messages": […], "tools": […]}`, or `{"prompt": …, "completion": …}`, which is a turn of each side.
    Chat {
        /// The turns.
        messages: Vec<Message>,
        /// Tools that the template is told of.
        tools: Option<Vec<Value>>,
    },
}

#[derive(Deserialize)]
struct Row {
    text: Option<String>,
    messages: Option<Value>,
    prompt: Option<String>,
    completion: Option<String>,
    tools: Option<Vec<Value>>,
}

impl Example {
    /// Reads a line of a data set. Keys that only describe the example are allowed, as in mlx-lm.
    ///
    /// # Errors
    /// If it is not JSON, or has none of the formats.
    pub fn parse(line: &str) -> Result<Self> {
        let invalid = |message: String| EngineError::new(ErrorKind::InvalidInput, message);
        let row: Row = serde_json::from_str(line).map_err(|e| invalid(format!("not an example: {e}")))?;
        let messages = match row {
            Row { text: Some(text), .. } => return Ok(Example::Text(text)),
            Row { messages: Some(messages), .. } => Message::list_from_json(&messages)?,
            Row { prompt: Some(prompt), completion: Some(completion), .. } => {
                vec![Message::user(prompt), Message::assistant(completion)]
            }
            _ => return Err(invalid("an example has `text`, `messages`, or `prompt` and `completion`".to_owned())),
        };
        Ok(Example::Chat { messages, tools: row.tools })
    }

    /// Its tokens; a text gets the end token after it.
    fn encode(&self, model: &LoadedModel) -> Result<Vec<u32>> {
        match self {
            Example::Text(text) => {
                let mut tokens = model.tokenizer.encode(text, true)?;
                tokens.extend(model.tokenizer.eos_id().filter(|end| tokens.last() != Some(end)));
                Ok(tokens)
            }
            Example::Chat { messages, tools } => {
                let options = RenderOptions { tools: tools.clone(), ..RenderOptions::default() };
                model.encode_chat(messages, &options)
            }
        }
    }
}

/// How a perplexity is measured. The defaults are mlx-lm's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PerplexityOptions {
    /// Tokens of a sample; its first is not predicted.
    pub sequence_length: usize,
    /// Most samples.
    pub samples: Option<usize>,
    /// Samples that are read in one pass.
    pub batch_size: usize,
}

impl Default for PerplexityOptions {
    fn default() -> Self {
        Self { sequence_length: 512, samples: Some(256), batch_size: 8 }
    }
}

/// A question with several endings of which one is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// What comes before the ending.
    pub context: String,
    /// The endings, as they follow the context: one that begins a new word begins with a space.
    pub choices: Vec<String>,
    /// The index of the right one.
    pub answer: usize,
    /// What the caller calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

/// What a model finds of a [`Question`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// How likely each ending is.
    pub likelihoods: Vec<Likelihood>,
    /// The likeliest ending.
    pub likeliest: usize,
    /// The likeliest by letter: of the log-probabilities divided by the endings' lengths in characters.
    pub likeliest_by_length: usize,
}

/// Longest context with its ending where the model names no limit: mlx-lm's.
const MOST_TOKENS: usize = 8192;

impl InferenceEngine {
    /// The tokens of examples, one after another.
    ///
    /// # Errors
    /// If one cannot be written down or encoded; the message has its number, from 1.
    pub fn corpus(&self, examples: &[Example]) -> Result<Vec<u32>> {
        let model = self.model()?;
        let mut tokens = Vec::new();
        for (number, example) in examples.iter().enumerate() {
            let encoded = example.encode(&model).map_err(|e| e.in_context(format!("example {}", number + 1)))?;
            tokens.extend(encoded);
        }
        Ok(tokens)
    }

    /// The perplexity of a text of tokens, cut into samples, of which the last is left out if it is shorter. `progress` hears
    /// of samples read, as `(done, all)`. When somebody cancels, there is no result.
    ///
    /// # Errors
    /// If there is not one whole sample, a sample is longer than the context, or the model was unloaded.
    pub fn perplexity(
        &self,
        tokens: &[u32],
        options: &PerplexityOptions,
        cancel: &CancelToken,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Option<Perplexity>> {
        let invalid = |message: String| EngineError::new(ErrorKind::InvalidInput, message);
        let (model, length) = (self.model()?, options.sequence_length);
        if let Some(context) = self.context()
            && length > context + 1
        {
            let message = format!("samples have {length} tokens, and the model reads at most {context}");
            return Err(EngineError::new(ErrorKind::ContextExceeded, message).with_remedy("take shorter samples"));
        }
        if length < 2 {
            return Err(invalid(format!("samples of {length} tokens predict nothing")).with_remedy("take longer ones"));
        }
        let samples: Vec<&[u32]> = tokens.chunks_exact(length).take(options.samples.unwrap_or(usize::MAX)).collect();
        if samples.is_empty() {
            return Err(invalid(format!("the text has {} tokens, and a sample {length}", tokens.len()))
                .with_remedy("give a longer text, or take shorter samples"));
        }
        let mut all = Vec::with_capacity(samples.len() * (length - 1));
        for (number, batch) in samples.chunks(options.batch_size.max(1)).enumerate() {
            progress(number * options.batch_size.max(1), samples.len());
            if cancel.is_cancelled() {
                return Ok(None);
            }
            all.extend(losses(&*model.network, batch)?);
        }
        progress(samples.len(), samples.len());
        Ok(Some(Perplexity::of(&all)))
    }

    /// Scores the endings of a question. With `chat`, the context is what a person says, written down by the model's
    /// template, and an ending begins the answer.
    ///
    /// # Errors
    /// If there are no endings or not the right one, one is empty, the template refuses, or the model was unloaded.
    pub fn choose(&self, question: &Question, chat: bool) -> Result<Choice> {
        let Question { context, choices, answer, .. } = question;
        if *answer >= choices.len() {
            let message = format!("the answer is choice {answer}, counted from 0, of {}", choices.len());
            return Err(EngineError::new(ErrorKind::InvalidInput, message));
        }
        let model = self.model()?;
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let context = if chat { model.render(&[Message::user(context.as_str())], &options)? } else { context.clone() };
        let encode = |text: &str| model.tokenizer.encode(text, !chat);
        let before = encode(&context)?;
        let whole = choices.iter().map(|choice| encode(&format!("{context}{choice}")));
        let whole = whole.collect::<Result<Vec<_>>>()?;
        // A context that is too long loses its beginning.
        let longest = whole.iter().map(Vec::len).max().unwrap_or(0);
        let cut = longest.saturating_sub(self.context().unwrap_or(MOST_TOKENS) + 1);
        let endings: Vec<Vec<u32>> =
            whole.iter().map(|tokens| tokens.get(before.len()..).unwrap_or_default().to_vec()).collect();
        let likelihoods = match before.get(cut..).filter(|context| !context.is_empty()) {
            Some(context) => likelihoods(&*model.network, context, &endings, self.options.prefill_chunk)?,
            None if before.is_empty() => {
                let message = "the context has no tokens";
                return Err(EngineError::new(ErrorKind::InvalidInput, message).with_remedy("give it some text"));
            }
            None => {
                let lost =
                    |tokens: &Vec<u32>| Likelihood { logprob: f64::NEG_INFINITY, tokens: tokens.len(), greedy: false };
                endings.iter().map(lost).collect()
            }
        };
        let letters = choices.iter().map(|choice| choice.chars().count() as f64);
        let sums = likelihoods.iter().map(|l| l.logprob);
        Ok(Choice {
            likeliest: first_largest(sums.clone()),
            likeliest_by_length: first_largest(sums.zip(letters).map(|(sum, letters)| sum / letters)),
            likelihoods,
        })
    }
}

fn first_largest(numbers: impl Iterator<Item = f64>) -> usize {
    let best = numbers.enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_of_an_example_is_read() {
        assert_eq!(Example::parse(r#"{"text": "a", "source": 1}"#).unwrap(), Example::Text("a".into()));
        let pair = Example::parse(r#"{"prompt": "a", "completion": "b"}"#).unwrap();
        let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
        assert_eq!(pair, Example::parse(chat).unwrap());
        for bad in ["{}", r#"{"prompt": "a"}"#, "[1]", r#"{"messages": 1}"#] {
            assert!(Example::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn of_equals_the_first_is_chosen() {
        assert_eq!(first_largest([1.0, 3.0, 3.0].into_iter()), 1);
        assert_eq!(first_largest([f64::NEG_INFINITY; 2].into_iter()), 0);
    }
}
