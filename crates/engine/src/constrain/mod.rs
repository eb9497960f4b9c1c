//! Answers that obey a grammar: a JSON schema, a regular expression, a grammar in Lark's notation, calls of tools.
//!
//! A [`Constrainer`] knows a model's vocabulary and is made once a model. It compiles a [`Grammar`] to a [`Constraint`], the
//! state of one answer, which forbids every token with which the grammar could not go on; an end token is allowed where the
//! grammar is complete, and only there. Thoughts before the answer are free. What cannot be enforced is refused.

mod arguments;
mod budget;
mod calls;
mod channels;
mod constraint;
mod notation;
mod rules;
mod shape;
mod vocabulary;

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use toktrie::{InferenceCapabilities, TokEnv, TokTrie};

pub use budget::ThinkingBudget;
pub use calls::ToolChoice;
pub use constraint::{Constraint, Thoughts};

use crate::error::{EngineError, ErrorKind, Result};
use crate::text::Tokenizer;
use vocabulary::Vocabulary;

/// What an answer has to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// JSON that this schema accepts.
    JsonSchema(Value),
    /// Any JSON object.
    JsonObject,
    /// Text that this regular expression matches as a whole.
    Regex(String),
    /// Text of this grammar, in Lark's notation; its rule `start` is where it begins.
    Lark(String),
    /// The same of everything that the model says, its thoughts included.
    Whole(String),
}

/// Compiles grammars for one model's vocabulary.
pub struct Constrainer {
    factory: ParserFactory,
    env: TokEnv,
}

impl std::fmt::Debug for Constrainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Constrainer").field("vocabulary", &self.trie().vocab_size()).finish()
    }
}

impl Constrainer {
    /// Reads the vocabulary. A model has `vocab` scores, and its answers end with one of `end_tokens`.
    ///
    /// # Errors
    /// If nothing ends the model's answers.
    pub fn new(tokenizer: &Tokenizer, vocab: usize, end_tokens: &[u32]) -> Result<Self> {
        let env: TokEnv = Arc::new(Vocabulary::new(tokenizer, vocab, end_tokens)?);
        let slices = SLICES.map(str::to_owned);
        let mut factory =
            ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(|e| internal(&e))?;
        factory.quiet();
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, env })
    }

    fn trie(&self) -> &TokTrie {
        self.env.tok_trie()
    }

    /// Compiles a grammar.
    ///
    /// # Errors
    /// If it is wrong, or says something that cannot be enforced.
    pub fn compile(&self, grammar: &Grammar) -> Result<Constraint> {
        let (what, source) = match grammar {
            Grammar::JsonSchema(schema) => ("JSON schema", TopLevelGrammar::from_json_schema(spaced(schema.clone())?)),
            Grammar::JsonObject => {
                ("JSON schema", TopLevelGrammar::from_json_schema(spaced(json!({"type": "object"}))?))
            }
            Grammar::Regex(regex) => ("regular expression", TopLevelGrammar::from_regex(regex)),
            Grammar::Lark(text) | Grammar::Whole(text) => ("grammar", TopLevelGrammar::from_lark(text.clone())),
        };
        let parser = self.factory.create_parser(source).map_err(|e| refused(what, &e))?;
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(refused(what, &error)),
            None => Ok(Constraint::new(matcher, self.env.clone())),
        }
    }
}

/// Texts between JSON's quotes: parts of the vocabulary that are allowed as a whole where a text may go on so far, so that
/// a mask need not look at each token. Blank space has none, for it is bounded here and a part of any length would never
/// serve; each costs a fifth of the time that a constrainer takes.
const SLICES: [&str; 3] = [r#"[^"\\\x00-\x1F\x7F]{1,10}"#, r#"[^"\\\x00-\x1F\x7F]{1,30}"#, r#"[^"\\\x00-\x1F\x7F]+"#];

/// Where the library looks for its own options in a schema.
const OPTIONS: &str = "x-guidance";

/// The schema, with the blank space that may stand between JSON's parts: one space, or a new line and its indentation. A
/// model that may write blank space without end does so now and then.
fn spaced(mut schema: Value) -> Result<Value> {
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    if let Some(object) = schema.as_object_mut() {
        if object.contains_key(OPTIONS) {
            return Err(refused("JSON schema", &format!("{OPTIONS} in it would change what is enforced")));
        }
        object.insert(OPTIONS.to_owned(), json!({"whitespace_pattern": r" |\n( {0,32}|\t{0,8})"}));
    }
    Ok(schema)
}

/// A text as grammars write it.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn refused(what: &str, error: &impl std::fmt::Display) -> EngineError {
    let reason = error.to_string();
    let reason = reason.lines().next().unwrap_or_default().trim_end_matches('.').to_owned();
    EngineError::new(ErrorKind::InvalidParameter, format!("the {what} cannot be enforced: {reason}"))
        .with_remedy("change it: an answer is constrained by all of it or not at all")
}

fn internal(error: &impl std::fmt::Display) -> EngineError {
    EngineError::new(ErrorKind::Internal, format!("the grammar of the answer failed: {error}"))
}

#[cfg(test)]
mod calls_tests;
#[cfg(test)]
mod tests;
