//! From GGUF's tensors to those of a checkpoint: names, order of rows, shapes.

use mlxengine_tensor::Shape;
use mlxengine_tensor::gguf::{Stored, TensorInfo};

use crate::families::gguf::Architecture;
use crate::{Error, Result};

use super::metadata::Metadata;

/// A tensor of the file with what becomes of it.
#[derive(Clone, Debug)]
pub(super) struct Planned<'a> {
    pub(super) info: &'a TensorInfo,
    /// Its name in the checkpoint; codes have `.weight` at its end.
    pub(super) name: String,
    /// Its shape in the checkpoint.
    pub(super) shape: Shape,
    pub(super) stored: Stored,
    pub(super) edit: Edit,
}

/// How a checkpoint's numbers differ from the file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// Not at all.
    None,
    /// The rows of each of so many heads have the two that turn together side by side, and go into two halves.
    Halves(usize),
    /// One was added.
    MinusOne,
}

/// Tensors that are part of `config.json`.
const CONFIGURATION: [&str; 3] = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// Names that nearly all architectures share: in a layer, then outside.
const NAMES: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
    ("ffn_gate_exps", "mlp.switch_mlp.gate_proj"),
    ("ffn_up_exps", "mlp.switch_mlp.up_proj"),
    ("ffn_down_exps", "mlp.switch_mlp.down_proj"),
    ("ffn_gate_inp_shexp", "mlp.shared_expert_gate"),
    ("ffn_gate_shexp", "mlp.shared_expert.gate_proj"),
    ("ffn_up_shexp", "mlp.shared_expert.up_proj"),
    ("ffn_down_shexp", "mlp.shared_expert.down_proj"),
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
    ("output", "lm_head"),
];

/// Every tensor with what becomes of it.
pub(super) fn plan<'a>(m: &Metadata<'a>, architecture: &Architecture) -> Result<Vec<Planned<'a>>> {
    let heads = [m.need("attention.head_count")?, m.count("attention.head_count_kv").ok().flatten().unwrap_or(0)];
    let tensors = m.file.layout().tensors.iter().filter(|tensor| !CONFIGURATION.contains(&tensor.name.as_str()));
    tensors.map(|info| planned(info, architecture, heads)).collect()
}

fn planned<'a>(info: &'a TensorInfo, architecture: &Architecture, heads: [usize; 2]) -> Result<Planned<'a>> {
    let unknown =
        || Error::unsupported(format!("tensor `{}` is not known in the architecture {}", info.name, architecture.name));
    let (layer, rest) = match info.name.strip_prefix("blk.").and_then(|name| name.split_once('.')) {
        Some((layer, rest)) => (Some(layer.parse::<usize>().map_err(|_| unknown())?), rest),
        None => (None, info.name.as_str()),
    };
    let (stem, suffix) = rest.rsplit_once('.').ok_or_else(unknown)?;
    let found =
        |wanted: &str| architecture.names.iter().chain(NAMES).find(|(name, _)| *name == wanted).map(|(_, name)| *name);
    let name = match found(rest) {
        Some(whole) => whole.to_owned(),
        None => format!("{}.{suffix}", found(stem).ok_or_else(unknown)?),
    };
    let name = layer.map_or(name.clone(), |layer| format!("{}{layer}.{name}", architecture.layers));
    let edit = match stem {
        "attn_q" if architecture.turned => Edit::Halves(heads[0]),
        "attn_k" if architecture.turned => Edit::Halves(if heads[1] == 0 { heads[0] } else { heads[1] }),
        norm if architecture.shifted_norms && norm.ends_with("norm") => Edit::MinusOne,
        _ => Edit::None,
    };
    let rows = info.shape.rows();
    let edit_rows = if info.shape.len() == 1 { info.shape.last() } else { rows };
    if matches!(edit, Edit::Halves(heads) if heads == 0 || !edit_rows.is_multiple_of(2 * heads)) {
        return Err(Error::invalid(format!("tensor `{}` has {edit_rows} rows for {heads:?} heads", info.name)));
    }
    let stored = info.encoding.stored();
    let whole = info.shape.len() == 1 || !name.ends_with(".weight");
    if stored.format().is_some() && whole || edit == Edit::MinusOne && info.encoding.name() != "F32" {
        let message = format!("tensor `{}` is {}, and must be a plain float", info.name, info.encoding.name());
        return Err(Error::unsupported(message));
    }
    Ok(Planned { info, name, shape: shape(stem, info.shape), stored, edit })
}

/// The shape in a checkpoint, where GGUF leaves out an axis of size 1.
fn shape(stem: &str, shape: Shape) -> Shape {
    match (stem, &shape[..]) {
        ("ffn_gate_inp_shexp", &[columns]) => [1, columns].into(),
        ("shortconv.conv", &[channels, kernel]) => [channels, kernel, 1].into(),
        _ => shape,
    }
}

impl Planned<'_> {
    /// Rows and columns as they are converted: single numbers of a vector are rows where rows change places.
    pub(super) fn sides(&self) -> (usize, usize) {
        let shape = &self.info.shape;
        match self.edit {
            Edit::Halves(_) if shape.len() == 1 => (shape.last(), 1),
            _ => (shape.rows(), shape.last()),
        }
    }

    /// The row of the file that becomes row `row`.
    pub(super) fn source_row(&self, row: usize) -> usize {
        let Edit::Halves(heads) = self.edit else { return row };
        let size = self.sides().0 / heads;
        let (head, place) = (row / size, row % size);
        head * size + place % (size / 2) * 2 + place / (size / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_turn_together_part() {
        let info = TensorInfo {
            name: "x".into(),
            encoding: mlxengine_tensor::gguf::Encoding::F32,
            shape: [12].into(),
            range: 0..48,
        };
        let planned = Planned {
            info: &info,
            name: "x".into(),
            shape: info.shape,
            stored: info.encoding.stored(),
            edit: Edit::Halves(2),
        };
        let rows: Vec<usize> = (0..12).map(|row| planned.source_row(row)).collect();
        assert_eq!(rows, [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]);
    }
}
