//! Codes from the orders of other tools into MLX's: a little-endian bit stream along each row.

/// Where AWQ puts eight neighbours in a word: entry `i` is the place of the nibble of the `i`-th.
const AWQ: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Rows that are worked on together, so that what lies beside each other in memory is read once.
const TILE: usize = 16;

/// Nibbles `[inputs, outputs]`, eight outputs a word in AWQ's order, as words `[outputs, inputs / 8]`.
pub(super) fn awq(words: &[u32], inputs: usize, outputs: usize) -> Vec<u32> {
    let (across, down) = (outputs / 8, inputs / 8);
    let mut rows = vec![0; words.len()];
    for column in 0..across {
        for block in 0..down {
            for i in 0..8 {
                let word = words[(block * 8 + i) * across + column];
                for (j, place) in AWQ.iter().enumerate() {
                    rows[(column * 8 + j) * down + block] |= (word >> (4 * place) & 15) << (4 * i);
                }
            }
        }
    }
    rows
}

/// Nibbles of words in AWQ's order, one after another.
pub(super) fn awq_codes(words: &[u32]) -> Vec<f32> {
    words.iter().flat_map(|word| AWQ.map(|place| (word >> (4 * place) & 15) as f32)).collect()
}

/// Codes of two bits, four a byte, of rows that lie a quarter of all apart, as rows of words.
pub(super) fn quarters(bytes: &[u8], rows: usize, columns: usize) -> Vec<u32> {
    let mut words = Vec::with_capacity(rows * columns.div_ceil(16));
    for shift in [0, 2, 4, 6] {
        for row in bytes.chunks_exact(columns) {
            let word = |codes: &[u8]| codes.iter().rev().fold(0, |word, byte| word << 2 | u32::from(byte >> shift & 3));
            words.extend(row.chunks(16).map(word));
        }
    }
    words
}

/// `[rows, columns]` as `[columns, rows]`.
pub(super) fn turned<T: Copy + Default>(items: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut out = vec![T::default(); items.len()];
    for start in (0..columns).step_by(TILE) {
        let end = (start + TILE).min(columns);
        for row in 0..rows {
            for column in start..end {
                out[column * rows + row] = items[row * columns + column];
            }
        }
    }
    out
}

/// Rows of `inputs` codes, each row in `words` words that hold whole ones, as bit streams.
pub(super) fn stream(packed: &[u32], bits: u32, [words, inputs]: [usize; 2]) -> Vec<u32> {
    let (each, width) = (32 / bits as usize, (inputs * bits as usize).div_ceil(32));
    let mut rows = Vec::with_capacity(packed.len() / words.max(1) * width);
    for row in packed.chunks_exact(words.max(1)) {
        let (mut held, mut count) = (0u64, 0);
        for input in 0..inputs {
            let code = self::bits(row, bits, input / each * 32 + input % each * bits as usize);
            held |= u64::from(code) << count;
            count += bits;
            if count >= 32 {
                rows.push(held as u32);
                (held, count) = (held >> 32, count - 32);
            }
        }
        if count > 0 {
            rows.push(held as u32);
        }
    }
    rows
}

/// Code `index` of a bit stream.
pub(super) fn code(words: &[u32], bits: u32, index: usize) -> u32 {
    self::bits(words, bits, index * bits as usize)
}

/// So many bits from bit `at` on.
pub(super) fn bits(words: &[u32], bits: u32, at: usize) -> u32 {
    let (word, shift) = (at / 32, at % 32);
    let next = if shift + bits as usize > 32 { u64::from(words[word + 1]) << 32 } else { 0 };
    ((u64::from(words[word]) | next) >> shift) as u32 & ((1u64 << bits) - 1) as u32
}

/// Words from bytes of any alignment.
pub(super) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Bytes of words.
pub(super) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize) -> Vec<u32> {
        (0..count as u32).map(|i| i.wrapping_mul(0x9e37_79b9).rotate_left(i % 31) ^ 0x5bd1_e995).collect()
    }

    #[test]
    fn awq_keeps_every_code() {
        let (inputs, outputs) = (24, 40);
        let packed = noise(inputs * outputs / 8);
        let plain = awq_codes(&packed);
        let rows = awq(&packed, inputs, outputs);
        for (o, row) in rows.chunks_exact(inputs / 8).enumerate() {
            for i in 0..inputs {
                assert_eq!(code(row, 4, i) as f32, plain[i * outputs + o], "{i} {o}");
            }
        }
        assert_eq!(awq_codes(&[0x7654_3210]), [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    }

    #[test]
    fn quarters_come_apart() {
        let (rows, columns) = (12, 19);
        let packed: Vec<u8> = noise(rows / 4 * columns).iter().map(|word| (word >> 7) as u8).collect();
        let words = quarters(&packed, rows, columns);
        for (row, words) in words.chunks_exact(2).enumerate() {
            for column in 0..columns {
                let want = packed[row % 3 * columns + column] >> (2 * (row / 3)) & 3;
                assert_eq!(code(words, 2, column), u32::from(want), "{row} {column}");
            }
        }
        assert_eq!(words.len(), rows * 2);
    }

    #[test]
    fn matrices_turn() {
        let items = noise(19 * 37);
        let out = turned(&items, 19, 37);
        for (i, item) in items.iter().enumerate() {
            assert_eq!(out[i % 37 * 19 + i / 37], *item);
        }
        assert!(turned::<u32>(&[], 0, 5).is_empty());
    }

    #[test]
    fn whole_codes_become_a_stream() {
        for (bits, inputs) in [(3_usize, 32_usize), (3, 21), (5, 64), (6, 37)] {
            let (each, rows) = (32 / bits, 3);
            let words = inputs.div_ceil(each);
            let packed = noise(rows * words);
            let streams = stream(&packed, bits as u32, [words, inputs]);
            let width = (inputs * bits).div_ceil(32);
            assert_eq!(streams.len(), rows * width);
            for (row, stream) in streams.chunks_exact(width).enumerate() {
                for input in 0..inputs {
                    let want = packed[row * words + input / each] >> (input % each * bits) & ((1 << bits) - 1);
                    assert_eq!(code(stream, bits as u32, input), want, "{bits} {row} {input}");
                }
            }
        }
    }

    #[test]
    fn codes_may_straddle_words() {
        let stream = noise(6);
        let bit = |at: usize| stream[at / 32] >> (at % 32) & 1;
        for bits in [1, 2, 3, 4, 5, 6, 8] {
            for index in 0..6 * 32 / bits as usize {
                let want: u32 = (0..bits).map(|b| bit(index * bits as usize + b as usize) << b).sum();
                assert_eq!(code(&stream, bits, index), want, "{bits} {index}");
            }
        }
        assert_eq!(words(&bytes(&stream)), stream);
    }
}
