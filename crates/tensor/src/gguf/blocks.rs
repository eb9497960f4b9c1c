//! The numbers in a block, as GGUF's encodings define them.

use half::f16;

use super::Encoding;

/// Codes that share a scale and a bias in [`groups`].
pub const GROUP: usize = 32;

/// Numbers in a block of the encodings whose names end in K, and of IQ4_XS.
const SUPER: usize = 256;

/// The numbers that codes of IQ4_NL and IQ4_XS stand for.
const NONLINEAR: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the numbers that codes of MXFP4 stand for.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The low halves of `bytes`, then the high ones: how GGUF lays out codes of four bits.
fn nibbles(bytes: &[u8], codes: &mut [u8]) {
    let (low, high) = codes.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// Calls `emit` with the codes, the scale and the bias of each 32 numbers of a block. Multiplied and added in single precision
/// they are the numbers that GGUF defines.
///
/// # Panics
/// If the encoding has no [`affine_bits`](Encoding::affine_bits), or the block another length.
pub fn groups(encoding: Encoding, block: &[u8], mut emit: impl FnMut(&[u8; GROUP], f32, f32)) {
    assert_eq!(block.len(), encoding.block_bytes(), "bytes of a block of {}", encoding.name());
    let mut codes = [0; GROUP];
    let fifth = |codes: &mut [u8; GROUP], bits: &[u8]| {
        for (i, code) in codes.iter_mut().enumerate() {
            *code |= (bits[i / 8] >> (i % 8) & 1) << 4;
        }
    };
    let d = half_at(block, 0);
    match encoding {
        Encoding::Q4_0 => {
            nibbles(&block[2..], &mut codes);
            emit(&codes, d, -8.0 * d);
        }
        Encoding::Q4_1 => {
            nibbles(&block[4..], &mut codes);
            emit(&codes, d, half_at(block, 2));
        }
        Encoding::Q5_0 => {
            nibbles(&block[6..], &mut codes);
            fifth(&mut codes, &block[2..6]);
            emit(&codes, d, -16.0 * d);
        }
        Encoding::Q5_1 => {
            nibbles(&block[8..], &mut codes);
            fifth(&mut codes, &block[4..8]);
            emit(&codes, d, half_at(block, 2));
        }
        Encoding::Q8_0 => {
            // Two's complement becomes an offset of 128.
            codes.iter_mut().zip(&block[2..]).for_each(|(code, byte)| *code = byte ^ 128);
            emit(&codes, d, -128.0 * d);
        }
        Encoding::Q4_K | Encoding::Q5_K => {
            let least = half_at(block, 2);
            let (highs, lows) = block[16..].split_at(if encoding == Encoding::Q5_K { GROUP } else { 0 });
            for group in 0..SUPER / GROUP {
                let (scale, bias) = six_bit_pair(&block[4..16], group);
                for (i, code) in codes.iter_mut().enumerate() {
                    let high = highs.get(i).map_or(0, |bits| bits >> group & 1);
                    *code = lows[group / 2 * GROUP + i] >> (group % 2 * 4) & 15 | high << 4;
                }
                emit(&codes, d * f32::from(scale), -(least * f32::from(bias)));
            }
        }
        other => panic!("{} has no scale and bias for each {GROUP} numbers", other.name()),
    }
}

/// Scale and offset of a group in Q4_K and Q5_K: six bits each, of which the later groups' upper two lie in the earlier's bytes.
fn six_bit_pair(packed: &[u8], group: usize) -> (u8, u8) {
    if group < 4 {
        return (packed[group] & 63, packed[group + 4] & 63);
    }
    let low = packed[group + 4];
    (low & 15 | packed[group - 4] >> 6 << 4, low >> 4 | packed[group] >> 6 << 4)
}

/// The numbers of a block, exactly.
///
/// # Panics
/// If `block` or `out` have another length than the encoding's.
pub fn decode(encoding: Encoding, block: &[u8], out: &mut [f32]) {
    let lengths = (encoding.block_bytes(), encoding.block_len());
    assert_eq!((block.len(), out.len()), lengths, "a block of {}", encoding.name());
    match encoding {
        Encoding::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
        Encoding::F16 => out[0] = half_at(block, 0),
        Encoding::Bf16 => out[0] = half::bf16::from_le_bytes([block[0], block[1]]).to_f32(),
        Encoding::Q2_K => decode_q2(block, out),
        Encoding::Q3_K => decode_q3(block, out),
        Encoding::Q6_K => decode_q6(block, out),
        Encoding::Q8_K => {
            let d = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
            out.iter_mut().zip(&block[4..]).for_each(|(x, code)| *x = d * f32::from(*code as i8));
        }
        Encoding::Iq4Nl => decode_table(half_at(block, 0), &NONLINEAR, &block[2..], out),
        Encoding::Iq4Xs => decode_iq4(block, out),
        Encoding::Mxfp4 => {
            // Half the scale, for the table has twice the numbers: a power of two, of which the least two are subnormal.
            let half = match u32::from(block[0]) {
                exponent @ 0..2 => 0x0020_0000 << exponent,
                exponent => (exponent - 1) << 23,
            };
            decode_table(f32::from_bits(half), &E2M1, &block[1..], out);
        }
        Encoding::Q4_0
        | Encoding::Q4_1
        | Encoding::Q5_0
        | Encoding::Q5_1
        | Encoding::Q8_0
        | Encoding::Q4_K
        | Encoding::Q5_K => {
            let mut parts = out.chunks_exact_mut(GROUP);
            groups(encoding, block, |codes, scale, bias| {
                let part = parts.next().expect("a block has as many groups as the numbers fill");
                part.iter_mut().zip(codes).for_each(|(x, code)| *x = scale * f32::from(*code) + bias);
            });
        }
    }
}

fn decode_table(scale: f32, table: &[i8; 16], bytes: &[u8], out: &mut [f32]) {
    let mut codes = [0; GROUP];
    nibbles(bytes, &mut codes);
    out.iter_mut().zip(codes).for_each(|(x, code)| *x = scale * f32::from(table[usize::from(code)]));
}

/// Two bits of number `i`: four runs of 32 numbers share 32 bytes.
fn crumb(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 128 * 32 + i % 32] >> (i / 32 % 4 * 2) & 3
}

fn decode_q2(block: &[u8], out: &mut [f32]) {
    let (scales, rest) = block.split_at(16);
    let (codes, ends) = rest.split_at(64);
    let (d, least) = (half_at(ends, 0), half_at(ends, 2));
    for (i, x) in out.iter_mut().enumerate() {
        let pair = scales[i / 16];
        *x = d * f32::from(pair & 15) * f32::from(crumb(codes, i)) - least * f32::from(pair >> 4);
    }
}

fn decode_q3(block: &[u8], out: &mut [f32]) {
    let (masks, rest) = block.split_at(32);
    let (codes, rest) = rest.split_at(64);
    let (scales, d) = (&rest[..12], half_at(rest, 12));
    for (i, x) in out.iter_mut().enumerate() {
        let group = i / 16;
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let scale = low | (scales[8 + group % 4] >> (group / 4 * 2) & 3) << 4;
        // A bit that is not set takes four away.
        let missing = !(masks[i % 32] >> (i / 32)) & 1;
        let code = crumb(codes, i) as i8 - (missing << 2) as i8;
        *x = d * f32::from(scale as i8 - 32) * f32::from(code);
    }
}

fn decode_q6(block: &[u8], out: &mut [f32]) {
    let (lows, rest) = block.split_at(128);
    let (highs, rest) = rest.split_at(64);
    let (scales, d) = (&rest[..16], half_at(rest, 16));
    for (i, x) in out.iter_mut().enumerate() {
        let low = lows[i / 128 * 64 + i % 64] >> (i / 64 % 2 * 4) & 15;
        let code = low | crumb(highs, i) << 4;
        *x = d * f32::from(scales[i / 16] as i8) * f32::from(code as i8 - 32);
    }
}

fn decode_iq4(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    let highs = u16::from_le_bytes([block[2], block[3]]);
    for (group, part) in out.chunks_exact_mut(GROUP).enumerate() {
        let low = block[4 + group / 2] >> (group % 2 * 4) & 15;
        let scale = low | ((highs >> (2 * group) & 3) as u8) << 4;
        let codes = &block[8 + group * GROUP / 2..][..GROUP / 2];
        decode_table(d * f32::from(scale as i8 - 32), &NONLINEAR, codes, part);
    }
}
