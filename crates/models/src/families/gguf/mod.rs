//! What GGUF calls the families and their parts.

mod pre_tokenizers;

use serde_json::{Map, Value, json};

use crate::gguf::Metadata;
use crate::{Error, Result};

use pre_tokenizers::WORDS;

pub(crate) use pre_tokenizers::Words;

/// How one of GGUF's architectures becomes a checkpoint.
pub(crate) struct Architecture {
    /// GGUF's name.
    pub(crate) name: &'static str,
    /// `model_type` in `config.json`.
    pub(crate) model_type: &'static str,
    /// The class in `architectures`.
    pub(crate) class: &'static str,
    /// What leads to a layer's number in the names of its tensors.
    pub(crate) layers: &'static str,
    /// Names that differ from those that most architectures share. With GGUF's ending, the whole name is meant.
    pub(crate) names: &'static [(&'static str, &'static str)],
    /// Rows of queries and keys that turn together lie side by side, and in halves in a checkpoint.
    pub(crate) turned: bool,
    /// Norms have one added to what a checkpoint has.
    pub(crate) shifted_norms: bool,
    /// The heads of keys differ by layer, none meaning a layer without attention.
    pub(crate) keys_by_layer: bool,
    /// What `config.json` calls the number that keeps norms from dividing by zero.
    pub(crate) eps: &'static str,
    /// Keys of its own.
    pub(crate) keys: fn(&Metadata<'_>) -> Result<Map<String, Value>>,
}

const DENSE: Architecture = Architecture {
    name: "",
    model_type: "",
    class: "",
    layers: "model.layers.",
    names: &[],
    turned: false,
    shifted_norms: false,
    keys_by_layer: false,
    eps: "rms_norm_eps",
    keys: |_| Ok(Map::new()),
};

const SANDWICH: &[(&str, &str)] = &[
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        turned: true,
        keys: |m| {
            only_dense(
                m,
                object(json!({"attention_bias": m.has("blk.0.attn_q.bias"), "mlp_bias": m.has("blk.0.ffn_up.bias")})),
            )
        },
        ..DENSE
    },
    Architecture {
        name: "llama",
        model_type: "mixtral",
        class: "MixtralForCausalLM",
        turned: true,
        names: &[
            ("ffn_gate_inp", "block_sparse_moe.gate"),
            ("ffn_gate_exps", "block_sparse_moe.switch_mlp.gate_proj"),
            ("ffn_up_exps", "block_sparse_moe.switch_mlp.up_proj"),
            ("ffn_down_exps", "block_sparse_moe.switch_mlp.down_proj"),
        ],
        keys: |m| {
            Ok(object(
                json!({"num_local_experts": m.need("expert_count")?, "num_experts_per_tok": m.need("expert_used_count")?}),
            ))
        },
        ..DENSE
    },
    Architecture { name: "qwen2", model_type: "qwen2", class: "Qwen2ForCausalLM", ..DENSE },
    Architecture { name: "qwen3", model_type: "qwen3", class: "Qwen3ForCausalLM", ..DENSE },
    Architecture {
        name: "qwen2moe",
        model_type: "qwen2_moe",
        class: "Qwen2MoeForCausalLM",
        keys: |m| {
            let shared = m.need("expert_shared_feed_forward_length")?;
            mixture(m, json!({"shared_expert_intermediate_size": shared, "norm_topk_prob": false}))
        },
        ..DENSE
    },
    Architecture {
        name: "qwen3moe",
        model_type: "qwen3_moe",
        class: "Qwen3MoeForCausalLM",
        keys: |m| mixture(m, json!({"norm_topk_prob": true})),
        ..DENSE
    },
    Architecture {
        name: "olmoe",
        model_type: "olmoe",
        class: "OlmoeForCausalLM",
        keys: |m| mixture(m, json!({"norm_topk_prob": false})),
        ..DENSE
    },
    Architecture {
        name: "gemma",
        model_type: "gemma",
        class: "GemmaForCausalLM",
        shifted_norms: true,
        keys: |_| Ok(object(json!({"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh"}))),
        ..DENSE
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        shifted_norms: true,
        names: SANDWICH,
        keys: |m| {
            let mut keys = gemma(m, 46)?;
            keys.extend(object(json!({
                "attn_logit_softcapping": m.number("attn_logit_softcapping")?,
                "final_logit_softcapping": m.number("final_logit_softcapping")?,
            })));
            Ok(keys)
        },
        ..DENSE
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        shifted_norms: true,
        names: SANDWICH,
        keys: |m| {
            let mut keys = gemma(m, 62)?;
            if m.number("final_logit_softcapping")?.is_some() {
                return Err(Error::unsupported("capped logits are not supported in this architecture"));
            }
            keys.extend(object(json!({
                "sliding_window_pattern": m.count("attention.sliding_window_pattern")?.unwrap_or(6),
                "rope_local_base_freq": m.number("rope.freq_base_swa")?.unwrap_or(10_000.0),
            })));
            Ok(keys)
        },
        ..DENSE
    },
    Architecture {
        name: "phi3",
        model_type: "phi3",
        class: "Phi3ForCausalLM",
        names: &[("ffn_up", "mlp.gate_up_proj")],
        keys: |m| Ok(object(json!({"sliding_window": m.count("attention.sliding_window")?.filter(|n| *n > 0)}))),
        ..DENSE
    },
    Architecture {
        name: "granite",
        model_type: "granite",
        class: "GraniteForCausalLM",
        turned: true,
        keys: |m| {
            only_dense(
                m,
                object(json!({
                    "attention_bias": m.has("blk.0.attn_q.bias"), "mlp_bias": m.has("blk.0.ffn_up.bias"),
                    "logits_scaling": m.number("logit_scale")?.unwrap_or(1.0),
                    "attention_multiplier": m.number("attention.scale")?.unwrap_or(1.0),
                    "embedding_multiplier": m.number("embedding_scale")?.unwrap_or(1.0),
                    "residual_multiplier": m.number("residual_scale")?.unwrap_or(1.0),
                })),
            )
        },
        ..DENSE
    },
    Architecture {
        name: "starcoder2",
        model_type: "starcoder2",
        class: "Starcoder2ForCausalLM",
        names: &[("ffn_up", "mlp.c_fc"), ("ffn_down", "mlp.c_proj")],
        eps: "norm_epsilon",
        keys: |m| {
            let window = m.count("attention.sliding_window")?;
            Ok(object(json!({"use_bias": true, "hidden_act": "gelu_pytorch_tanh", "sliding_window": window})))
        },
        ..DENSE
    },
    Architecture {
        name: "stablelm",
        model_type: "stablelm",
        class: "StableLmForCausalLM",
        names: &[("attn_q_norm", "self_attn.q_layernorm"), ("attn_k_norm", "self_attn.k_layernorm")],
        eps: "layer_norm_eps",
        keys: |m| {
            Ok(object(json!({
                "use_parallel_residual": m.flag("use_parallel_residual")?.unwrap_or(true),
                "use_qkv_bias": m.has("blk.0.attn_q.bias"), "qk_layernorm": m.has("blk.0.attn_q_norm.weight"),
            })))
        },
        ..DENSE
    },
    Architecture {
        name: "olmo2",
        model_type: "olmo2",
        class: "Olmo2ForCausalLM",
        names: &[("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm")],
        ..DENSE
    },
    Architecture {
        name: "glm4",
        model_type: "glm4",
        class: "Glm4ForCausalLM",
        names: &[
            ("ffn_up", "mlp.gate_up_proj"),
            ("post_attention_norm", "post_self_attn_layernorm"),
            ("post_ffw_norm", "post_mlp_layernorm"),
        ],
        keys: |m| Ok(object(json!({"attention_bias": m.has("blk.0.attn_q.bias")}))),
        ..DENSE
    },
    Architecture {
        name: "exaone",
        model_type: "exaone",
        class: "ExaoneForCausalLM",
        layers: "transformer.h.",
        names: &[
            ("attn_norm", "ln_1"),
            ("ffn_norm", "ln_2"),
            ("attn_q", "attn.attention.q_proj"),
            ("attn_k", "attn.attention.k_proj"),
            ("attn_v", "attn.attention.v_proj"),
            ("attn_output", "attn.attention.out_proj"),
            ("ffn_gate", "mlp.c_fc_0"),
            ("ffn_up", "mlp.c_fc_1"),
            ("ffn_down", "mlp.c_proj"),
            ("token_embd", "transformer.wte"),
            ("output_norm", "transformer.ln_f"),
        ],
        eps: "layer_norm_epsilon",
        keys: |m| Ok(object(json!({"num_layers": m.need("block_count")?, "activation_function": "silu"}))),
        ..DENSE
    },
    Architecture {
        name: "command-r",
        model_type: "cohere",
        class: "CohereForCausalLM",
        eps: "layer_norm_eps",
        keys: |m| {
            Ok(object(
                json!({"logit_scale": m.number("logit_scale")?, "use_qk_norm": m.has("blk.0.attn_q_norm.weight")}),
            ))
        },
        ..DENSE
    },
    Architecture {
        name: "cohere2",
        model_type: "cohere2",
        class: "Cohere2ForCausalLM",
        eps: "layer_norm_eps",
        keys: |m| {
            Ok(object(json!({
                "logit_scale": m.number("logit_scale")?, "sliding_window": m.need("attention.sliding_window")?,
                "sliding_window_pattern": m.count("attention.sliding_window_pattern")?.unwrap_or(4),
            })))
        },
        ..DENSE
    },
    Architecture {
        name: "smollm3",
        model_type: "smollm3",
        class: "SmolLM3ForCausalLM",
        turned: true,
        keys: |_| Ok(object(json!({"no_rope_layer_interval": 4}))),
        ..DENSE
    },
    Architecture {
        name: "lfm2",
        model_type: "lfm2",
        class: "Lfm2ForCausalLM",
        names: &[
            ("attn_norm", "operator_norm"),
            ("ffn_norm", "ffn_norm"),
            ("attn_q_norm", "self_attn.q_layernorm"),
            ("attn_k_norm", "self_attn.k_layernorm"),
            ("attn_output", "self_attn.out_proj"),
            ("ffn_gate", "feed_forward.w1"),
            ("ffn_up", "feed_forward.w3"),
            ("ffn_down", "feed_forward.w2"),
            ("shortconv.conv", "conv.conv"),
            ("shortconv.in_proj", "conv.in_proj"),
            ("shortconv.out_proj", "conv.out_proj"),
            ("token_embd_norm", "model.embedding_norm"),
            ("output_norm", "model.embedding_norm"),
        ],
        keys_by_layer: true,
        eps: "norm_eps",
        keys: lfm2,
        ..DENSE
    },
    Architecture {
        name: "gpt-oss",
        model_type: "gpt_oss",
        class: "GptOssForCausalLM",
        names: &[
            ("attn_sinks.weight", "self_attn.sinks"),
            ("post_attention_norm", "post_attention_layernorm"),
            ("ffn_gate_inp", "mlp.router"),
            ("ffn_gate_exps", "mlp.experts.gate_proj"),
            ("ffn_up_exps", "mlp.experts.up_proj"),
            ("ffn_down_exps", "mlp.experts.down_proj"),
        ],
        keys: |m| {
            Ok(object(json!({
                "num_local_experts": m.need("expert_count")?, "num_experts_per_tok": m.need("expert_used_count")?,
                "intermediate_size": m.need("expert_feed_forward_length")?,
                "sliding_window": m.need("attention.sliding_window")?,
            })))
        },
        ..DENSE
    },
];

impl Architecture {
    /// The architecture of a file.
    pub(crate) fn find(m: &Metadata<'_>) -> Result<&'static Architecture> {
        let mixture = m.count("expert_count")?.is_some_and(|count| count > 0);
        let mut named = ARCHITECTURES.iter().filter(|architecture| architecture.name == m.architecture);
        let (first, second) = (named.next(), named.next());
        second.filter(|_| mixture).or(first).ok_or_else(|| {
            let mut known: Vec<&str> = ARCHITECTURES.iter().map(|architecture| architecture.name).collect();
            known.dedup();
            let known = known.join(", ");
            Error::unsupported(format!(
                "the architecture `{}` is not known in GGUF files; known are {known}",
                m.architecture
            ))
        })
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

/// Keys of a model without experts, which the file may say.
fn only_dense(m: &Metadata<'_>, keys: Map<String, Value>) -> Result<Map<String, Value>> {
    if m.count("expert_count")?.unwrap_or(0) + m.count("expert_used_count")?.unwrap_or(0) > 0 {
        return Err(Error::unsupported("a mixture of experts is not supported in this architecture"));
    }
    Ok(keys)
}

/// Keys of a model whose every layer is a mixture.
fn mixture(m: &Metadata<'_>, own: Value) -> Result<Map<String, Value>> {
    let (all, used) = (m.need("expert_count")?, m.need("expert_used_count")?);
    let hidden = m.count("expert_feed_forward_length")?.map_or_else(|| m.need("feed_forward_length"), Ok)?;
    let mut keys = object(json!({
        "num_experts": all, "num_experts_per_tok": used, "moe_intermediate_size": hidden, "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }));
    keys.extend(object(own));
    Ok(keys)
}

/// Keys that two generations share. GGUF has no scale of scores: it is the head's size, but in the model of `large` layers.
fn gemma(m: &Metadata<'_>, large: usize) -> Result<Map<String, Value>> {
    let head_dim = m.need("attention.key_length")?;
    let of_hidden = m.need("embedding_length")? / m.need("attention.head_count")?.max(1);
    let scale = if m.need("block_count")? == large { of_hidden } else { head_dim };
    Ok(object(json!({
        "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": scale,
        "sliding_window": m.count("attention.sliding_window")?,
    })))
}

fn lfm2(m: &Metadata<'_>) -> Result<Map<String, Value>> {
    let Some(heads) = m.counts("attention.head_count_kv")? else {
        return Err(Error::invalid("the file does not say which layers have attention"));
    };
    let types: Vec<&str> = heads.iter().map(|n| if *n == 0 { "conv" } else { "full_attention" }).collect();
    Ok(object(json!({
        "conv_L_cache": m.need("shortconv.l_cache")?, "conv_bias": m.has("blk.0.shortconv.conv.bias"),
        "block_ff_dim": m.need("feed_forward_length")?, "block_auto_adjust_ff_dim": false, "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0, "layer_types": types,
    })))
}

/// How a vocabulary becomes tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Bytes are merged, inside of words.
    Bytes(&'static Words),
    /// Pieces of text are merged, the best score first.
    Pieces,
}

impl Kind {
    /// The kind that a file names.
    pub(crate) fn find(model: &str, words: Option<&str>) -> Result<Kind> {
        match (model, words) {
            ("llama", _) => Ok(Kind::Pieces),
            ("gpt2", Some(name)) => {
                WORDS.iter().find(|words| words.names.contains(&name)).map(Kind::Bytes).ok_or_else(|| {
                    let known: Vec<&str> = WORDS.iter().flat_map(|words| words.names).copied().collect();
                    Error::unsupported(format!(
                        "the pre-tokenizer `{name}` is not known; known are {}",
                        known.join(", ")
                    ))
                })
            }
            ("gpt2", None) => {
                Err(Error::unsupported("the file does not say what words are (tokenizer.ggml.pre): convert it again"))
            }
            _ => Err(Error::unsupported(format!("the tokenizer `{model}` is not known; known are gpt2 and llama"))),
        }
    }

    /// The class that readers of checkpoints know it by; where a text begins with a mark, they tell by it and the kind of model
    /// whether a word after a special token does too.
    pub(crate) fn class(self, marks_first_word: bool) -> &'static str {
        match self {
            Kind::Pieces if marks_first_word => "LlamaTokenizer",
            _ => "PreTrainedTokenizerFast",
        }
    }
}
