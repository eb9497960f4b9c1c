//! The bytes of every token of a vocabulary, for matching grammars.

use toktrie::{TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::error::{EngineError, ErrorKind, Result};
use crate::text::Tokenizer;

/// A tokenizer as grammars see it.
pub(super) struct Vocabulary {
    tokenizer: Tokenizer,
    trie: TokTrie,
}

impl Vocabulary {
    /// The vocabulary of a tokenizer whose model has `vocab` scores.
    ///
    /// # Errors
    /// If no token ends an answer.
    pub(super) fn new(tokenizer: &Tokenizer, vocab: usize, end_tokens: &[u32]) -> Result<Self> {
        let ends: Vec<u32> = end_tokens.iter().copied().filter(|id| (*id as usize) < vocab).collect();
        let Some(&end) = ends.first() else {
            let message = "the model has no end token, so that a constrained answer could not end";
            return Err(EngineError::new(ErrorKind::Unsupported, message));
        };
        let tokens = Tokens { tokenizer, decode: tokenizer.piece_decoder() };
        let words: Vec<Vec<u8>> = (0..vocab as u32).map(|id| tokens.bytes(id)).collect();
        let info = TokRxInfo::new(vocab as u32, end);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(&ends);
        Ok(Self { tokenizer: tokenizer.clone(), trie })
    }
}

struct Tokens<'a> {
    tokenizer: &'a Tokenizer,
    decode: Box<dyn Fn(u32) -> Vec<u8> + 'a>,
}

impl Tokens<'_> {
    /// The bytes that a token adds to a text. A control token has its name after a byte that no text contains.
    fn bytes(&self, id: u32) -> Vec<u8> {
        if self.tokenizer.is_added(id) {
            let name = self.tokenizer.id_to_token(id).unwrap_or_default();
            // Markers are control tokens even where the file forgets to say so; runs of spaces are text.
            let marker = |open: char, close: char| name.starts_with(open) && name.ends_with(close);
            if self.tokenizer.is_special(id) || marker('<', '>') || marker('[', ']') {
                return [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat();
            }
            return name.into_bytes();
        }
        (self.decode)(id)
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.tokenizer.encode(text, false).unwrap_or_default())
    }

    /// A model may spell a text in any way.
    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
