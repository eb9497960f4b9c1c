//! Memory of activations, kept for the next step instead of given back.
//!
//! Every step of a decoder asks for the same few sizes. Blocks return here when their last tensor goes, reference count and
//! all, so that a decode loop that has warmed up allocates nothing.

use std::sync::{Arc, Mutex};

/// Words of a cache line.
const LINE: usize = 16;

/// Memory of at least the words asked for; contents are whatever the last user left.
///
/// It begins with a cache line, which an allocation need not: a large one begins 16 bytes after a page, where every access of a
/// whole line takes two, and attention over long caches takes twice its time.
pub(crate) struct Block {
    memory: Vec<u32>,
    start: usize,
}

impl Block {
    fn new(words: usize) -> Self {
        // Lines as elements would need no room to spare, but their zeros would be written, not had from the system.
        let memory = vec![0u32; words + LINE - 1];
        let start = memory.as_ptr().align_offset(4 * LINE);
        // An allocation may say that it cannot tell.
        Self { start: if start < LINE { start } else { 0 }, memory }
    }

    fn len(&self) -> usize {
        self.memory.len() - (LINE - 1)
    }

    pub(crate) fn words(&self) -> &[u32] {
        &self.memory[self.start..][..self.len()]
    }

    pub(crate) fn words_mut(&mut self) -> &mut [u32] {
        let len = self.len();
        &mut self.memory[self.start..][..len]
    }
}

/// Blocks larger than this are given back to the system at once: they belong to prefill and caches, not to the loop.
const LARGEST_KEPT: usize = 32 << 20;
/// Most bytes that wait for a next use.
const MOST_KEPT: usize = 64 << 20;

struct Shelf {
    free: Vec<Vec<Arc<Block>>>,
    bytes: usize,
}

static SHELF: Mutex<Shelf> = Mutex::new(Shelf { free: Vec::new(), bytes: 0 });

/// Words that a request of `words` gets, and the shelf it returns to: four sizes an octave, at most a quarter wasted.
fn class(words: usize) -> (usize, usize) {
    if words <= 16 {
        return (16, 0);
    }
    let octave = (usize::BITS - 1 - (words - 1).leading_zeros()) as usize;
    let step = 1 << (octave - 2);
    let size = words.div_ceil(step) * step;
    (size, (octave - 4) * 4 + (size >> (octave - 2)) - 4)
}

/// A block of at least `words` words, used before or zeroed.
pub(crate) fn take(words: usize) -> Arc<Block> {
    let (size, shelf) = class(words);
    let mut pool = SHELF.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(block) = pool.free.get_mut(shelf).and_then(Vec::pop) {
        pool.bytes -= block.len() * 4;
        return block;
    }
    drop(pool);
    Arc::new(Block::new(size))
}

/// Takes a block back, if this was its last user.
pub(crate) fn give(mut block: Arc<Block>) {
    let Some(unique) = Arc::get_mut(&mut block) else { return };
    let words = unique.len();
    let (size, shelf) = class(words);
    debug_assert_eq!(size, words);
    let mut pool = SHELF.lock().unwrap_or_else(|e| e.into_inner());
    if words * 4 > LARGEST_KEPT || pool.bytes + words * 4 > MOST_KEPT {
        drop(pool);
        return;
    }
    if pool.free.len() <= shelf {
        pool.free.resize_with(shelf + 1, Vec::new);
    }
    pool.bytes += words * 4;
    pool.free[shelf].push(block);
}

/// Gives everything that waits for a next use back to the system.
pub fn clear() {
    let mut pool = SHELF.lock().unwrap_or_else(|e| e.into_inner());
    pool.free.clear();
    pool.bytes = 0;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_at_most_a_quarter_and_are_stable() {
        let mut last = (0, 0);
        for words in 1..100_000usize {
            let (size, shelf) = class(words);
            assert!(size >= words && (size <= 16 || size * 4 <= words * 5 + 4), "{words} -> {size}");
            assert_eq!(class(size), (size, shelf), "a block goes back where it came from");
            assert!((size > last.0) == (shelf > last.1) || last.0 == 0, "{words}: {size} on {shelf} after {last:?}");
            last = (size, shelf);
        }
    }

    #[test]
    fn blocks_begin_with_a_line() {
        for words in [1, 17, 1000, 1_000_000] {
            let mut block = take(words);
            assert!(block.words().as_ptr().addr().is_multiple_of(64) && block.words().len() >= words);
            Arc::get_mut(&mut block).unwrap().words_mut().fill(1);
        }
    }

    #[test]
    fn a_block_in_use_elsewhere_is_not_kept() {
        let block = take(5_000_001);
        let other = block.clone();
        give(block);
        assert_eq!(Arc::strong_count(&other), 1);
    }
}
