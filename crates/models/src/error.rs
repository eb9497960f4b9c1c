//! Why a checkpoint cannot become a model.

use std::fmt;

use mlxengine_tensor::FileError;

/// What kind of trouble an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A file or directory is not there.
    NotFound,
    /// A file is there and wrong: cut, damaged, or at odds with another.
    InvalidCheckpoint,
    /// The architecture is not known, or asks for something that is not supported.
    UnsupportedModel,
    /// The quantization is not known.
    UnsupportedQuantization,
    /// An option does not fit the model.
    InvalidOption,
    /// The operating system refused something: a full disk, no permission.
    Io,
    /// It was asked to stop.
    Cancelled,
}

/// Why a checkpoint cannot become a model: one sentence with the fault, the place and the remedy.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
}

impl Error {
    /// An error from its parts.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidCheckpoint, message)
    }

    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::UnsupportedModel, message)
    }

    /// What kind of trouble this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl From<FileError> for Error {
    fn from(e: FileError) -> Self {
        let kind = match e.io_kind() {
            Some(std::io::ErrorKind::NotFound) => ErrorKind::NotFound,
            Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) => ErrorKind::Io,
            _ => ErrorKind::InvalidCheckpoint,
        };
        Error::new(kind, e.to_string())
    }
}

impl Error {
    /// The same error, beginning with the checkpoint's name.
    pub(crate) fn in_checkpoint(self, checkpoint: &crate::Checkpoint) -> Self {
        Self { message: format!("{}: {}", checkpoint.source.name(), self.message), ..self }
    }
}
