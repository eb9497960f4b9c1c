//! What a caller may ask of a generation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::constrain::Grammar;
use crate::error::{EngineError, ErrorKind, Result};

/// The parameters of a generation. The defaults are mlx-lm's: the likeliest token each time, no penalties.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GenerateParams {
    /// At most this many tokens; without it until the end of the answer or of the context.
    pub max_tokens: Option<usize>,
    /// 0 takes the likeliest token; higher values draw more freely.
    pub temperature: f32,
    /// Draws from the likeliest tokens that together have this probability; 0 and 1 turn it off.
    pub top_p: f32,
    /// Draws from this many likeliest tokens; 0 turns it off.
    pub top_k: usize,
    /// Draws from tokens at least this many times as likely as the likeliest; 0 turns it off.
    pub min_p: f32,
    /// Tokens that `min_p` keeps in any case.
    pub min_tokens_to_keep: usize,
    /// How often the likeliest choices are excluded (XTC); 0 turns it off.
    pub xtc_probability: f32,
    /// XTC excludes tokens likelier than this, but for the least likely of them.
    pub xtc_threshold: f32,
    /// Makes tokens that occurred less likely, above 1; 0 and 1 turn it off.
    pub repetition_penalty: f32,
    /// Tokens that the repetition penalty looks back at; 0 is all.
    pub repetition_context_size: usize,
    /// Lowers the logit of each token that occurred.
    pub presence_penalty: f32,
    /// Tokens that the presence penalty looks back at; 0 is all.
    pub presence_context_size: usize,
    /// Lowers the logit of a token once per occurrence.
    pub frequency_penalty: f32,
    /// Tokens that the frequency penalty looks back at; 0 is all.
    pub frequency_context_size: usize,
    /// Added to the logits of single tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Makes drawn text repeatable.
    pub seed: Option<u64>,
    /// Report log-probabilities, and of this many likeliest tokens too.
    pub logprobs: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Go on past the model's end tokens.
    pub ignore_eos: bool,
    /// Name of a loaded adapter under which the answer is computed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// What the answer has to be, beside thoughts before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grammar: Option<Grammar>,
    /// At most this many tokens of thoughts: then their end marker follows, and the answer.
    pub thinking_budget: Option<usize>,
}

impl Default for GenerateParams {
    fn default() -> Self {
        GenerateParams {
            max_tokens: None,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repetition_penalty: 1.0,
            repetition_context_size: 20,
            presence_penalty: 0.0,
            presence_context_size: 20,
            frequency_penalty: 0.0,
            frequency_context_size: 20,
            logit_bias: BTreeMap::new(),
            seed: None,
            logprobs: None,
            stop: Vec::new(),
            ignore_eos: false,
            adapter: None,
            grammar: None,
            thinking_budget: None,
        }
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $setter:ident($field:ident: $ty:ty) = $value:expr;)*) => {
        impl GenerateParams {
            $($(#[$doc])* #[must_use] pub fn $setter(mut self, $field: $ty) -> Self { self.$field = $value; self })*
        }
    };
}

setters! {
    /// Sets `max_tokens`.
    with_max_tokens(max_tokens: usize) = Some(max_tokens);
    /// Sets `temperature`.
    with_temperature(temperature: f32) = temperature;
    /// Sets `top_p`.
    with_top_p(top_p: f32) = top_p;
    /// Sets `top_k`.
    with_top_k(top_k: usize) = top_k;
    /// Sets `min_p`.
    with_min_p(min_p: f32) = min_p;
    /// Sets `xtc_probability`.
    with_xtc_probability(xtc_probability: f32) = xtc_probability;
    /// Sets `xtc_threshold`.
    with_xtc_threshold(xtc_threshold: f32) = xtc_threshold;
    /// Sets `repetition_penalty`.
    with_repetition_penalty(repetition_penalty: f32) = repetition_penalty;
    /// Sets `presence_penalty`.
    with_presence_penalty(presence_penalty: f32) = presence_penalty;
    /// Sets `frequency_penalty`.
    with_frequency_penalty(frequency_penalty: f32) = frequency_penalty;
    /// Sets `logit_bias`.
    with_logit_bias(logit_bias: BTreeMap<u32, f32>) = logit_bias;
    /// Sets `seed`.
    with_seed(seed: u64) = Some(seed);
    /// Sets `logprobs`.
    with_logprobs(logprobs: usize) = Some(logprobs);
    /// Sets `stop`.
    with_stop(stop: Vec<String>) = stop;
    /// Sets `ignore_eos`.
    with_ignore_eos(ignore_eos: bool) = ignore_eos;
    /// Sets `grammar`.
    with_grammar(grammar: Grammar) = Some(grammar);
    /// Sets `thinking_budget`.
    with_thinking_budget(thinking_budget: usize) = Some(thinking_budget);
}

impl GenerateParams {
    /// The defaults that a model's `generation_config.json` asks for.
    ///
    /// `do_sample: false` means greedy whatever else stands there. A repetition penalty looks back at everything, as
    /// transformers defines it. Values out of range are an error of [`GenerateParams::validate`], not of this.
    pub fn from_generation_config(config: &Value) -> Self {
        let number = |key: &str| config.get(key).and_then(Value::as_f64).map(|v| v as f32);
        let mut params = GenerateParams::default();
        if let Some(penalty) = number("repetition_penalty") {
            params.repetition_penalty = penalty;
            params.repetition_context_size = 0;
        }
        let sample = config.get("do_sample").and_then(Value::as_bool);
        if sample == Some(false) {
            return params;
        }
        let unset = if sample == Some(true) { 1.0 } else { 0.0 };
        params.temperature = number("temperature").unwrap_or(unset);
        params.top_p = number("top_p").unwrap_or(params.top_p);
        params.min_p = number("min_p").unwrap_or(params.min_p);
        let top_k = config.get("top_k").and_then(Value::as_u64);
        params.top_k = top_k.and_then(|k| usize::try_from(k).ok()).unwrap_or(params.top_k);
        params
    }

    /// Checks every parameter for a model with `vocab` tokens and names the first that is out of range.
    pub fn validate(&self, vocab: usize) -> Result<()> {
        let zero_to_one = [("top_p", self.top_p), ("min_p", self.min_p), ("xtc_probability", self.xtc_probability)];
        for (name, value) in zero_to_one {
            between(name, value, 0.0, 1.0)?;
        }
        between("xtc_threshold", self.xtc_threshold, 0.0, 0.5)?;
        for (name, value) in [("temperature", self.temperature), ("repetition_penalty", self.repetition_penalty)] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(invalid(format!("{name} must be a number of 0 or more, got {value}")));
            }
        }
        for (name, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if !value.is_finite() {
                return Err(invalid(format!("{name} must be a finite number, got {value}")));
            }
        }
        if self.max_tokens == Some(0) {
            return Err(invalid("max_tokens must be at least 1, got 0".to_owned()));
        }
        if self.min_tokens_to_keep == 0 {
            return Err(invalid("min_tokens_to_keep must be at least 1, got 0".to_owned()));
        }
        for (id, value) in &self.logit_bias {
            if *id as usize >= vocab {
                return Err(invalid(format!("logit_bias names token {id}, and the model has {vocab} tokens")));
            }
            if !value.is_finite() {
                return Err(invalid(format!("logit_bias of token {id} must be a finite number, got {value}")));
            }
        }
        if let Some(n) = self.logprobs.filter(|n| *n > vocab) {
            return Err(invalid(format!("logprobs must be at most the {vocab} tokens of the model, got {n}")));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(invalid("stop strings must not be empty".to_owned()));
        }
        if self.grammar.is_some() && self.ignore_eos {
            return Err(invalid(
                "ignore_eos and a grammar exclude each other: an end token ends what is complete".to_owned(),
            ));
        }
        Ok(())
    }
}

fn invalid(message: String) -> EngineError {
    EngineError::new(ErrorKind::InvalidParameter, message)
}

fn between(name: &str, value: f32, low: f32, high: f32) -> Result<()> {
    // NaN is in no range.
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(invalid(format!("{name} must be between {low} and {high}, got {value}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refuses_what_is_out_of_range() {
        let good = GenerateParams::default();
        assert!(good.validate(10).is_ok());
        type Change = fn(&mut GenerateParams);
        let cases: [(Change, &str); 12] = [
            (|p| p.max_tokens = Some(0), "max_tokens must be at least 1, got 0"),
            (|p| p.top_p = 1.5, "top_p must be between 0 and 1, got 1.5"),
            (|p| p.min_p = f32::NAN, "min_p must be between 0 and 1, got NaN"),
            (|p| p.xtc_threshold = 0.6, "xtc_threshold must be between 0 and 0.5, got 0.6"),
            (|p| p.temperature = f32::INFINITY, "temperature must be a number of 0 or more, got inf"),
            (|p| p.repetition_penalty = -1.0, "repetition_penalty must be a number of 0 or more, got -1"),
            (|p| p.presence_penalty = f32::NAN, "presence_penalty must be a finite number, got NaN"),
            (|p| p.min_tokens_to_keep = 0, "min_tokens_to_keep must be at least 1, got 0"),
            (|p| p.logit_bias = [(10, 1.0)].into(), "logit_bias names token 10, and the model has 10 tokens"),
            (|p| p.logit_bias = [(1, f32::NAN)].into(), "logit_bias of token 1 must be a finite number, got NaN"),
            (|p| p.logprobs = Some(11), "logprobs must be at most the 10 tokens of the model, got 11"),
            (|p| p.stop = vec![String::new()], "stop strings must not be empty"),
        ];
        for (change, want) in cases {
            let mut params = good.clone();
            change(&mut params);
            let error = params.validate(10).unwrap_err();
            assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::InvalidParameter, want));
        }
    }

    #[test]
    fn json_round_trips_and_refuses_unknown_keys() {
        let json = json!({"temperature": 0.5, "logit_bias": {"5": -1.0}, "stop": ["x"], "seed": 7});
        let params: GenerateParams = serde_json::from_value(json).unwrap();
        assert_eq!(params.logit_bias, BTreeMap::from([(5, -1.0)]));
        let again: GenerateParams = serde_json::from_value(serde_json::to_value(&params).unwrap()).unwrap();
        assert_eq!(again, params);
        let error = serde_json::from_value::<GenerateParams>(json!({"temprature": 1})).unwrap_err();
        assert!(error.to_string().contains("unknown field `temprature`"), "{error}");
    }

    #[test]
    fn model_defaults() {
        let from = |value: Value| GenerateParams::from_generation_config(&value);
        let qwen = from(json!({"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95}));
        assert_eq!((qwen.temperature, qwen.top_k, qwen.top_p), (0.6, 20, 0.95));
        assert_eq!(from(json!({"do_sample": true})).temperature, 1.0);
        assert_eq!(from(json!({"do_sample": false, "temperature": 0.6})), GenerateParams::default());
        let penalty = from(json!({"repetition_penalty": 1.05}));
        assert_eq!((penalty.temperature, penalty.repetition_penalty, penalty.repetition_context_size), (0.0, 1.05, 0));
    }

    #[test]
    fn setters_chain() {
        let params = GenerateParams::default().with_temperature(0.7).with_seed(3).with_max_tokens(9);
        assert_eq!((params.temperature, params.seed, params.max_tokens), (0.7, Some(3), Some(9)));
    }
}
