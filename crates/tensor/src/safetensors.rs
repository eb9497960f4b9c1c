//! The safetensors format: what a header says, a mapped file, writing.

mod writer;

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::{Metadata, SafeTensorError, SafeTensors};

use crate::{Bytes, Dtype, FileError, Shape, Spec, Tensor, shape::MAX_RANK};

pub use writer::Writer;

/// What a safetensors header says: where each tensor lies, and the file's metadata.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Each tensor's name, spec, and byte range in the file, in the order of their bytes.
    pub entries: Vec<(String, Spec, Range<usize>)>,
    /// `__metadata__`: free text by key. MLX writes `format: mlx`.
    pub metadata: HashMap<String, String>,
}

impl Layout {
    /// Reads the header of a whole file.
    ///
    /// # Errors
    /// A header that is cut, too large, not JSON, or whose offsets are not exactly the file; a dtype or rank that no
    /// checkpoint uses.
    pub fn parse(bytes: &[u8]) -> Result<Layout, FileError> {
        let (header, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| describe(bytes, e))?;
        let start = 8 + header;
        check_length(&metadata, bytes.len() - start)?;
        let mut entries = Vec::new();
        for name in metadata.offset_keys() {
            let info = metadata.info(&name).expect("the header lists this name");
            let dtype = dtype(info.dtype).ok_or_else(|| {
                FileError::new(format!(
                    "tensor `{name}` has the element type {:?}, which no supported checkpoint uses",
                    info.dtype
                ))
            })?;
            if info.shape.len() > MAX_RANK {
                return Err(FileError::new(format!(
                    "tensor `{name}` has {} axes, at most {MAX_RANK} are supported",
                    info.shape.len()
                )));
            }
            let spec = Spec::new(dtype, Shape::new(&info.shape));
            entries.push((name, spec, start + info.data_offsets.0..start + info.data_offsets.1));
        }
        Ok(Layout { entries, metadata: metadata.metadata().clone().unwrap_or_default() })
    }
}

fn check_length(metadata: &Metadata, present: usize) -> Result<(), FileError> {
    let told = metadata.data_len();
    if told == present {
        return Ok(());
    }
    let fault = if present < told { "the file is cut short" } else { "the file is longer than its header says" };
    Err(FileError::new(format!(
        "{fault}: {told} bytes of tensors are listed and {present} are there; download it again"
    )))
}

/// The crate's error, as a sentence with a remedy.
fn describe(bytes: &[u8], error: SafeTensorError) -> FileError {
    let again = "download it again";
    FileError::new(match error {
        SafeTensorError::HeaderTooSmall => {
            format!("the file has {} bytes, too few for a safetensors header; {again}", bytes.len())
        }
        SafeTensorError::HeaderTooLarge | SafeTensorError::InvalidHeaderLength => {
            let length = bytes.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
            format!(
                "the header claims {length} bytes of a file of {}, so this is no whole safetensors file; {again}",
                bytes.len()
            )
        }
        SafeTensorError::MetadataIncompleteBuffer => {
            format!(
                "the header's tensors do not fill the file of {} bytes: it is cut short or damaged; {again}",
                bytes.len()
            )
        }
        SafeTensorError::InvalidHeader(_) | SafeTensorError::InvalidHeaderDeserialization(_) => {
            format!("the header is not valid JSON ({error}): this is no safetensors file or a damaged one; {again}")
        }
        other => format!("the header contradicts itself ({other}): the file is damaged; {again}"),
    })
}

fn dtype(dtype: safetensors::Dtype) -> Option<Dtype> {
    use safetensors::Dtype as D;
    Some(match dtype {
        D::BOOL => Dtype::Bool,
        D::U8 => Dtype::U8,
        D::I8 => Dtype::I8,
        D::U16 => Dtype::U16,
        D::I16 => Dtype::I16,
        D::F16 => Dtype::F16,
        D::BF16 => Dtype::Bf16,
        D::U32 => Dtype::U32,
        D::I32 => Dtype::I32,
        D::F32 => Dtype::F32,
        D::U64 => Dtype::U64,
        D::I64 => Dtype::I64,
        D::F64 => Dtype::F64,
        D::F8_E4M3 => Dtype::F8E4m3,
        D::F8_E5M2 => Dtype::F8E5m2,
        D::F8_E8M0 => Dtype::F8E8m0,
        _ => return None,
    })
}

fn dtype_on_disk(dtype: Dtype) -> safetensors::Dtype {
    use safetensors::Dtype as D;
    match dtype {
        Dtype::Bool => D::BOOL,
        Dtype::U8 => D::U8,
        Dtype::I8 => D::I8,
        Dtype::U16 => D::U16,
        Dtype::I16 => D::I16,
        Dtype::F16 => D::F16,
        Dtype::Bf16 => D::BF16,
        Dtype::U32 => D::U32,
        Dtype::I32 => D::I32,
        Dtype::F32 => D::F32,
        Dtype::U64 => D::U64,
        Dtype::I64 => D::I64,
        Dtype::F64 => D::F64,
        Dtype::F8E4m3 => D::F8_E4M3,
        Dtype::F8E5m2 => D::F8_E5M2,
        Dtype::F8E8m0 => D::F8_E8M0,
    }
}

/// A safetensors file whose tensors stay where they lie.
#[derive(Debug, Clone)]
pub struct File {
    layout: Layout,
    bytes: Bytes,
}

impl File {
    /// Maps a file and reads its header.
    ///
    /// # Errors
    /// Those of [`Layout::parse`] and of the operating system, with the file's name.
    pub fn open(path: &Path) -> Result<File, FileError> {
        File::from_bytes(Bytes::map(path)?, path.display())
    }

    /// Reads the header of bytes at hand; `name` is how errors call them.
    ///
    /// # Errors
    /// Those of [`Layout::parse`].
    pub fn from_bytes(bytes: Bytes, name: impl Display) -> Result<File, FileError> {
        let layout = Layout::parse(&bytes).map_err(|e| FileError::new(format!("cannot read {name}: {e}")))?;
        Ok(File { layout, bytes })
    }

    /// What the header says.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// All tensors with their names, in the order of their bytes; nothing is read yet.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, Tensor)> {
        self.layout
            .entries
            .iter()
            .map(|(name, spec, range)| (name.as_str(), Tensor::lying(self.bytes.slice(range.clone()), *spec)))
    }

    /// One tensor by name.
    pub fn tensor(&self, name: &str) -> Option<Tensor> {
        let (_, spec, range) = self.layout.entries.iter().find(|(n, ..)| n == name)?;
        Some(Tensor::lying(self.bytes.slice(range.clone()), *spec))
    }
}

/// The bytes of a safetensors file with these tensors.
///
/// # Errors
/// If the names or sizes cannot be written, which real tensors never cause.
pub fn serialize<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    metadata: HashMap<String, String>,
) -> Result<Vec<u8>, FileError> {
    let fail = |e: SafeTensorError| FileError::new(format!("cannot write tensors: {e}"));
    let views = tensors.into_iter().map(|(name, tensor)| {
        let view = safetensors::tensor::TensorView::new(
            dtype_on_disk(tensor.dtype()),
            tensor.shape().to_vec(),
            tensor.bytes(),
        );
        view.map(|view| (name, view))
    });
    let views: Vec<_> = views.collect::<Result<_, _>>().map_err(fail)?;
    let metadata = if metadata.is_empty() { None } else { Some(metadata) };
    safetensors::serialize(views, metadata).map_err(fail)
}
