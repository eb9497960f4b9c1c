//! The recorded arrays of a case.

use mlxengine_tensor::{Dtype, Tensor, safetensors};

use crate::{Case, Stop};

/// The arrays of a case's safetensors file.
pub(crate) struct Golden(safetensors::File);

impl Golden {
    pub(crate) fn open(case: &Case) -> Result<Self, Stop> {
        let name = case.manifest.get("golden").and_then(|v| v.as_str()).unwrap_or("golden.safetensors");
        safetensors::File::open(&case.dir.join(name)).map(Golden).map_err(|e| Stop::failed(e.to_string()))
    }

    /// An array as it is stored.
    pub(crate) fn raw(&self, name: &str) -> Result<Tensor, Stop> {
        self.0.tensor(name).ok_or_else(|| Stop::failed(format!("the recording has no array `{name}`")))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.tensor(name).is_some()
    }

    /// An array of any numbers, as `f32`.
    pub(crate) fn f32(&self, name: &str) -> Result<Tensor, Stop> {
        self.raw(name)?.to_f32().ok_or_else(|| Stop::failed(format!("`{name}` holds no plain numbers")))
    }

    /// An array of tokens or indices.
    pub(crate) fn u32(&self, name: &str) -> Result<Vec<u32>, Stop> {
        let tensor = self.raw(name)?;
        if !matches!(tensor.dtype(), Dtype::U32 | Dtype::I32) {
            return Err(Stop::failed(format!("`{name}` is {}, not integers", tensor.spec())));
        }
        Ok(words(&tensor))
    }
}

/// The elements of an array of four-byte integers, of any alignment.
pub(crate) fn words(tensor: &Tensor) -> Vec<u32> {
    tensor.bytes().as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b)).collect()
}

/// The last rows of a matrix.
pub(crate) fn last_rows(tensor: &Tensor, count: usize) -> &[f32] {
    let all = tensor.f32s();
    &all[all.len() - count * tensor.shape().last()..]
}
