//! From a GGUF file's vocabulary to `tokenizer.json` and what lies beside it.

use std::collections::{HashMap, HashSet};

use mlxengine_tensor::gguf::{Layout, Value as Entry};
use serde_json::{Map, Value, json};

use crate::families::gguf::{Kind, Words};
use crate::{Error, Result};

/// The vocabulary, checked.
pub(super) struct Vocabulary<'a> {
    layout: &'a Layout,
    tokens: &'a [String],
    types: Vec<Type>,
    kind: Kind,
    /// Ids by role.
    roles: Vec<(&'static str, usize)>,
    /// Ids that end an answer.
    ends: Vec<usize>,
}

/// What a token is, by GGUF's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// Roles as checkpoints call them, and as GGUF does.
const ROLES: [(&str, &str); 4] = [("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")];

const SPACE: char = '▁';

impl<'a> Vocabulary<'a> {
    pub(super) fn read(layout: &'a Layout) -> Result<Self> {
        let Some(Entry::Texts(tokens)) = key(layout, "tokens") else {
            return Err(Error::invalid("the file has no tokenizer.ggml.tokens: it holds no whole model"));
        };
        let model = text(layout, "model").unwrap_or_default();
        let kind = Kind::find(model, text(layout, "pre"))?;
        let types = match key(layout, "token_type") {
            Some(Entry::Signeds(list)) => list.iter().map(|n| Type::from_number(*n)).collect(),
            Some(Entry::Unsigneds(list)) => list.iter().map(|n| Type::from_number(*n as i64)).collect(),
            _ => vec![Type::Normal; tokens.len()],
        };
        if types.len() != tokens.len() {
            return Err(Error::invalid(format!("{} tokens have {} types", tokens.len(), types.len())));
        }
        if let Some(Entry::Bool(true)) = key(layout, "normalizer.lowercase") {
            return Err(Error::unsupported("a tokenizer that writes all letters small is not supported by the import"));
        }
        let id = |role: &str| number(layout, &format!("{role}_token_id")).filter(|id| *id < tokens.len());
        let roles: Vec<_> = ROLES.iter().filter_map(|(role, name)| Some((*role, id(name)?))).collect();
        let mut ends: Vec<usize> = ["eos", "eot", "eom"].iter().filter_map(|role| id(role)).collect();
        let mut seen = HashSet::new();
        ends.retain(|id| seen.insert(*id));
        Ok(Self { layout, tokens, types, kind, roles, ends })
    }

    fn role(&self, role: &str) -> Option<usize> {
        self.roles.iter().find(|(name, _)| *name == role).map(|(_, id)| *id)
    }

    /// Keys of `config.json` and `generation_config.json` that name tokens.
    pub(super) fn ids(&self) -> Map<String, Value> {
        let one_or_more = |ids: &[usize]| if let [id] = ids { json!(id) } else { json!(ids) };
        let of = |(role, id): &(&str, usize)| match *role {
            "unk" => None,
            "eos" => Some(("eos_token_id".to_owned(), one_or_more(&self.ends))),
            role => Some((format!("{role}_token_id"), json!(id))),
        };
        self.roles.iter().filter_map(of).collect()
    }

    /// Whether a text begins as if a space came before it.
    fn marks_first_word(&self) -> bool {
        !matches!(key(self.layout, "add_space_prefix"), Some(Entry::Bool(false)))
    }

    /// The tokens that text never becomes by merging.
    fn added(&self) -> Vec<Value> {
        let added = |(id, kind): (usize, &Type)| {
            let special = matches!(kind, Type::Control | Type::Unknown);
            let listed = special || *kind == Type::UserDefined;
            listed.then(|| {
                json!({
                    "id": id, "content": self.tokens[id], "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
        };
        self.types.iter().enumerate().filter_map(added).collect()
    }

    /// Every token with its id, but for those that only fill up the table.
    fn ids_by_token(&self) -> Result<Map<String, Value>> {
        let mut vocabulary = Map::new();
        for (id, (token, kind)) in self.tokens.iter().zip(&self.types).enumerate() {
            let filler = *kind == Type::Unused && token.starts_with("[PAD");
            if !filler && !token.is_empty() && vocabulary.insert(token.clone(), json!(id)).is_some() {
                return Err(Error::invalid(format!("the token {token:?} is twice in the vocabulary")));
            }
        }
        Ok(vocabulary)
    }

    /// `tokenizer.json`.
    pub(super) fn tokenizer(&self) -> Result<Value> {
        let (vocabulary, added) = (self.ids_by_token()?, self.added());
        let (words, merges) = match self.kind {
            Kind::Bytes(words) => (Some(words), self.merges()?),
            Kind::Pieces => (None, self.merges_by_score(&vocabulary)?),
        };
        let (normalizer, pre_tokenizer, decoder) = match words {
            Some(words) => bytes(words),
            None => pieces(self.marks_first_word()),
        };
        let unknown = self.role("unk").or_else(|| self.types.iter().position(|kind| *kind == Type::Unknown));
        let unknown = unknown.filter(|_| words.is_none()).map(|id| &self.tokens[id]);
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": words.is_none(), "byte_fallback": self.types.contains(&Type::Byte),
            "ignore_merges": words.is_some_and(|words| words.whole_tokens_first), "vocab": vocabulary, "merges": merges,
        });
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "post_processor": self.post_processor(words), "decoder": decoder,
            "model": model,
        }))
    }

    /// The pairs that are merged, in the order of the file.
    fn merges(&self) -> Result<Vec<Value>> {
        let Some(Entry::Texts(merges)) = key(self.layout, "merges") else {
            return Err(Error::invalid("the file has no tokenizer.ggml.merges: convert it again"));
        };
        let pair = |text: &String| {
            // The first part may begin with a space, but is not empty.
            let second = text.char_indices().nth(1).map_or(text.len(), |(at, _)| at);
            let space = text[second..].find(' ').map(|at| second + at);
            let space = space.ok_or_else(|| Error::invalid(format!("the merge {text:?} has no two parts")))?;
            Ok(json!([text[..space], text[space + 1..]]))
        };
        merges.iter().map(pair).collect()
    }

    /// The pairs whose union is a token, the best score first: what a vocabulary with scores means as merges.
    fn merges_by_score(&self, vocabulary: &Map<String, Value>) -> Result<Vec<Value>> {
        let Some(Entry::Floats(scores)) = key(self.layout, "scores").filter(|_| self.tokens.len() < 1 << 24) else {
            return Err(Error::invalid("the file has no tokenizer.ggml.scores: it is damaged"));
        };
        if scores.len() != self.tokens.len() {
            return Err(Error::invalid(format!("{} tokens have {} scores", self.tokens.len(), scores.len())));
        }
        let normal = |id: usize| matches!(self.types[id], Type::Normal | Type::Unused);
        let ids: HashMap<&str, usize> = vocabulary
            .iter()
            .filter_map(|(token, id)| Some((token.as_str(), id.as_u64()? as usize)))
            .filter(|(_, id)| normal(*id))
            .collect();
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate().filter(|(id, _)| normal(*id)) {
            let splits = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let pairs = splits.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
            merges.extend(pairs.map(|pair| (scores[id], pair)));
        }
        let characters: Vec<usize> = self.tokens.iter().map(|token| token.chars().count()).collect();
        // The order of the converter that most checkpoints of this kind went through, for pairs of one score too.
        merges.sort_by(|(x, a), (y, b)| {
            let lengths = |pair: &(usize, usize)| [characters[pair.0], characters[pair.1]];
            y.total_cmp(x).then_with(|| lengths(b).cmp(&lengths(a)))
        });
        Ok(merges.iter().map(|(_, (left, right))| json!([self.tokens[*left], self.tokens[*right]])).collect())
    }

    /// What is put before and after a text that no template wrote.
    fn post_processor(&self, words: Option<&Words>) -> Value {
        let flag = |name: &str, default: bool| match key(self.layout, name) {
            Some(Entry::Bool(flag)) => *flag,
            _ => default,
        };
        let first = self.role("bos").filter(|_| flag("add_bos_token", words.is_none_or(|words| words.begins)));
        let last = self.role("eos").filter(|_| flag("add_eos_token", false));
        if first.or(last).is_none() {
            return Value::Null;
        }
        let special = |id: Option<usize>, kind: usize| {
            id.map(|id| json!({"SpecialToken": {"id": self.tokens[id], "type_id": kind}})).into_iter()
        };
        let around = |name: &str, kind: usize| -> Vec<Value> {
            let text = json!({"Sequence": {"id": name, "type_id": kind}});
            special(first, kind).chain([text]).chain(special(last, kind)).collect()
        };
        let pair: Vec<Value> = around("A", 0).into_iter().chain(around("B", 1)).collect();
        let tokens: Map<String, Value> = [first, last]
            .into_iter()
            .flatten()
            .map(|id| {
                (self.tokens[id].clone(), json!({"id": self.tokens[id], "ids": [id], "tokens": [self.tokens[id]]}))
            })
            .collect();
        json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens})
    }

    /// `tokenizer_config.json`.
    pub(super) fn configuration(&self) -> Value {
        let mut config = Map::new();
        let class = self.kind.class(self.marks_first_word());
        config.insert("tokenizer_class".to_owned(), json!(class));
        config.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        config.extend(self.roles.iter().map(|(role, id)| (format!("{role}_token"), json!(self.tokens[*id]))));
        let added = self.added().into_iter().map(|mut token| {
            let id = token["id"].take().to_string();
            token.as_object_mut().expect("an object was built").remove("id");
            (id, token)
        });
        config.insert("added_tokens_decoder".to_owned(), Value::Object(added.collect()));
        config.into()
    }

    /// The chat templates, as files.
    pub(super) fn templates(&self) -> Vec<(String, String)> {
        const KEY: &str = "tokenizer.chat_template";
        let plain =
            |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let file = |key: &str| match key.strip_prefix(KEY)? {
            "" => Some("chat_template.jinja".to_owned()),
            name => name
                .strip_prefix('.')
                .filter(|name| plain(name))
                .map(|n| format!("additional_chat_templates/{n}.jinja")),
        };
        let entries = self.layout.metadata.iter().filter_map(|(key, value)| match value {
            Entry::Text(text) => Some((file(key)?, text.clone())),
            _ => None,
        });
        entries.collect()
    }
}

impl Type {
    fn from_number(number: i64) -> Type {
        match number {
            2 => Type::Unknown,
            3 => Type::Control,
            4 => Type::UserDefined,
            5 => Type::Unused,
            6 => Type::Byte,
            _ => Type::Normal,
        }
    }
}

fn key<'a>(layout: &'a Layout, name: &str) -> Option<&'a Entry> {
    layout.get(&format!("tokenizer.ggml.{name}"))
}

fn text<'a>(layout: &'a Layout, name: &str) -> Option<&'a str> {
    if let Some(Entry::Text(text)) = key(layout, name) { Some(text) } else { None }
}

fn number(layout: &Layout, name: &str) -> Option<usize> {
    match key(layout, name)? {
        Entry::Unsigned(n) => usize::try_from(*n).ok(),
        Entry::Signed(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

/// Normalizer, pre-tokenizer and decoder of a tokenizer that merges bytes inside of words.
fn bytes(words: &Words) -> (Value, Value, Value) {
    let level =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let digits = words.single_digits.then(|| json!({"type": "Digits", "individual_digits": true}));
    let split =
        |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let steps: Vec<Value> =
        words.splits.iter().map(split).chain(digits).chain([level(words.splits.is_empty())]).collect();
    let pre_tokenizer = match &steps[..] {
        [one] => one.clone(),
        _ => json!({"type": "Sequence", "pretokenizers": steps}),
    };
    let normalizer = if words.composed { json!({"type": "NFC"}) } else { Value::Null };
    (normalizer, pre_tokenizer, level(true))
}

/// The same of a tokenizer that merges pieces of text in which spaces are marks.
fn pieces(prefix: bool) -> (Value, Value, Value) {
    let mark = json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE});
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if !prefix {
        let split =
            json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
        return (mark, split, json!({"type": "Sequence", "decoders": decoders}));
    }
    decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    let prepend = json!({"type": "Prepend", "prepend": SPACE});
    let normalizer = json!({"type": "Sequence", "normalizers": [prepend, mark]});
    (normalizer, Value::Null, json!({"type": "Sequence", "decoders": decoders}))
}
