//! What the user may type.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::{Map, Value};

use crate::device_arguments::{DeviceArguments, DeviceCommand};
use crate::hub_arguments::HubCommand;
pub use crate::load_arguments::{Exactness, LoadArguments};
use crate::parsers;
use crate::settings;
use crate::structure::StructureArguments;

/// Runs language models on this machine, which texts never leave
#[derive(Parser)]
#[command(name = "mlxengine", disable_version_flag = true, after_long_help = settings::variables_help())]
pub struct Arguments {
    /// What to do; without it, chat on a terminal
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What computes
    #[command(flatten)]
    pub device: DeviceArguments,

    /// Models of your own with short names, as a JSON list [default: MLXENGINE_REGISTRY]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Models")]
    pub registry: Option<PathBuf>,

    /// Print the version, the instruction set and the number of threads
    #[arg(short = 'V', long)]
    pub version: bool,
}

/// The commands.
#[derive(Subcommand)]
pub enum Command {
    /// Talk with a model
    Chat(ChatArguments),
    /// Answer once, or every line of a file
    #[command(visible_alias = "generate")]
    Run(RunArguments),
    /// Read a prompt once, and keep what was computed in a file
    CachePrompt(CachePromptArguments),
    /// Merge an adapter into a model, and say what storing it loses
    Fuse(FuseArguments),
    /// Say what a checkpoint is, and what it needs
    Show(ShowArguments),
    /// Say what a model makes of a conversation: text, tokens, what its template can do, and what is read again
    Explain(ExplainArguments),
    /// List the families of models that are known
    Families(FamiliesArguments),
    /// Measure how fast a model reads and writes here
    Bench(BenchArguments),
    /// Measure how surprised a model is by a text
    Perplexity(PerplexityArguments),
    /// Let a model choose among endings, and count how often it is right
    Evaluate(EvaluateArguments),
    /// Models: find, fetch, keep
    #[command(flatten)]
    Hub(HubCommand),
    /// This machine
    #[command(flatten)]
    Device(DeviceCommand),
    /// Print the completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Arguments {
    /// What the user typed. llama-bench has an option `-pg`, which would be read as two.
    pub fn typed() -> impl Iterator<Item = OsString> {
        let mut bench = false;
        std::env::args_os().map(move |argument| {
            bench |= argument == "bench";
            if bench && argument == "-pg" { "--pg".into() } else { argument }
        })
    }

    /// What computes: a benchmark needs as many threads as it will use at most.
    pub fn device(&self) -> DeviceArguments {
        let most = match &self.command {
            Some(Command::Bench(bench)) => bench.thread_counts.iter().max(),
            _ => None,
        };
        DeviceArguments { threads: most.copied().or(self.device.threads), ..self.device.clone() }
    }
}

/// `mlxengine chat`.
#[derive(Args, Clone, Default)]
pub struct ChatArguments {
    /// A directory, a GGUF file, org/name, or demo [default: LLM_CHAT_API_URL, or demo]
    pub model: Option<String>,

    /// What chat and run share.
    #[command(flatten)]
    pub generation: GenerationArguments,
}

/// `mlxengine run`.
#[derive(Args)]
pub struct RunArguments {
    /// A directory, a GGUF file, org/name, or demo
    pub model: String,

    /// What to say; piped input is added after it
    pub prompt: Vec<String>,

    /// Print one JSON object instead of plain text
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Report each token with its log-probability, and this many of the likeliest beside it
    #[arg(long, value_name = "N", requires = "json", help_heading = "Output")]
    pub logprobs: Option<usize>,

    /// Go on from a file of cache-prompt's or mlx-lm's, as if its text were the beginning of the prompt
    #[arg(long, value_name = "FILE", conflicts_with = "system", help_heading = "Prompt")]
    pub prompt_cache_file: Option<PathBuf>,

    /// Continue the prompt as plain text, without the chat template
    #[arg(long, help_heading = "Prompt")]
    #[arg(conflicts_with_all = ["system", "chat_template_arg", "chat_template_config", "think", "thinking_budget", "tools"])]
    pub raw: bool,

    /// Answer every line of a file, {"prompt": …} or {"messages": […]}, with an id and sampling parameters if wanted
    #[arg(long, value_name = "FILE", requires = "output", help_heading = "Many prompts")]
    #[arg(conflicts_with_all = ["prompt", "json"])]
    pub prompts: Option<PathBuf>,

    /// Add the answers to this file, a line each as they are done; rows that it has are left out
    #[arg(long, value_name = "FILE", requires = "prompts", help_heading = "Many prompts")]
    pub output: Option<PathBuf>,

    /// Most answers at once [default: 8]
    #[arg(long, value_name = "N", requires = "prompts", value_parser = parsers::positive, help_heading = "Many prompts")]
    pub batch_size: Option<usize>,

    /// What chat and run share.
    #[command(flatten)]
    pub generation: GenerationArguments,
}

/// `mlxengine cache-prompt`.
#[derive(Args)]
pub struct CachePromptArguments {
    /// A directory, mlx://org/name, or demo
    pub model: String,

    /// What to read; - reads from a pipe
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,

    /// The file to write; mlx-lm reads it too
    #[arg(long, value_name = "FILE")]
    pub prompt_cache_file: PathBuf,

    /// Read the prompt as plain text, without the chat template
    #[arg(long, conflicts_with_all = ["system"])]
    pub raw: bool,

    /// Instructions for the model
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT")]
    pub system: Option<String>,

    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArguments,
}

/// `mlxengine fuse`.
#[derive(Args)]
pub struct FuseArguments {
    /// A directory, mlx://org/name, or demo
    pub model: String,

    /// The adapter, in MLX's layout or PEFT's
    #[arg(long, alias = "adapter-path", value_name = "DIR")]
    pub adapter: PathBuf,

    /// The directory to write
    #[arg(short, long, alias = "save-path", value_name = "DIR")]
    pub output: PathBuf,

    /// Store plain numbers, also where the model is quantized
    #[arg(long)]
    pub dequantize: bool,

    /// Replace the directory if it is there
    #[arg(long)]
    pub force: bool,
}

/// `mlxengine show`.
#[derive(Args)]
pub struct ShowArguments {
    /// A directory, a GGUF file, org/name, or demo
    pub model: String,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mlxengine explain`.
#[derive(Args)]
pub struct ExplainArguments {
    /// A directory, mlx://org/name, or demo
    pub model: String,

    /// What a user says [default: a short conversation]
    #[arg(conflicts_with = "messages")]
    pub prompt: Option<String>,

    /// A conversation, as a JSON list of messages
    #[arg(long, value_name = "FILE|JSON", value_parser = parsers::json)]
    pub messages: Option<Value>,

    /// Tools that the model may call, as a JSON list
    #[arg(long, value_name = "FILE|JSON", value_parser = parsers::json)]
    pub tools: Option<Value>,

    /// Whether the model thinks first, or how hard
    #[arg(long, value_name = "HOW")]
    pub think: Option<Think>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Whether a model thinks before it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Think {
    /// It thinks
    On,
    /// It answers at once
    Off,
    /// It thinks a little
    Low,
    /// It thinks
    Medium,
    /// It thinks much
    High,
}

/// `mlxengine families`.
#[derive(Args)]
pub struct FamiliesArguments {
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// `mlxengine bench`. Options and their meaning are those of llama.cpp's `llama-bench`; lists make a test of each combination.
#[derive(Args)]
pub struct BenchArguments {
    /// A directory, a GGUF file, org/name, or demo
    #[arg(short, long, value_name = "MODEL")]
    pub model: String,

    /// Prompts to read, in tokens; 0 for none
    #[arg(short = 'p', long, value_name = "LIST", value_delimiter = ',', default_value = "512")]
    #[arg(value_parser = parsers::count)]
    pub n_prompt: Vec<usize>,

    /// Answers to write, in tokens; 0 for none
    #[arg(short = 'n', long, value_name = "LIST", value_delimiter = ',', default_value = "128")]
    #[arg(value_parser = parsers::count)]
    pub n_gen: Vec<usize>,

    /// A prompt and its answer, measured together; also -pg, may be repeated
    #[arg(long, value_name = "P,N", value_parser = parsers::pair)]
    pub pg: Vec<(usize, usize)>,

    /// Tokens that have been read before each test begins
    #[arg(short = 'd', long, value_name = "LIST", value_delimiter = ',', default_value = "0")]
    #[arg(value_parser = parsers::count)]
    pub n_depth: Vec<usize>,

    /// Sequences that write together
    #[arg(short = 'b', long, value_name = "LIST", value_delimiter = ',', default_value = "1")]
    #[arg(value_parser = parsers::positive)]
    pub batch: Vec<usize>,

    /// Threads that compute [default: --threads]
    #[arg(short = 't', value_name = "LIST", value_delimiter = ',', conflicts_with = "threads")]
    #[arg(value_parser = parsers::threads)]
    pub thread_counts: Vec<usize>,

    /// Measurements of each test
    #[arg(short, long, value_name = "N", default_value = "5", value_parser = parsers::positive)]
    pub repetitions: usize,

    /// Print a JSON object for each test, on a line of its own
    #[arg(long)]
    pub json: bool,

    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArguments,
}

/// `mlxengine perplexity`. Options and their meaning are those of mlx-lm's, but texts are read in their order.
#[derive(Args)]
pub struct PerplexityArguments {
    /// A directory, mlx://org/name, or demo
    pub model: String,

    /// Examples, one a line: {"text": …}, {"messages": […]}, or {"prompt": …, "completion": …}
    #[arg(long, visible_alias = "data-path", value_name = "FILE", required_unless_present = "text")]
    pub data: Option<PathBuf>,

    /// One plain text
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    pub text: Option<PathBuf>,

    /// Tokens of a sample
    #[arg(long, value_name = "N", default_value = "512", value_parser = parsers::positive)]
    pub sequence_length: usize,

    /// Most samples; -1 for all
    #[arg(long, value_name = "N", default_value = "256", value_parser = parsers::samples, allow_negative_numbers = true)]
    pub num_samples: i64,

    /// Samples that are read together
    #[arg(long, value_name = "N", default_value = "8", value_parser = parsers::positive)]
    pub batch_size: usize,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,

    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArguments,
}

/// `mlxengine evaluate`.
#[derive(Args)]
pub struct EvaluateArguments {
    /// A directory, mlx://org/name, or demo
    pub model: String,

    /// Questions, one a line: {"context": …, "choices": […], "answer": INDEX}
    #[arg(long, value_name = "FILE")]
    pub data: PathBuf,

    /// Whether a context is what a person says in a chat [default: if the model has a template]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub apply_chat_template: Option<bool>,

    /// Only the first questions
    #[arg(long, value_name = "N", value_parser = parsers::positive)]
    pub limit: Option<usize>,

    /// Print one JSON object, with every likelihood
    #[arg(long)]
    pub json: bool,

    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArguments,
}

/// Where the sampling parameters come from that no flag sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Defaults {
    /// What the model's makers advise
    Model,
    /// The likeliest token each time
    Greedy,
}

/// What `chat` and `run` share.
#[derive(Args, Clone, Default)]
pub struct GenerationArguments {
    /// Instructions for the model
    #[arg(long, visible_alias = "system-prompt", value_name = "TEXT", help_heading = "Prompt")]
    pub system: Option<String>,

    /// A variable of the chat template, as in enable_thinking=false; may be repeated
    #[arg(long, value_name = "KEY=JSON", value_parser = parsers::template_variable, help_heading = "Prompt")]
    pub chat_template_arg: Vec<(String, Value)>,

    /// Variables of the chat template, as a JSON object
    #[arg(long, value_name = "JSON", value_parser = parsers::template_variables, help_heading = "Prompt")]
    pub chat_template_config: Option<Map<String, Value>>,

    /// Whether the model thinks first, or how hard
    #[arg(long, value_name = "HOW", help_heading = "Prompt")]
    pub think: Option<Think>,

    /// End thoughts after this many tokens, and answer
    #[arg(long, visible_alias = "reasoning-budget", value_name = "N", help_heading = "Prompt")]
    pub thinking_budget: Option<usize>,

    /// Do not print thoughts; without a terminal they never are
    #[arg(long, help_heading = "Output")]
    pub hide_thinking: bool,

    /// What answers have to be.
    #[command(flatten)]
    pub structure: StructureArguments,

    /// How tokens are chosen.
    #[command(flatten)]
    pub sampling: SamplingArguments,

    /// Who drafts.
    #[command(flatten)]
    pub draft: DraftArguments,

    /// How the model is loaded.
    #[command(flatten)]
    pub load: LoadArguments,

    /// Print counts and speeds to standard error after each answer
    #[arg(short, long, help_heading = "Output")]
    pub verbose: bool,
}

/// How tokens are chosen.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArguments {
    /// Where parameters come from that no flag sets [default: model in chat, greedy in run]
    #[arg(long, value_name = "SOURCE")]
    pub defaults: Option<Defaults>,

    /// At most this many tokens [default: until the end of the answer or of the context]
    #[arg(short, long, value_name = "N", value_parser = parsers::positive)]
    pub max_tokens: Option<usize>,

    /// 0 takes the likeliest token; higher values draw more freely
    #[arg(long, alias = "temperature", value_name = "T", value_parser = parsers::non_negative, allow_negative_numbers = true)]
    pub temp: Option<f32>,

    /// Draw from the likeliest tokens that together have this probability
    #[arg(long, value_name = "P", value_parser = parsers::probability, allow_negative_numbers = true)]
    pub top_p: Option<f32>,

    /// Draw from this many likeliest tokens; 0 turns it off
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,

    /// Draw from tokens at least this many times as likely as the likeliest
    #[arg(long, value_name = "P", value_parser = parsers::probability, allow_negative_numbers = true)]
    pub min_p: Option<f32>,

    /// Tokens that min-p keeps in any case
    #[arg(long, value_name = "N", value_parser = parsers::positive)]
    pub min_tokens_to_keep: Option<usize>,

    /// How often the likeliest choices are excluded (XTC)
    #[arg(long, value_name = "P", value_parser = parsers::probability, allow_negative_numbers = true)]
    pub xtc_probability: Option<f32>,

    /// XTC excludes tokens likelier than this
    #[arg(long, value_name = "P", value_parser = parsers::threshold, allow_negative_numbers = true, requires = "xtc_probability")]
    pub xtc_threshold: Option<f32>,

    /// Make tokens that occurred less likely; 1 turns it off
    #[arg(long, value_name = "X", value_parser = parsers::non_negative, allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,

    /// Tokens that the repetition penalty looks back at; 0 is all
    #[arg(long, value_name = "N")]
    pub repetition_context_size: Option<usize>,

    /// Lower the score of each token that occurred
    #[arg(long, value_name = "X", value_parser = parsers::finite, allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,

    /// Tokens that the presence penalty looks back at; 0 is all
    #[arg(long, value_name = "N")]
    pub presence_context_size: Option<usize>,

    /// Lower the score of a token once per occurrence
    #[arg(long, value_name = "X", value_parser = parsers::finite, allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,

    /// Tokens that the frequency penalty looks back at; 0 is all
    #[arg(long, value_name = "N")]
    pub frequency_context_size: Option<usize>,

    /// Add to the score of one token; may be repeated
    #[arg(long, value_name = "ID=BIAS", value_parser = parsers::logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,

    /// Make drawn text repeatable
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// End the answer before this text; may be repeated
    #[arg(long, value_name = "TEXT", value_parser = parsers::some_text)]
    pub stop: Vec<String>,

    /// Go on past the model's end of turn
    #[arg(long)]
    pub ignore_eos: bool,
}

/// Who drafts. Drafts change no answer.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Memory and speed")]
pub struct DraftArguments {
    /// Let a smaller model of the same vocabulary propose tokens, which the model verifies several at a time
    #[arg(long, value_name = "MODEL", conflicts_with = "prompt_lookup")]
    pub draft_model: Option<String>,

    /// Propose what followed the last few tokens, N at most, where they occurred before [default: 3]
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "3")]
    #[arg(value_parser = parsers::positive)]
    pub prompt_lookup: Option<usize>,

    /// Tokens that are proposed at a time [default: 3]
    #[arg(long, value_name = "N", value_parser = parsers::positive)]
    pub num_draft_tokens: Option<usize>,
}

/// A path that was typed in a conversation.
pub fn typed_path(text: &str, home: Option<&std::path::Path>) -> PathBuf {
    match (text.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(text),
    }
}
