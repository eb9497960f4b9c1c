//! Which files of a repository the engine needs.
//!
//! mlx-lm fetches `*.json`, `model*.safetensors`, `*.py`, `tokenizer.model`, `*.tiktoken`, `*.txt`, `*.jsonl` and `*.jinja`
//! of the top folder and below. The choice here differs for reasons: code is never run, so it is not fetched; weights in
//! other formats and second copies of the same weights are most of many repositories' bytes; and a model is kept together
//! with its licence.

/// Whether a file is fetched, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It is needed, as what.
    Needed(&'static str),
    /// It is not, for this reason.
    Skipped(&'static str),
}

impl Need {
    /// Whether it is fetched.
    #[must_use]
    pub fn is_needed(self) -> bool {
        matches!(self, Needed(_))
    }
}

use Need::{Needed, Skipped};

/// Ends of names, in lower case, and what they mean; the first that fits decides. Only weights are judged further.
const ENDS: [(&str, Need); 38] = [
    (".bin.index.json", Skipped("index of weights in another format")),
    (".msgpack.index.json", Skipped("index of weights in another format")),
    (".h5.index.json", Skipped("index of weights in another format")),
    (".safetensors.index.json", Needed("which tensor is in which file")),
    (".safetensors", Needed("weights")),
    ("trainer_state.json", Skipped("how training went")),
    (".json", Needed("configuration")),
    (".jinja", Needed("chat template")),
    (".tiktoken", Needed("vocabulary")),
    (".model", Needed("vocabulary")),
    (".spm", Needed("vocabulary")),
    (".jsonl", Needed("vocabulary")),
    ("requirements.txt", Skipped("code is not run")),
    (".txt", Needed("vocabulary or licence")),
    ("readme.md", Needed("model card")),
    ("license", Needed("licence")),
    ("licence", Needed("licence")),
    ("license.md", Needed("licence")),
    ("licence.md", Needed("licence")),
    ("license.pdf", Needed("licence")),
    ("notice", Needed("licence")),
    ("notice.md", Needed("licence")),
    ("use_policy.md", Needed("licence")),
    (".py", Skipped("code is not run")),
    (".ipynb", Skipped("code is not run")),
    (".gguf", Skipped("weights in another format")),
    (".ggml", Skipped("weights in another format")),
    (".bin", Skipped("weights in another format")),
    (".pt", Skipped("weights in another format")),
    (".pth", Skipped("weights in another format")),
    (".ckpt", Skipped("weights in another format")),
    (".h5", Skipped("weights in another format")),
    (".msgpack", Skipped("weights in another format")),
    (".onnx", Skipped("weights in another format")),
    (".onnx_data", Skipped("weights in another format")),
    (".tflite", Skipped("weights in another format")),
    (".npz", Skipped("weights in another format")),
    (".mlmodel", Skipped("weights in another format")),
];

/// Whether the engine needs the file `name` of a repository that has the files `all`.
#[must_use]
pub fn need(name: &str, all: &[&str]) -> Need {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    if file.starts_with('.') || folder.starts_with('.') {
        return Skipped("of the repository itself");
    }
    if !folder.is_empty() && !is_part(folder, all) {
        return Skipped("in a folder that is no part of the model");
    }
    let lower = file.to_ascii_lowercase();
    let found = ENDS.iter().find(|(end, _)| {
        // A whole name, or the end of one where it starts with a dot.
        if end.starts_with('.') { lower.ends_with(end) } else { lower == *end }
    });
    match found {
        Some((".safetensors", need)) => copy_of(folder, &lower, all).map_or(*need, Skipped),
        Some((_, need)) => *need,
        None => Skipped("not read by the engine"),
    }
}

/// Whether the files of a folder belong to the model: a module of sentence-transformers as in `1_Pooling`, further chat
/// templates, or a part of a pipeline of diffusers, which says so at the top.
fn is_part(folder: &str, all: &[&str]) -> bool {
    let module = |name: &str| {
        name.split_once('_')
            .is_some_and(|(n, rest)| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) && !rest.is_empty())
    };
    let foreign = ["onnx", "openvino", "coreml", "original", "gguf", "metal", "runs", "logs", "assets", "checkpoint"];
    let pipeline = all.contains(&"model_index.json") && !folder.contains('/') && !foreign.contains(&folder);
    pipeline || module(folder) || folder == "additional_chat_templates"
}

/// Why a file of weights is a second copy of others, if it is.
fn copy_of(folder: &str, file: &str, all: &[&str]) -> Option<&'static str> {
    let beside = || {
        all.iter().filter_map(|other| {
            let (place, other) = other.rsplit_once('/').unwrap_or(("", other));
            (place == folder).then(|| other.to_ascii_lowercase())
        })
    };
    let shards = || beside().any(|other| other.starts_with("model") && other.ends_with(".safetensors"));
    if file.starts_with("consolidated") && shards() {
        return Some("a second copy of the weights");
    }
    // `model.fp16.safetensors` beside `model.safetensors`.
    let variant = [".fp16.", ".bf16.", ".fp32.", ".non_ema.", ".ema_only."].iter().find(|part| file.contains(**part));
    if variant.is_some_and(|part| beside().any(|other| other == file.replace(part, "."))) {
        return Some("a second copy of the weights");
    }
    // A pipeline's parts lie in folders; one file of all of them lies at the top.
    let pipeline = folder.is_empty() && all.contains(&"model_index.json");
    let parts = || all.iter().any(|other| other.contains('/') && other.ends_with(".safetensors"));
    (pipeline && parts()).then_some("a second copy of the weights")
}

/// The formats of the weights of a repository that has none in safetensors: `.gguf and .bin`.
pub(crate) fn foreign_weights(all: &[&str]) -> Option<String> {
    if all.iter().any(|name| name.ends_with(".safetensors")) {
        return None;
    }
    let weights = |end: &&str| ENDS.contains(&(*end, Skipped("weights in another format")));
    let ends = ENDS.iter().map(|(end, _)| *end).filter(weights);
    let found: Vec<&str> = ends.filter(|end| all.iter().any(|name| name.to_ascii_lowercase().ends_with(end))).collect();
    (!found.is_empty()).then(|| found.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAT: [&str; 24] = [
        "+config.json",
        "+generation_config.json",
        "+model-00001-of-00002.safetensors",
        "+model-00002-of-00002.safetensors",
        "+model.safetensors.index.json",
        "+tokenizer.json",
        "+tokenizer_config.json",
        "+special_tokens_map.json",
        "+tokenizer.model",
        "+vocab.txt",
        "+merges.txt",
        "+chat_template.jinja",
        "+preprocessor_config.json",
        "+README.md",
        "+LICENSE",
        "+qwen.tiktoken",
        "-consolidated.safetensors",
        "-pytorch_model.bin",
        "-pytorch_model.bin.index.json",
        "-.gitattributes",
        "-modeling_x.py",
        "-onnx/model.onnx",
        "-original/params.json",
        "-x.Q4_K_M.gguf",
    ];
    const SENTENCES: [&str; 8] = [
        "+modules.json",
        "+config_sentence_transformers.json",
        "+1_Pooling/config.json",
        "+2_Dense/model.safetensors",
        "+model.safetensors",
        "-openvino/openvino_model.xml",
        "-tf_model.h5",
        "-rust_model.ot",
    ];
    const PIPELINE: [&str; 8] = [
        "+model_index.json",
        "+vae/diffusion_pytorch_model.safetensors",
        "-vae/diffusion_pytorch_model.fp16.safetensors",
        "+unet/only.fp16.safetensors",
        "+text_encoder/config.json",
        "-flux1-dev.safetensors",
        "-assets/a.json",
        "-vae/diffusion_pytorch_model.bin",
    ];
    const CONSOLIDATED: [&str; 2] = ["+consolidated.safetensors", "+params.json"];

    #[test]
    fn what_the_engine_needs() {
        for repository in [&CHAT[..], &SENTENCES, &PIPELINE, &CONSOLIDATED] {
            let all: Vec<&str> = repository.iter().map(|name| &name[1..]).collect();
            for name in repository {
                assert_eq!(need(&name[1..], &all).is_needed(), name.starts_with('+'), "{name}");
            }
        }
    }

    #[test]
    fn weights_in_other_formats() {
        assert_eq!(foreign_weights(&["a.Q4.gguf", "b.bin"]).as_deref(), Some(".gguf and .bin"));
        assert_eq!(foreign_weights(&["model.safetensors", "b.bin"]), None);
        assert_eq!(foreign_weights(&["tokenizer.json"]), None);
    }
}
