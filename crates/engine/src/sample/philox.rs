//! Philox 4x32-10, a counter-based random generator (Salmon, Moraes, Dror and Shaw, SC 2011).
//!
//! A draw is a pure function of key and counter, so that the same seed gives the same text whatever else runs: no state
//! is advanced by other sequences, by batching or by tokens that were drawn and thrown away.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The block for a counter and a key.
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let (high0, low0) = multiply(MULTIPLIERS[0], counter[0]);
        let (high1, low1) = multiply(MULTIPLIERS[1], counter[2]);
        counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0];
    }
    counter
}

fn multiply(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}

/// Two uniform numbers in `[0, 1)` with 53 random bits each, for one position of one sequence.
pub fn uniform_pair(seed: u64, stream: u64, position: u64) -> [f64; 2] {
    let halves = |n: u64| [n as u32, (n >> 32) as u32];
    let ([p0, p1], [s0, s1]) = (halves(position), halves(stream));
    let [a, b, c, d] = philox4x32([p0, p1, s0, s1], halves(seed));
    let unit = |low: u32, high: u32| {
        let bits = (u64::from(high) << 32 | u64::from(low)) >> 11;
        bits as f64 * (1.0 / (1u64 << 53) as f64)
    };
    [unit(a, b), unit(c, d)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        for (counter, key, want) in [
            ([0; 4], [0; 2], [0x6627_E8D5, 0xE169_C58D, 0xBC57_AC4C, 0x9B00_DBD8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408F_276D, 0x41C8_3B0E, 0xA20B_C7C6, 0x6D54_51FD]),
            (
                [0x243F_6A88, 0x85A3_08D3, 0x1319_8A2E, 0x0370_7344],
                [0xA409_3822, 0x299F_31D0],
                [0xD16C_FE09, 0x94FD_CCEB, 0x5001_E420, 0x2412_6EA1],
            ),
        ] {
            assert_eq!(philox4x32(counter, key), want);
        }
    }

    #[test]
    fn uniforms_are_spread_and_keyed_by_everything() {
        let mut tenths = [0usize; 10];
        for position in 0..5_000 {
            for u in uniform_pair(7, 1, position) {
                assert!((0.0..1.0).contains(&u));
                tenths[(u * 10.0) as usize] += 1;
            }
        }
        assert!(tenths.iter().all(|n| (880..1120).contains(n)), "{tenths:?}");
        let base = uniform_pair(1, 2, 3);
        for other in [uniform_pair(2, 2, 3), uniform_pair(1, 3, 3), uniform_pair(1, 2, 4), uniform_pair(1 << 32, 2, 3)]
        {
            assert_ne!(base, other);
        }
    }
}
