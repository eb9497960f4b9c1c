//! What the user may type about the loading of a model.

use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use crate::parsers;

/// How exactly a model computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Exactness {
    /// Activations stay 32-bit floats
    Exact,
    /// Activations meet quantized weights as 16-bit integers, or in a matrix unit as bf16
    #[default]
    Fast,
}

/// How a model is loaded.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Memory and speed")]
pub struct LoadArguments {
    /// How exactly products are computed
    #[arg(long, value_name = "HOW", value_enum, default_value_t)]
    pub precision: Exactness,

    /// Longest sequence in tokens, prompt and answer together [default: the model's, or what fits]
    #[arg(long, visible_alias = "ctx-size", value_name = "N", value_parser = parsers::positive)]
    pub context: Option<usize>,

    /// Keep at most this many tokens in the cache; the oldest are forgotten
    #[arg(long, value_name = "N", value_parser = parsers::cache_size)]
    pub max_kv_size: Option<usize>,

    /// Keep the cache in this many bits
    #[arg(long, value_name = "N", value_parser = one_of(["2", "3", "4", "5", "6", "8"]))]
    pub kv_bits: Option<String>,

    /// Numbers of the quantized cache that share a scale [default: 64]
    #[arg(long, value_name = "N", requires = "kv_bits", value_parser = one_of(["32", "64", "128"]))]
    pub kv_group_size: Option<String>,

    /// Quantize the cache once it has this many tokens [default: 5000]
    #[arg(long, value_name = "N", requires = "kv_bits")]
    pub quantized_kv_start: Option<usize>,

    /// Most memory that the cache may take, as in 500MB: the context is as long as fits
    #[arg(long, value_name = "BYTES", value_parser = parsers::bytes)]
    pub cache_memory: Option<u64>,

    /// Load a model that does not fit in memory: what does not stay there is read from the disk again, for each token
    #[arg(long)]
    pub overcommit: bool,

    /// An adapter over the weights, in MLX's layout or PEFT's; of several, chat's /adapter chooses, and the first is used
    #[arg(long = "adapter", alias = "adapter-path", value_name = "[NAME=]DIR", value_parser = parsers::adapter, help_heading = "Adapters")]
    pub adapters: Vec<(String, PathBuf)>,

    /// Prompt tokens that are read in one pass [default: 512]
    #[arg(long, value_name = "N", value_parser = parsers::positive)]
    pub prefill_step_size: Option<usize>,
}

fn one_of<const N: usize>(values: [&'static str; N]) -> PossibleValuesParser {
    PossibleValuesParser::new(values)
}
