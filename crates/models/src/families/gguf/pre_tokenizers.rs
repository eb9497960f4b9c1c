//! What words are to tokenizers, by the names that GGUF gives them.

/// What a word is, beyond which no bytes are merged.
#[derive(Debug)]
pub(crate) struct Words {
    pub(super) names: &'static [&'static str],
    /// Expressions that cut one after the other; without any, those of the byte-level tokenizer itself do.
    pub(crate) splits: &'static [&'static str],
    /// Each digit is a word, before the byte-level tokenizer's expression.
    pub(crate) single_digits: bool,
    /// Accents are joined with their letters first.
    pub(crate) composed: bool,
    /// A word that is a token becomes it, whatever merges say.
    pub(crate) whole_tokens_first: bool,
    /// A text begins with a special token, unless the file says otherwise.
    pub(crate) begins: bool,
}

const PLAIN: Words =
    Words { names: &[], splits: &[], single_digits: false, composed: false, whole_tokens_first: false, begins: false };
const BY_THREE: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BY_ONE: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MARKS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const CASED: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const CASED_ENDINGS: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SYMBOLS: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const DIGITS: Words = Words { single_digits: true, ..PLAIN };

pub(super) const WORDS: &[Words] = &[
    Words { names: &["gpt-2", "phi-2", "olmo", "mellum", "exaone4", "jais"], ..PLAIN },
    Words { names: &["smollm", "starcoder", "refact", "exaone", "codeshell"], ..DIGITS },
    Words { names: &["command-r"], composed: true, ..DIGITS },
    Words {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"],
        splits: &[BY_THREE],
        whole_tokens_first: true,
        begins: true,
        ..PLAIN
    },
    Words { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], splits: &[BY_THREE], ..PLAIN },
    Words { names: &["glm4"], splits: &[BY_THREE], whole_tokens_first: true, ..PLAIN },
    Words { names: &["qwen2", "deepseek-r1-qwen", "megrez"], splits: &[BY_ONE], composed: true, ..PLAIN },
    Words { names: &["stablelm2"], splits: &[BY_ONE], ..PLAIN },
    Words { names: &["qwen35"], splits: &[MARKS], composed: true, ..PLAIN },
    Words { names: &["tekken"], splits: &[CASED], whole_tokens_first: true, begins: true, ..PLAIN },
    Words { names: &["gpt-4o", "llama4"], splits: &[CASED_ENDINGS], ..PLAIN },
    Words { names: &["deepseek-v3"], splits: &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", SYMBOLS], ..PLAIN },
];
