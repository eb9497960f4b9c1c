//! The tokenizer of a checkpoint, from its `tokenizer.json`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::{AddedToken, Tokenizer as Core};

use super::detokenizer::{Detokenizer, DetokenizerKind, byte_level_bytes, sentencepiece_bytes};
use super::end_tokens::{EndToken, end_tokens};
use crate::error::{EngineError, ErrorKind, Result};

/// The files of a checkpoint that a tokenizer is made of.
#[derive(Debug, Clone, Copy, Default)]
pub struct TokenizerFiles<'a> {
    /// The bytes of `tokenizer.json`.
    pub tokenizer_json: Option<&'a [u8]>,
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a Value>,
    /// `special_tokens_map.json`, of older checkpoints.
    pub special_tokens_map: Option<&'a Value>,
    /// `model_type` of `config.json`: for some kinds the class named in `tokenizer_config.json` is known to be wrong.
    pub model_type: Option<&'a str>,
    /// The names of all files in the checkpoint, to explain what is missing.
    pub file_names: &'a [String],
}

/// The texts between which a model thinks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThinkMarkers {
    /// Begins the thoughts.
    pub start: String,
    /// Ends them.
    pub end: String,
}

/// Text to token ids and back. Cheap to clone, safe to share between threads, and deterministic.
///
/// Where `tokenizer_config.json` names the class `LlamaTokenizer`, the reference implementation replaces the normalizer
/// and pre-tokenizer of `tokenizer.json`: a word gets its leading `▁` only at the beginning of the text, not after
/// every special token. The ids here follow the reference. Byte-level files that carry the class name, and kinds of
/// models for which the reference ignores it, run as `tokenizer.json` stands.
#[derive(Clone)]
pub struct Tokenizer {
    inner: Arc<Inner>,
}

struct Inner {
    core: Core,
    special: BTreeMap<String, String>,
    detokenizer: DetokenizerKind,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("special", &self.inner.special)
            .field("detokenizer", &self.inner.detokenizer)
            .finish()
    }
}

/// The parts of `tokenizer.json` that are looked at beside the crate that runs it.
#[derive(Deserialize)]
struct Outline {
    #[serde(default)]
    decoder: Value,
    #[serde(default)]
    model: ModelOutline,
}

#[derive(Deserialize, Default)]
struct ModelOutline {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    byte_fallback: Option<bool>,
}

impl Tokenizer {
    /// Reads the tokenizer of a checkpoint.
    pub fn from_files(files: &TokenizerFiles<'_>) -> Result<Self> {
        let bytes = files.tokenizer_json.ok_or_else(|| missing(files.file_names))?;
        let unreadable = |e: Box<dyn std::error::Error + Send + Sync>| {
            EngineError::new(ErrorKind::Tokenizer, format!("cannot read tokenizer.json: {e}"))
                .with_remedy("download the file again")
                .with_source(e)
        };
        let outline: Outline = serde_json::from_slice(bytes).map_err(|e| unreadable(e.into()))?;
        let mut core = Core::from_bytes(bytes).map_err(unreadable)?;
        // Both are leftovers of training pipelines in many files and would cut or pad prompts silently.
        core.with_truncation(None).map_err(unreadable)?;
        core.with_padding(None);
        if let Some(scheme) = llama_prepend_scheme(files, &outline) {
            core.with_normalizer(None::<NormalizerWrapper>).map_err(unreadable)?;
            core.with_pre_tokenizer(Some(Metaspace::new('▁', scheme, false)));
        }
        add_missing_tokens(&mut core, files.tokenizer_config).map_err(unreadable)?;
        let special = special_tokens(files);
        let mut detokenizer = DetokenizerKind::from_decoder(&outline.decoder);
        if let DetokenizerKind::Naive { clean_spaces } = &mut detokenizer {
            *clean_spaces = cleans_spaces(&core);
        }
        Ok(Tokenizer { inner: Arc::new(Inner { core, special, detokenizer }) })
    }

    /// The ids of `text`. `add_special` adds what the tokenizer's own post-processor adds, usually a first token;
    /// rendered chat templates contain it already and are encoded without.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.core.encode_fast(text, add_special).map_err(|e| {
            EngineError::new(ErrorKind::Tokenizer, format!("cannot encode the text: {e}")).with_source(e)
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of `ids`; unknown ids are left out. Spaces before punctuation stay as the tokens have them
    /// (`clean_up_tokenization_spaces` is not applied: it changes code and does not round-trip).
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.core.decode(ids, skip_special).map_err(|e| {
            EngineError::new(ErrorKind::Tokenizer, format!("cannot decode the tokens: {e}")).with_source(e)
        })
    }

    /// A detokenizer for one stream of tokens, of the kind that this tokenizer's decoder asks for.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(self.clone())
    }

    /// The bytes that each token adds to a text, as a function of its id: none for an id without a token.
    pub fn piece_decoder(&self) -> Box<dyn Fn(u32) -> Vec<u8> + '_> {
        match self.detokenizer_kind() {
            DetokenizerKind::ByteLevel => Box::new(|id| byte_level_bytes(&self.id_to_token(id).unwrap_or_default())),
            DetokenizerKind::SentencePiece { .. } => {
                Box::new(|id| sentencepiece_bytes(&self.id_to_token(id).unwrap_or_default()))
            }
            DetokenizerKind::Naive { .. } => {
                // What a token looks like behind another one: word pieces glue themselves on or bring a space.
                let anchor = self.encode("a", false).unwrap_or_default();
                let alone = self.decode(&anchor, false).unwrap_or_default();
                Box::new(move |id| {
                    if self.id_to_token(id).is_none() {
                        return Vec::new();
                    }
                    let both: Vec<u32> = anchor.iter().copied().chain([id]).collect();
                    let text = self.decode(&both, false).unwrap_or_default();
                    text.strip_prefix(alone.as_str()).unwrap_or_default().as_bytes().to_vec()
                })
            }
        }
    }

    /// Which kind of streaming detokenizer applies.
    pub fn detokenizer_kind(&self) -> DetokenizerKind {
        self.inner.detokenizer
    }

    /// The id of a token given by its exact vocabulary entry.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.core.token_to_id(token)
    }

    /// The vocabulary entry of an id (`Ġthe`, `▁the`, `<0x0A>`, …).
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.core.id_to_token(id)
    }

    /// How many tokens there are, added ones included. A model's output may be wider (padded).
    pub fn vocab_size(&self) -> usize {
        self.inner.core.get_vocab_size(true)
    }

    /// True if `id` is one of the added tokens, which never come out of ordinary text.
    pub fn is_added(&self, id: u32) -> bool {
        self.inner.core.get_added_vocabulary().simple_id_to_token(id).is_some()
    }

    /// True if `id` is an added token marked special: skipped when decoding for people.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.core.get_added_vocabulary();
        added.simple_id_to_token(id).is_some_and(|token| added.is_special_token(&token))
    }

    /// The text of a special token by its role: `bos_token`, `eos_token`, `pad_token`, `unk_token`, ….
    pub fn special_token(&self, role: &str) -> Option<&str> {
        self.inner.special.get(role).map(String::as_str)
    }

    /// All special tokens by role, as chat templates see them.
    pub fn special_tokens(&self) -> &BTreeMap<String, String> {
        &self.inner.special
    }

    /// The id of `bos_token`.
    pub fn bos_id(&self) -> Option<u32> {
        self.token_to_id(self.special_token("bos_token")?)
    }

    /// The id of `eos_token`.
    pub fn eos_id(&self) -> Option<u32> {
        self.token_to_id(self.special_token("eos_token")?)
    }

    /// The id of `pad_token`.
    pub fn pad_id(&self) -> Option<u32> {
        self.token_to_id(self.special_token("pad_token")?)
    }

    /// The tokens that end an answer; see [`end_tokens`].
    pub fn end_tokens(
        &self,
        generation_config: Option<&Value>,
        config: Option<&Value>,
        chat_template: Option<&str>,
    ) -> Vec<EndToken> {
        end_tokens(self, generation_config, config, chat_template)
    }

    /// The markers of thoughts that the vocabulary has, if any. Where there are some, templates are rendered with
    /// `enable_thinking` true unless the caller says otherwise.
    pub fn think_markers(&self) -> Option<ThinkMarkers> {
        const MARKERS: [(&[&str], &str, &str); 5] = [
            (&["<think>", "</think>"], "<think>", "</think>"),
            (&["<longcat_think>", "</longcat_think>"], "<longcat_think>", "</longcat_think>"),
            (&["<|think:start|>", "<|think:end|>"], "<|think:start|>", "<|think:end|>"),
            (&["<|channel>", "<channel|>"], "<|channel>thought", "<channel|>"),
            (&["<|open|>", "<|close|>", "<|sep|>", "<|end_of_msg|>"], "<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        ];
        let has = |tokens: &[&str]| tokens.iter().all(|token| self.token_to_id(token).is_some());
        let (_, start, end) = MARKERS.iter().find(|(tokens, _, _)| has(tokens))?;
        Some(ThinkMarkers { start: (*start).to_owned(), end: (*end).to_owned() })
    }
}

/// The error for a checkpoint without `tokenizer.json`.
fn missing(names: &[String]) -> EngineError {
    let other = names.iter().find(|n| {
        n.ends_with("tokenizer.model") || n.ends_with(".tiktoken") || *n == "spiece.model" || *n == "vocab.json"
    });
    match other {
        Some(name) => EngineError::new(
            ErrorKind::Tokenizer,
            format!("the checkpoint has {name} but no tokenizer.json, and only tokenizer.json can be read"),
        )
        .with_remedy("take tokenizer.json from the original model's repository or from another conversion of it"),
        None => EngineError::new(ErrorKind::NotFound, "the checkpoint has no tokenizer.json")
            .with_remedy("download the repository again, or copy tokenizer.json from the original model"),
    }
}

/// Kinds of models whose `tokenizer_class` is wrong in the published files, so that the reference implementation
/// ignores it and runs `tokenizer.json` as it stands.
const CLASS_IS_WRONG: [&str; 14] = [
    "arctic",
    "chameleon",
    "fuyu",
    "hyperclovax_vlm",
    "internlm2",
    "internvl_chat",
    "jamba",
    "llava",
    "llava_next",
    "openvla",
    "phi3",
    "phi3_v",
    "phimoe",
    "vipllava",
];

/// How the class `LlamaTokenizer` prepends `▁`, or `None` where `tokenizer.json` is to be run as it stands.
///
/// Byte-level files carry that class name too (several DeepSeek uploads); they are left alone.
fn llama_prepend_scheme(files: &TokenizerFiles<'_>, outline: &Outline) -> Option<PrependScheme> {
    let config = files.tokenizer_config?;
    let class = config.get("tokenizer_class")?.as_str()?;
    let sentencepiece = outline.model.kind.as_deref() == Some("BPE")
        && outline.model.byte_fallback == Some(true)
        && matches!(DetokenizerKind::from_decoder(&outline.decoder), DetokenizerKind::SentencePiece { .. });
    let wrong = files.model_type.is_some_and(|kind| CLASS_IS_WRONG.contains(&kind));
    if !sentencepiece || wrong || !matches!(class, "LlamaTokenizer" | "LlamaTokenizerFast") {
        return None;
    }
    let flag = |key: &str, default: bool| config.get(key).and_then(Value::as_bool).unwrap_or(default);
    Some(match (flag("add_prefix_space", true), flag("legacy", false)) {
        (false, _) => PrependScheme::Never,
        (true, true) => PrependScheme::Always,
        (true, false) => PrependScheme::First,
    })
}

/// Adds the tokens that `added_tokens_decoder` of `tokenizer_config.json` has beyond `tokenizer.json`.
///
/// Only tokens that get the id they are declared with: any other would shift the meaning of ids.
fn add_missing_tokens(core: &mut Core, config: Option<&Value>) -> tokenizers::Result<()> {
    let Some(declared) = config.and_then(|c| c.get("added_tokens_decoder")).and_then(Value::as_object) else {
        return Ok(());
    };
    let mut wanted: Vec<(u32, AddedToken)> = Vec::new();
    for (id, entry) in declared {
        let (Ok(id), Some(content)) = (id.parse::<u32>(), entry.get("content").and_then(Value::as_str)) else {
            continue;
        };
        if core.token_to_id(content).is_some() || core.id_to_token(id).is_some() {
            continue;
        }
        let flag = |key: &str| entry.get(key).and_then(Value::as_bool).unwrap_or(false);
        let token = AddedToken::from(content, flag("special"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .single_word(flag("single_word"))
            .normalized(flag("normalized"));
        wanted.push((id, token));
    }
    if wanted.is_empty() {
        return Ok(());
    }
    wanted.sort_by_key(|(id, _)| *id);
    let mut next = core.get_vocab(true).values().max().map_or(0, |id| id + 1);
    let in_order = |(id, token): (u32, AddedToken)| {
        let fits = id == next;
        next += u32::from(fits);
        fits.then_some(token)
    };
    let tokens: Vec<AddedToken> = wanted.into_iter().map_while(in_order).collect();
    core.add_tokens(tokens)?;
    Ok(())
}

/// Special tokens by role. An entry is a string, an object with `content`, or null.
fn special_tokens(files: &TokenizerFiles<'_>) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(map) => map.get("content").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    let mut special = BTreeMap::new();
    let mut take = |map: &Map<String, Value>| {
        for (role, value) in map.iter().filter(|(role, _)| role.ends_with("_token")) {
            if let Some(text) = text(value) {
                special.insert(role.clone(), text);
            }
        }
    };
    // Later maps win: tokenizer_config.json is what the reference reads, the older file only fills gaps.
    for map in [files.special_tokens_map, files.tokenizer_config].into_iter().flatten().filter_map(Value::as_object) {
        take(map);
        if let Some(extra) = map.get("extra_special_tokens").and_then(Value::as_object) {
            take(extra);
        }
    }
    special
}

/// True if decoding glues punctuation to the word before it, so that a final space cannot be shown yet.
fn cleans_spaces(core: &Core) -> bool {
    let probe = core.encode_fast("a ,b", false).and_then(|e| core.decode(e.get_ids(), false));
    probe.is_ok_and(|text| !text.contains(" ,"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A byte-level tokenizer of single ASCII letters and the given special tokens.
    pub(crate) fn tiny(special: &[&str], config: Value) -> Tokenizer {
        let mut vocab = Map::new();
        for c in ('a'..='z').chain(['Ġ', ',']) {
            vocab.insert(c.to_string(), vocab.len().into());
        }
        let added: Vec<Value> = special
            .iter()
            .enumerate()
            .map(|(i, content)| {
                json!({"id": vocab.len() + i, "content": content, "single_word": false, "lstrip": false,
                       "rstrip": false, "normalized": false, "special": true})
            })
            .collect();
        let json = json!({
            "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst",
            "stride": 0}, "padding": null, "added_tokens": added, "normalizer": null,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": vocab, "merges": []}
        });
        let bytes = serde_json::to_vec(&json).unwrap();
        let files =
            TokenizerFiles { tokenizer_json: Some(&bytes), tokenizer_config: Some(&config), ..Default::default() };
        Tokenizer::from_files(&files).unwrap()
    }

    #[test]
    fn encodes_without_the_files_truncation() {
        let tokenizer = tiny(&["<s>"], json!({"bos_token": {"content": "<s>"}, "eos_token": null, "pad_token": "<s>"}));
        let ids = tokenizer.encode("abc<s> d", true).unwrap();
        assert_eq!(ids, [0, 1, 2, 28, 26, 3]);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "abc<s> d");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "abc d");
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(28), None, Some(28)));
        assert!(tokenizer.is_special(28) && !tokenizer.is_special(0) && !tokenizer.is_added(99));
        assert_eq!(tokenizer.vocab_size(), 29);
    }

    #[test]
    fn tokens_of_the_config_are_added_only_under_their_own_id() {
        let declared = json!({"added_tokens_decoder": {
            "30": {"content": "<b>", "special": true}, "29": {"content": "<a>", "special": true},
            "28": {"content": "<s>", "special": true}, "77": {"content": "<far>", "special": true}}});
        let tokenizer = tiny(&["<s>"], declared);
        assert_eq!(tokenizer.encode("<a><b>", false).unwrap(), [29, 30]);
        assert_eq!(tokenizer.token_to_id("<far>"), None);
    }

    #[test]
    fn a_missing_file_is_explained() {
        let names = ["config.json".to_owned(), "tokenizer.model".to_owned()];
        let files = TokenizerFiles { file_names: &names, ..Default::default() };
        let error = Tokenizer::from_files(&files).unwrap_err();
        assert!(error.to_string().starts_with("the checkpoint has tokenizer.model but no tokenizer.json"), "{error}");
        let error = Tokenizer::from_files(&TokenizerFiles::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let files = TokenizerFiles { tokenizer_json: Some(b"{\"a\""), ..Default::default() };
        let error = Tokenizer::from_files(&files).unwrap_err();
        assert!(error.to_string().starts_with("cannot read tokenizer.json: EOF"), "{error}");
    }

    #[test]
    fn threads_agree() {
        let tokenizer = tiny(&[], json!({}));
        let text = "the quick, brown fox ".repeat(50);
        let want = tokenizer.encode(&text, false).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(tokenizer.encode(&text, false).unwrap(), want));
            }
        });
    }

    #[test]
    fn think_markers_come_from_the_vocabulary() {
        assert_eq!(tiny(&["<think>"], json!({})).think_markers(), None);
        let markers = tiny(&["<think>", "</think>"], json!({})).think_markers().unwrap();
        assert_eq!((markers.start.as_str(), markers.end.as_str()), ("<think>", "</think>"));
    }
}
