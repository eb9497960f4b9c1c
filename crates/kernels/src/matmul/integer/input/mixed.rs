//! Groups of which a few numbers are large: they alone have two digits, and the step of all is chosen for the others.
//!
//! Numbers go in fours, as dot products take them. The fours with the largest numbers, one of four, get high digits; the step is
//! such that the low digit holds every other number. So one large number in a group costs the others no precision.

#![allow(clippy::needless_range_loop, reason = "lanes of several lists at once become vectors")]

use super::{Block, MOST, MOST_ROWS, TINY, Target};
use crate::dots::{BYTES, Dots, LANES, QUAD};

/// Fours of the largest group.
const MOST_FOURS: usize = 128 / 4;
/// Of how many fours one has high digits.
pub(super) const ONE_OF: usize = 4;
const MOST_LARGE: usize = MOST_FOURS / ONE_OF;
/// The largest number of one digit.
const MOST_LOW: f32 = 127.0;
/// The bits of a size that give way to the number of its four.
const NUMBER: u32 = MOST_FOURS as u32 - 1;

/// A tile of [`super::Tiles`]. As many groups as fit are rounded at a time, each group of each row in a lane of its own.
pub(super) struct Tile<'a> {
    /// Rows that the tile lacks are empty, and become zeros.
    pub(super) x: [&'a [f32]; MOST_ROWS],
    pub(super) line: &'a mut [f32],
    pub(super) block: Block,
}

impl Target for Tile<'_> {
    #[inline(always)]
    fn step<D: Dots>() -> usize {
        LANES / D::TILE_ROWS
    }

    #[inline(always)]
    fn group<D: Dots, const GROUP: usize, const PLANES: usize>(&mut self, d: D, g: usize) {
        let mut columns = [[0.0; LANES]; GROUP];
        self.columns(d, g, &mut columns);
        let steps = Steps::of::<GROUP, PLANES>(&columns);
        if self.block.words {
            return self.words::<D, GROUP, PLANES>(g, &columns, &steps);
        }
        let (at, rows, mut sums) = (self.block, D::TILE_ROWS, [0i32; LANES]);
        let line = &mut self.line[g * at.len..];
        for four in 0..GROUP / 4 {
            let (mut low, mut high) = ([0u32; LANES], [0u32; LANES]);
            for (byte, column) in members::<GROUP, PLANES>(four).into_iter().enumerate() {
                for l in 0..LANES {
                    let int = steps.round(columns[column][l], l);
                    sums[l] += i32::from(int as i16);
                    low[l] |= (int & 0xff) << (8 * byte);
                    high[l] |= ((int + 128) >> 8 & 0xff) << (8 * byte);
                }
            }
            for (block, low) in line.chunks_exact_mut(at.len).zip(low.chunks_exact(rows)) {
                for (out, digits) in block[at.low + four * rows..][..rows].iter_mut().zip(low) {
                    *out = f32::from_bits(*digits);
                }
            }
            // In the place of the first of its numbers, which are all done with.
            columns[members::<GROUP, PLANES>(four)[0]] = high.map(f32::from_bits);
        }
        for (block, lane) in line.chunks_exact_mut(at.len).zip((0..LANES).step_by(rows)) {
            for i in 0..rows {
                let l = lane + i;
                for (k, list) in steps.largest.iter().enumerate().take(GROUP / 4 / ONE_OF) {
                    let four = (list[l] & NUMBER) as usize;
                    block[k * rows + i] = columns[members::<GROUP, PLANES>(four)[0]][l];
                    block[at.places + k * rows + i] = f32::from_bits((four * QUAD) as u32);
                }
                (block[at.scales + i], block[at.sums + i]) = (steps.scale[l], steps.scale[l] * sums[l] as f32);
            }
        }
    }
}

impl Tile<'_> {
    /// The numbers of some groups from `g` on, each in the lanes of their rows; zeros of those that are not there.
    #[inline(always)]
    fn columns<D: Dots, const GROUP: usize>(&self, d: D, g: usize, columns: &mut [[f32; LANES]; GROUP]) {
        for (first, columns) in (0..GROUP).step_by(LANES).zip(columns.as_chunks_mut::<LANES>().0) {
            let mut rows = [d.no_bytes(); LANES];
            for (lane, row) in rows.iter_mut().enumerate() {
                let at = (g + lane / D::TILE_ROWS) * GROUP + first;
                if let Some(x) = self.x[lane % D::TILE_ROWS].get(at..at + LANES) {
                    // SAFETY: sixteen floats have so many bytes.
                    *row = unsafe { d.load(x.as_ptr().cast(), BYTES) };
                }
            }
            for (column, lanes) in columns.iter_mut().zip(d.transpose(rows)) {
                // SAFETY: as above.
                unsafe { d.store(column.as_mut_ptr().cast(), lanes) };
            }
        }
    }

    /// Writes the groups from `g` on as numbers that are not taken apart: small ones have one digit's precision all the same.
    #[inline(always)]
    fn words<D: Dots, const GROUP: usize, const PLANES: usize>(
        &mut self,
        g: usize,
        columns: &[[f32; LANES]; GROUP],
        steps: &Steps,
    ) {
        let (at, rows, mut sums) = (self.block, D::TILE_ROWS, [0i32; LANES]);
        let line = &mut self.line[g * at.len..];
        for four in 0..GROUP / 4 {
            // Those for even codes, then those for odd ones.
            let mut words = [[0u32; LANES]; 2];
            for (i, column) in members::<GROUP, PLANES>(four).into_iter().enumerate() {
                for l in 0..LANES {
                    let int = steps.round(columns[column][l], l);
                    sums[l] += i32::from(int as i16);
                    words[i % 2][l] |= int << (i / 2 * 16);
                }
            }
            for (words, from) in words.iter().zip([0, at.low]) {
                for (block, words) in line.chunks_exact_mut(at.len).zip(words.chunks_exact(rows)) {
                    for (out, words) in block[from + four * rows..][..rows].iter_mut().zip(words) {
                        *out = f32::from_bits(*words);
                    }
                }
            }
        }
        for (block, lane) in line.chunks_exact_mut(at.len).zip((0..LANES).step_by(rows)) {
            for i in 0..rows {
                let (scale, sum) = (steps.scale[lane + i], sums[lane + i]);
                (block[at.scales + i], block[at.sums + i]) = (scale, scale * sum as f32);
            }
        }
    }
}

/// The numbers of a group that are its `four`-th in the order of panels, plane after plane.
#[inline(always)]
fn members<const GROUP: usize, const PLANES: usize>(four: usize) -> [usize; 4] {
    let plane = GROUP / PLANES / 4;
    std::array::from_fn(|i| (four % plane * 4 + i) * PLANES + four / plane)
}

/// How the groups of all lanes are rounded.
struct Steps {
    scale: [f32; LANES],
    inverse: [f32; LANES],
    /// The largest fours, by size: the bits of their largest number's, whose order is that of the sizes, and in the last of them the
    /// number of the four.
    largest: [[u32; LANES]; MOST_LARGE + 1],
}

impl Steps {
    /// The 16 bits of a number of the lane `l` as an integer.
    #[inline(always)]
    fn round(&self, x: f32, l: usize) -> u32 {
        // Adding 1.5 * 2^23 rounds to nearest and leaves the integer in the low bits.
        (x * self.inverse[l] + 12_582_912.0).to_bits() & 0xffff
    }

    #[inline(always)]
    fn of<const GROUP: usize, const PLANES: usize>(columns: &[[f32; LANES]; GROUP]) -> Steps {
        let large = const { GROUP / 4 / ONE_OF };
        let mut largest = [[0u32; LANES]; MOST_LARGE + 1];
        for four in 0..GROUP / 4 {
            let mut size = [0u32; LANES];
            for column in members::<GROUP, PLANES>(four) {
                for l in 0..LANES {
                    size[l] = size[l].max(columns[column][l].to_bits() & 0x7fff_ffff);
                }
            }
            for l in 0..LANES {
                size[l] = size[l] & !NUMBER | four as u32;
            }
            for list in &mut largest[..=large] {
                for l in 0..LANES {
                    (list[l], size[l]) = (list[l].max(size[l]), list[l].min(size[l]));
                }
            }
        }
        let (mut scale, mut inverse) = ([0.0; LANES], [0.0; LANES]);
        for l in 0..LANES {
            let [most, most_low] = [largest[0][l], largest[large][l]].map(|size| f32::from_bits(size | NUMBER));
            let step = (most_low / MOST_LOW).max(most / MOST);
            // As `scale_of`: of what is not finite, or hardly anything.
            scale[l] = if most < TINY { 0.0 } else { step };
            inverse[l] = if most < TINY { 0.0 } else { 1.0 / step };
            if !most.is_finite() {
                (scale[l], inverse[l]) = (f32::NAN, 0.0);
            }
        }
        Steps { scale, inverse, largest }
    }
}
