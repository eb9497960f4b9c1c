//! Tensors of MLXEngine.
//!
//! The heart is one vocabulary of operations, [`Op`], plain data with three exhaustive matches over it:
//!
//! - [`infer`]: the only place that checks shapes and dtypes, with every message;
//! - [`mod@cpu`]: evaluation on the kernels of this machine; inputs are taken by value, and an input that nobody else holds
//!   may be overwritten, so ownership is donation and there are no `_inplace` twins;
//! - [`mod@define`]: a fused operation in plain ones: what it means, and the oracle of its tests.
//!
//! A gradient table (`vjp`) and a second backend (`mlx`) are two more matches over the same vocabulary. Nothing above this
//! crate knows which backend computes.
//!
//! Activations are `f32`. Weights stay where they lie, in a mapped file, in the dtype or quantized layout that the
//! checkpoint chose.

pub mod bytes;
pub mod cpu;
pub mod define;
mod dtype;
mod error;
pub mod gguf;
mod infer;
mod mapped;
mod op;
mod ops;
pub mod pool;
pub mod safetensors;
mod shape;
mod tensor;
mod weight;

pub use bytes::Bytes;
pub use dtype::Dtype;
pub use error::FileError;
pub use infer::{ShapeError, infer};
pub use mlxengine_kernels::elementwise::{Binary, Unary};
pub use mlxengine_kernels::reduce::Reduce;
pub use mlxengine_kernels::weights::{Float, Precision, QuantFormat, QuantMode};
pub use op::{Op, Sdpa};
pub use shape::{Shape, Spec};
pub use tensor::{Tensor, Tensors};
pub use weight::{QuantizedTensor, Weight, round_bf16};
