//! Rotations of blocks of a row by the Hadamard matrix, which spread outliers over all numbers of a block, so that weights behind
//! them fit few bits (Ashkboos et al. 2024).

use mlxengine_tensor::Tensor;

/// Such a rotation: each number times its sign, then each block by the normed matrix in Sylvester's order, which is its own inverse.
#[derive(Clone, Debug)]
pub(crate) struct Hadamard {
    block: usize,
    /// Of each number of a row.
    signs: Tensor,
}

impl Hadamard {
    /// Blocks of a power of two, of which a row of `signs [width]` holds a whole number; none where those are no signs.
    pub(crate) fn new(block: usize, signs: Tensor) -> Option<Self> {
        let whole = block.is_power_of_two() && signs.shape().last().is_multiple_of(block);
        (whole && signs.f32s().iter().all(|sign| sign.abs() == 1.0)).then_some(Self { block, signs })
    }

    /// The rotation of each row of `x`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        self.blocks(&x.clone().mul(&self.signs))
    }

    /// What [`Hadamard::forward`] makes `x` of.
    pub(crate) fn backward(&self, x: &Tensor) -> Tensor {
        self.blocks(x).mul(&self.signs)
    }

    fn blocks(&self, x: &Tensor) -> Tensor {
        let mut numbers = x.f32s().to_vec();
        numbers.chunks_exact_mut(self.block).for_each(transform);
        Tensor::from_f32(&numbers, *x.shape())
    }
}

/// The product of the normed matrix and a block, in place, by sums and differences of halves.
fn transform(block: &mut [f32]) {
    let mut half = 1;
    while half < block.len() {
        for pair in block.chunks_exact_mut(2 * half) {
            let (left, right) = pair.split_at_mut(half);
            for (a, b) in left.iter_mut().zip(right) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = (block.len() as f32).sqrt().recip();
    block.iter_mut().for_each(|x| *x *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_sylvester() {
        for (i, signs) in [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]].into_iter().enumerate() {
            let mut block = [0.0; 4];
            block[i] = 2.0;
            transform(&mut block);
            assert_eq!(block, signs.map(|sign| sign as f32));
        }
    }

    #[test]
    fn backward_undoes_forward() {
        let signs: Vec<f32> = (0..16).map(|i| if i % 3 == 0 { -1.0 } else { 1.0 }).collect();
        let turn = Hadamard::new(8, Tensor::from_f32(&signs, [16])).unwrap();
        let x = Tensor::from_f32(&(0..32).map(|i| (i as f32).sin()).collect::<Vec<_>>(), [2, 16]);
        let back = turn.backward(&turn.forward(&x));
        assert!(back.f32s().iter().zip(x.f32s()).all(|(a, b)| (a - b).abs() < 1e-6));
        assert!(Hadamard::new(8, Tensor::from_f32(&[0.5; 16], [16])).is_none());
        assert!(Hadamard::new(8, Tensor::from_f32(&[1.0; 12], [12])).is_none());
    }
}
