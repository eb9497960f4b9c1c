//! Why a command ends early.

use mlxengine::hub::HubError;
use mlxengine::{EngineError, ErrorKind};

/// A result of a command or a part of it.
pub type Result<T, E = Stop> = std::result::Result<T, E>;

/// Why a command ends early.
#[derive(Debug)]
pub enum Stop {
    /// Something went wrong.
    Failed(EngineError),
    /// The user pressed Ctrl-C.
    Interrupted,
    /// Nobody reads our output any more.
    Closed,
}

impl From<EngineError> for Stop {
    fn from(error: EngineError) -> Self {
        Stop::Failed(error)
    }
}

impl From<HubError> for Stop {
    fn from(error: HubError) -> Self {
        let kind = match &error {
            HubError::Cancelled => return Stop::Interrupted,
            HubError::NotFound { .. }
            | HubError::RevisionMissing { .. }
            | HubError::FileMissing { .. }
            | HubError::NotCached { .. } => ErrorKind::NotFound,
            HubError::Invalid { .. } | HubError::HostileName { .. } => ErrorKind::InvalidInput,
            HubError::Corrupt { .. } => ErrorKind::InvalidCheckpoint,
            HubError::NoWeights { .. } => ErrorKind::UnsupportedModel,
            _ => ErrorKind::Io,
        };
        let remedy = error.remedy();
        let failed = EngineError::new(kind, error.message());
        Stop::Failed(match remedy {
            Some(remedy) => failed.with_remedy(remedy),
            None => failed,
        })
    }
}

/// An error about what the user gave.
pub fn invalid(message: impl Into<String>) -> EngineError {
    EngineError::new(ErrorKind::InvalidInput, message)
}

/// An error of the operating system: `cannot write notes.md: permission denied`.
pub fn io(what: impl std::fmt::Display, error: std::io::Error) -> EngineError {
    EngineError::new(ErrorKind::Io, format!("{what}: {error}")).with_source(error)
}
