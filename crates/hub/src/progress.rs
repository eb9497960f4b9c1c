//! What a caller hears while models are fetched, and how it stops that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// Something that happened. Events of one file come in order; those of several files mingle.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The files are known.
    Listed {
        /// The commit.
        commit: &'a str,
        /// How many files are needed.
        files: usize,
        /// Their bytes, as far as they are known.
        bytes: u64,
        /// Bytes of them that are here already.
        here: u64,
    },
    /// A file is being fetched.
    Started {
        /// The file.
        file: &'a str,
        /// Its size, if it is known.
        size: Option<u64>,
        /// Bytes of it that are here already.
        here: u64,
    },
    /// Bytes of a file have come.
    Came {
        /// The file.
        file: &'a str,
        /// How many bytes are here now. It can fall, where bytes had to be thrown away.
        here: u64,
    },
    /// Another process fetches the file: this one waits for it.
    Waiting {
        /// The file.
        file: &'a str,
    },
    /// Something failed that may pass.
    Retrying {
        /// The file, or what else was asked for.
        file: &'a str,
        /// What failed.
        why: &'a str,
        /// The pause before it is tried again.
        pause: Duration,
    },
    /// The file is whole, verified and has its name.
    Finished {
        /// The file.
        file: &'a str,
        /// Its size.
        size: u64,
    },
}

/// Whoever wants to hear of events; called from one thread at a time.
pub type Listener<'a> = &'a (dyn Fn(&Event<'_>) + Sync);

/// Stops a transfer from another thread; clones stop the same one. What has come is kept.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    set: AtomicBool,
    woken: Notify,
}

impl Cancel {
    /// Stops it.
    pub fn cancel(&self) {
        self.0.set.store(true, Ordering::SeqCst);
        self.0.woken.notify_waiters();
    }

    /// Whether it was stopped.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.set.load(Ordering::SeqCst)
    }

    /// Returns once it is stopped.
    pub(crate) async fn cancelled(&self) {
        let mut woken = std::pin::pin!(self.0.woken.notified());
        woken.as_mut().enable();
        if !self.is_cancelled() {
            woken.await;
        }
    }
}
