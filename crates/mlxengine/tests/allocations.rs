//! What a decode loop asks of the allocator. Threads of the pool count for themselves and are not seen; they compute on
//! slices alone.

use mlxengine::InferenceEngine;
use mlxengine_models::{CacheOptions, Span};

#[test]
fn a_warm_decode_loop_allocates_next_to_nothing() {
    let model = InferenceEngine::load("demo").unwrap().model().unwrap();
    let network = &*model.network;
    let mut state = network.state(&CacheOptions::default()).unwrap();
    let mut token = 1;
    let mut step = || {
        let hidden = network.forward(&mut [Span { tokens: &[token], state: &mut state }]);
        let logits = network.logits(&hidden);
        token = logits.f32s().iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(i, _)| i as u32);
    };
    // The caches have room for 256 positions then, and every size of activation has been seen.
    (0..20).for_each(|_| step());
    let counted = allocation_counter::measure(|| (0..100).for_each(|_| step()));
    assert_eq!(counted.count_total, 0, "{counted:?} in 100 tokens");
}
