//! The error of the engine: what happened, in one sentence, and what to do about it.

use std::error::Error as StdError;
use std::fmt;

/// What sort of situation an [`EngineError`] reports; callers branch on this, people read the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file, model or adapter that was named does not exist.
    NotFound,
    /// A checkpoint's files contradict each other or are damaged.
    InvalidCheckpoint,
    /// The checkpoint is sound but its architecture is not implemented.
    UnsupportedModel,
    /// The checkpoint's quantization format is not implemented.
    UnsupportedQuantization,
    /// The tokenizer cannot be read, or refused a text.
    Tokenizer,
    /// The chat template cannot be compiled, or refused a conversation.
    Template,
    /// A generation parameter is out of its range.
    InvalidParameter,
    /// A message, prompt or image cannot be used as given.
    InvalidInput,
    /// The prompt and the answer together exceed the model's context.
    ContextExceeded,
    /// Not enough memory for what was asked.
    OutOfMemory,
    /// The caller cancelled.
    Cancelled,
    /// This model or backend cannot do what was asked.
    Unsupported,
    /// The operating system refused to read or write.
    Io,
    /// A bug in the engine.
    Internal,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::NotFound => "not found",
            ErrorKind::InvalidCheckpoint => "invalid checkpoint",
            ErrorKind::UnsupportedModel => "unsupported model",
            ErrorKind::UnsupportedQuantization => "unsupported quantization",
            ErrorKind::Tokenizer => "tokenizer",
            ErrorKind::Template => "chat template",
            ErrorKind::InvalidParameter => "invalid parameter",
            ErrorKind::InvalidInput => "invalid input",
            ErrorKind::ContextExceeded => "context exceeded",
            ErrorKind::OutOfMemory => "out of memory",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Io => "i/o",
            ErrorKind::Internal => "internal",
        })
    }
}

/// What went wrong, what to do about it, and what caused it.
///
/// `Display` prints the message, then the remedy after `; `. The cause is reached through
/// [`std::error::Error::source`] and is never needed to understand the message.
pub struct EngineError {
    // Boxed so that `Result<T, EngineError>` stays one pointer wide on the hot path.
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    remedy: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The result of engine calls.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

impl EngineError {
    /// An error with a message that starts in lower case and has no final period.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        EngineError { inner: Box::new(Inner { kind, message, remedy: None, source: None }) }
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.inner.remedy = Some(remedy.into());
        self
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// Puts what was being done in front of the message: `context: message`.
    #[must_use]
    pub fn in_context(mut self, context: impl fmt::Display) -> Self {
        self.inner.message = format!("{context}: {}", self.inner.message);
        self
    }

    /// The sort of situation.
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// What happened, without the remedy.
    pub fn message(&self) -> &str {
        &self.inner.message
    }

    /// What the user can do about it.
    pub fn remedy(&self) -> Option<&str> {
        self.inner.remedy.as_deref()
    }
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.inner.message)?;
        match &self.inner.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("EngineError");
        out.field("kind", &self.inner.kind).field("message", &self.inner.message);
        if let Some(remedy) = &self.inner.remedy {
            out.field("remedy", remedy);
        }
        if let Some(source) = &self.inner.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for EngineError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_one_sentence_and_keeps_its_cause() {
        let cause = std::io::Error::other("disk");
        let error = EngineError::new(ErrorKind::Io, "cannot read model.safetensors")
            .with_remedy("download the file again")
            .with_source(cause);
        assert_eq!(error.to_string(), "cannot read model.safetensors; download the file again");
        assert_eq!(error.kind(), ErrorKind::Io);
        assert_eq!(error.source().unwrap().to_string(), "disk");
        assert_eq!(error.in_context("loading x").message(), "loading x: cannot read model.safetensors");
    }

    #[test]
    fn is_one_pointer_and_can_cross_threads() {
        fn check<T: Send + Sync + 'static>() {}
        check::<EngineError>();
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
