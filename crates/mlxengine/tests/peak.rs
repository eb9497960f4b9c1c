//! Counting of the process's memory, in a process where nothing else happens.
#![cfg(target_os = "linux")]

use mlxengine::memory::{peak, reset_peak};

#[test]
fn a_peak_can_be_forgotten() {
    let much = 300_000_000;
    let memory = std::hint::black_box(vec![1u8; much]);
    assert!(peak().is_some_and(|bytes| bytes >= much as u64), "{:?}", peak());
    drop(memory);
    if reset_peak() {
        assert!(peak().is_some_and(|bytes| bytes < much as u64), "{:?}", peak());
    }
}
