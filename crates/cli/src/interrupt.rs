//! Ctrl-C: once stops the work under way, a second time leaves the program.

use std::sync::{Arc, Mutex, PoisonError};

use mlxengine::hub::Cancel;
use mlxengine::{CancelToken, EngineError, ErrorKind};

use crate::INTERRUPTED;
use crate::failure::Result;

/// Something that Ctrl-C stops before it stops the program.
pub enum Work {
    /// An answer.
    Answer(CancelToken),
    /// A download, or the reading of many files.
    Transfer(Cancel),
}

impl Work {
    fn is_cancelled(&self) -> bool {
        match self {
            Work::Answer(answer) => answer.is_cancelled(),
            Work::Transfer(transfer) => transfer.is_cancelled(),
        }
    }

    fn cancel(&self) {
        match self {
            Work::Answer(answer) => answer.cancel(),
            Work::Transfer(transfer) => transfer.cancel(),
        }
    }
}

impl From<CancelToken> for Work {
    fn from(answer: CancelToken) -> Self {
        Work::Answer(answer)
    }
}

impl From<Cancel> for Work {
    fn from(transfer: Cancel) -> Self {
        Work::Transfer(transfer)
    }
}

/// What Ctrl-C stops: the work under way, or the program.
#[derive(Clone, Default)]
pub struct Interrupts {
    work: Arc<Mutex<Option<Work>>>,
}

impl Interrupts {
    /// Takes over Ctrl-C for the whole process.
    pub fn install() -> Result<Self> {
        let interrupts = Self::default();
        let handler = interrupts.clone();
        ctrlc::set_handler(move || handler.interrupt())
            .map_err(|e| EngineError::new(ErrorKind::Io, format!("cannot watch for Ctrl-C: {e}")).with_source(e))?;
        Ok(interrupts)
    }

    fn interrupt(&self) {
        match &*self.work.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(work) if !work.is_cancelled() => work.cancel(),
            // Nothing to stop, or it was asked to stop and has not yet: a layer of a large model takes its time.
            _ => std::process::exit(i32::from(INTERRUPTED)),
        }
    }

    /// Lets Ctrl-C stop this work until the guard is dropped.
    pub fn guard(&self, work: impl Into<Work>) -> Guard {
        self.set(Some(work.into()));
        Guard { interrupts: self.clone() }
    }

    fn set(&self, work: Option<Work>) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }
}

/// While this lives, Ctrl-C stops its work first.
pub struct Guard {
    interrupts: Interrupts,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.interrupts.set(None);
    }
}
