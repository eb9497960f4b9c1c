//! Names of tensors: what wraps a text model is taken off, and what it does not need is known.

/// What leads to the text model in a checkpoint of several models.
const WRAPPERS: &[(&str, &str)] =
    &[("model.language_model.", "model."), ("language_model.model.", "model."), ("language_model.", "")];

/// The name by which a model asks for a tensor. In `renames`, `^` stands for the start of a name.
pub(super) fn canonical(name: &str, renames: &[(&str, &str)]) -> String {
    let wrapper = WRAPPERS.iter().find_map(|(from, to)| Some((name.strip_prefix(from)?, to)));
    let name = wrapper.map_or_else(|| name.to_owned(), |(rest, to)| format!("{to}{rest}"));
    renames.iter().fold(name, |name, (from, to)| match from.strip_prefix('^') {
        Some(from) => match name.strip_prefix(from) {
            Some(rest) => format!("{}{rest}", to.trim_start_matches('^')),
            None => name,
        },
        None => name.replace(from, to),
    })
}

/// Parts of other models that lie beside a text model.
const TOWERS: &[&str] = &[
    "audio_tower",
    "embed_audio",
    "embed_vision",
    "image_newline",
    "mm_projector",
    "multi_modal_projector",
    "patch_merge_mlp",
    "vision_embedder",
    "vision_model",
    "vision_tower",
    "visual",
];

/// Why no text model asks for a tensor, if that is so.
pub(super) fn needless(name: &str) -> Option<&'static str> {
    let part = name.strip_prefix("model.").unwrap_or(name).split('.').next().unwrap_or_default();
    if TOWERS.contains(&part) {
        return Some("text is read, no images and no sound");
    }
    if part.starts_with("mtp") {
        return Some("tokens are predicted one at a time");
    }
    let ranges = ["input_max", "input_min", "output_max", "output_min"];
    if ranges.iter().any(|range| name.ends_with(range)) {
        return Some("ranges of activations that nothing here clips");
    }
    if name.contains(".mlp.moe_statics.") {
        return Some("the reference chooses experts without it");
    }
    let activations = [".input_scale", ".input_global_scale", ".input_zero_point", ".activation_scale"];
    if activations.iter().any(|end| name.ends_with(end)) {
        return Some("activations are not quantized to scales of the checkpoint");
    }
    if [".k_scale", ".v_scale", ".q_scale"].iter().any(|end| name.ends_with(end)) {
        return Some("caches have scales of their own");
    }
    let tables = [".inv_freq", ".cos", ".sin", "_cos", "_sin"];
    if tables.iter().any(|end| name.ends_with(end)) || name.contains("rotary") {
        return Some("frequencies follow from config.json");
    }
    let mask = [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"];
    mask.iter().any(|end| name.ends_with(end)).then_some("masks follow from positions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_come_off_and_starts_are_kept_apart() {
        let renames = &[("^h.", "^model.layers."), (".attn.", ".self_attn.")];
        for (name, want) in [
            ("model.language_model.norm.weight", "model.norm.weight"),
            ("language_model.model.norm.weight", "model.norm.weight"),
            ("language_model.lm_head.weight", "lm_head.weight"),
            ("h.0.attn.c_attn.weight", "model.layers.0.self_attn.c_attn.weight"),
            ("model.h.0.weight", "model.h.0.weight"),
        ] {
            assert_eq!(canonical(name, renames), want);
        }
    }

    #[test]
    fn what_no_text_needs_has_a_reason() {
        let towers = ["visual.blocks.0.weight", "model.vision_tower.x.weight"];
        let tables = ["h.0.attn.bias", "a.rotary_emb.inv_freq", "model.rotary.table", "model.blocks.0.attn.cos"];
        for name in towers.iter().chain(&tables) {
            assert!(needless(name).is_some(), "{name}");
        }
        for name in ["model.layers.0.self_attn.q_proj.bias", "model.norm.weight"] {
            assert!(needless(name).is_none(), "{name}");
        }
    }
}
