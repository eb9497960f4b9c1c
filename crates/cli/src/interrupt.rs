//! Ctrl-C: once stops the answer, a second time leaves the program.

use std::sync::{Arc, Mutex, PoisonError};

use mlxengine::{CancelToken, EngineError, ErrorKind};

use crate::INTERRUPTED;
use crate::failure::Result;

/// What Ctrl-C stops: the answer under way, or the program.
#[derive(Clone, Default)]
pub struct Interrupts {
    answer: Arc<Mutex<Option<CancelToken>>>,
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
        match &*self.answer.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(answer) if !answer.is_cancelled() => answer.cancel(),
            // No answer to stop, or it was asked to stop and has not yet: a layer of a large model takes its time.
            _ => std::process::exit(i32::from(INTERRUPTED)),
        }
    }

    /// Lets Ctrl-C stop this answer until the guard is dropped.
    pub fn guard(&self, answer: CancelToken) -> Guard {
        self.set(Some(answer));
        Guard { interrupts: self.clone() }
    }

    fn set(&self, answer: Option<CancelToken>) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }
}

/// While this lives, Ctrl-C stops an answer first.
pub struct Guard {
    interrupts: Interrupts,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.interrupts.set(None);
    }
}
