//! What the user may type about models: finding, fetching, keeping.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use mlxengine::hub::Sort;
use mlxengine::{Purpose, Wish};

use crate::parsers;

/// The commands about models.
#[derive(Subcommand)]
pub enum HubCommand {
    /// Fetch a model from the Hub; goes on where it was cut
    Pull(PullArguments),
    /// Find models on the Hub
    Search(SearchArguments),
    /// Show the models that are known by a short name, and what they need
    Models(ModelsArguments),
    /// Say which models run well on this machine, without asking the network
    Recommend(RecommendArguments),
    /// List the models on this machine
    #[command(visible_alias = "ls")]
    List(ListArguments),
    /// Remove models from this machine
    Rm(RmArguments),
    /// Check that a model's files are what they should be
    Verify(VerifyArguments),
    /// Make room: remove models that nobody needs
    Prune(PruneArguments),
    /// Copy a model, to another name or into a folder
    Cp(CpArguments),
    /// Write a model into one file, for a machine without a network
    Export(ExportArguments),
    /// Take in a model from a file that `export` wrote, or make one of a GGUF file
    Import(ImportArguments),
    /// Keep a token, for models that are not open to everybody
    Login(LoginArguments),
    /// Forget the token
    Logout,
    /// Say who the token belongs to
    Whoami,
}

/// `mlxengine pull`.
#[derive(Args)]
pub struct PullArguments {
    /// org/name on the Hub, perhaps with @revision
    pub model: String,

    /// Files, if not those that the engine needs; * stands for any characters
    pub files: Vec<String>,

    /// A branch, a tag or a commit [default: main]
    #[arg(long, value_name = "REV")]
    pub revision: Option<String>,

    /// Fetch every file
    #[arg(long, conflicts_with_all = ["files", "list"])]
    pub all: bool,

    /// List the files, and which would be fetched, and fetch nothing
    #[arg(long, conflicts_with = "files")]
    pub list: bool,

    /// Bytes a second at most, as 10M
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub limit_rate: Option<u64>,

    /// Files at once [default: 4]
    #[arg(long, value_name = "N", value_parser = parsers::positive)]
    pub jobs: Option<usize>,
}

/// `mlxengine search`.
#[derive(Args)]
pub struct SearchArguments {
    /// Words of the name
    pub text: Vec<String>,

    /// The owner
    #[arg(long)]
    pub author: Option<String>,

    /// A tag that it has; may be given several times
    #[arg(long)]
    pub tag: Vec<String>,

    /// The library that it was made for, or all
    #[arg(long, default_value = "mlx")]
    pub library: String,

    /// What it is for, as text-generation
    #[arg(long)]
    pub pipeline: Option<String>,

    /// What comes first
    #[arg(long, value_enum, default_value_t)]
    pub sort: Order,

    /// The most models
    #[arg(long, value_name = "N", default_value = "20", value_parser = parsers::positive)]
    pub limit: usize,

    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// What comes first in a search.
#[derive(Clone, Copy, Default, ValueEnum)]
pub enum Order {
    /// What is asked for most now
    #[default]
    Trending,
    /// What is fetched most
    Downloads,
    /// What is liked most
    Likes,
    /// What was changed last
    Modified,
    /// What was made last
    Created,
}

impl From<Order> for Sort {
    fn from(order: Order) -> Self {
        match order {
            Order::Trending => Sort::Trending,
            Order::Downloads => Sort::Downloads,
            Order::Likes => Sort::Likes,
            Order::Modified => Sort::Modified,
            Order::Created => Sort::Created,
        }
    }
}

/// `mlxengine models`.
#[derive(Args)]
pub struct ModelsArguments {
    /// Words of the name or the family
    pub text: Vec<String>,

    /// What it is for
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,

    /// The model_type, as qwen3
    #[arg(long)]
    pub family: Option<String>,

    /// The most memory, as 8GB
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub max_memory: Option<u64>,

    /// Tokens that it must take, and that memory is reckoned with [default: 4096, or as many as it takes]
    #[arg(long, value_name = "N")]
    pub context: Option<u64>,

    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// `mlxengine recommend`.
#[derive(Args)]
pub struct RecommendArguments {
    /// What it is for
    #[arg(long, value_enum, default_value = "chat")]
    pub kind: Kind,

    /// Least tokens of an answer a second; 5 is about as fast as people read
    #[arg(long, value_name = "N", default_value_t = Wish::READING, value_parser = parsers::speed)]
    pub min_tps: f64,

    /// Tokens that it must take, that memory is reckoned with, and after which answers are that fast
    #[arg(long, value_name = "N", default_value = "4096", value_parser = parsers::positive)]
    pub context: usize,

    /// Tokens of the prompt whose answer is waited for
    #[arg(long, value_name = "N", default_value = "512", value_parser = parsers::positive)]
    pub prompt: usize,

    /// The most memory, as 8GB [default: what is available]
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub memory: Option<u64>,

    /// The most models
    #[arg(long, value_name = "N", default_value = "10", value_parser = parsers::positive)]
    pub limit: usize,

    /// Also what is not recommended, and why
    #[arg(long)]
    pub all: bool,

    /// Print a JSON object
    #[arg(long)]
    pub json: bool,
}

/// What a model is for.
#[derive(Clone, Copy, ValueEnum)]
pub enum Kind {
    /// Text to text
    #[value(alias = "chat")]
    Language,
    /// Images and text to text
    Vision,
    /// Text to a vector
    Embedding,
    /// How well a text answers a question
    Rerank,
    /// Text to an image
    Diffusion,
}

impl From<Kind> for Purpose {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Language => Purpose::Language,
            Kind::Vision => Purpose::Vision,
            Kind::Embedding => Purpose::Embedding,
            Kind::Rerank => Purpose::Rerank,
            Kind::Diffusion => Purpose::Diffusion,
        }
    }
}

/// `mlxengine list`.
#[derive(Args)]
pub struct ListArguments {
    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// `mlxengine rm`.
#[derive(Args)]
pub struct RmArguments {
    /// org/name, perhaps with @revision for that alone
    #[arg(required = true)]
    pub models: Vec<String>,
}

/// `mlxengine verify`.
#[derive(Args)]
pub struct VerifyArguments {
    /// org/name, perhaps with @revision, or a folder; without it, all models
    pub model: Option<String>,

    /// Fetch again what is bad, and only that
    #[arg(long)]
    pub repair: bool,

    /// Print a JSON list
    #[arg(long)]
    pub json: bool,
}

/// `mlxengine prune`.
#[derive(Args)]
#[group(id = "what", required = true, multiple = true, args = ["older_than", "max_size", "unused"])]
pub struct PruneArguments {
    /// Models that nobody used for so long, as 30d or 12h
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub older_than: Option<Duration>,

    /// The longest unused models, until all have at most so many bytes, as 50G
    #[arg(long, value_name = "BYTES", value_parser = size)]
    pub max_size: Option<u64>,

    /// Revisions that no branch or tag names, and files that came in part
    #[arg(long)]
    pub unused: bool,

    /// Say what would go, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// `mlxengine cp`.
#[derive(Args)]
pub struct CpArguments {
    /// org/name, perhaps with @revision, or a folder
    pub model: String,

    /// org/name for a second name, or a folder: a path that begins with . or /
    pub to: String,
}

/// `mlxengine export`.
#[derive(Args)]
pub struct ExportArguments {
    /// org/name, perhaps with @revision, or a folder
    pub model: String,

    /// The file to write
    pub file: PathBuf,
}

/// `mlxengine import`.
#[derive(Args)]
pub struct ImportArguments {
    /// A file that `export` wrote, or a GGUF file, as llama.cpp, ollama and LM Studio use them
    pub file: PathBuf,

    /// What to call the model of a GGUF file: org/name, a name, or a new directory that begins with . or / [default: the
    /// file's name]
    pub name: Option<String>,

    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `mlxengine login`.
#[derive(Args)]
pub struct LoginArguments {
    /// The token; without it, it is asked for or read from standard input, which other users cannot see
    #[arg(long)]
    pub token: Option<String>,
}

/// Bytes, as in `10M`, `1.5G` or `2GB`.
fn size(text: &str) -> Result<u64, String> {
    let upper = text.to_ascii_uppercase();
    let number = upper.trim_end_matches('B');
    let (number, unit) = match number.chars().last() {
        Some('K') => (&number[..number.len() - 1], 1e3),
        Some('M') => (&number[..number.len() - 1], 1e6),
        Some('G') => (&number[..number.len() - 1], 1e9),
        Some('T') => (&number[..number.len() - 1], 1e12),
        _ => (number, 1.0),
    };
    let bytes = number.trim().parse().ok().map(|number: f64| number * unit).filter(|n| *n >= 0.0 && *n < 1e18);
    bytes.map(|bytes| bytes as u64).ok_or_else(|| "must be a number of bytes, as in 10M or 50G".to_owned())
}

/// A time, as in `30d`.
fn age(text: &str) -> Result<Duration, String> {
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        Some('w') => 7 * 86_400,
        _ => 0,
    };
    let number = text.get(..text.len().saturating_sub(1)).and_then(|number| number.parse::<u64>().ok());
    let seconds = number.filter(|_| unit > 0).and_then(|number| number.checked_mul(unit));
    seconds.map(Duration::from_secs).ok_or_else(|| "must be a time, as in 30d or 12h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(
            ["10M", "1.5g", "2GB", "7"].map(|text| size(text).unwrap()),
            [10_000_000, 1_500_000_000, 2_000_000_000, 7]
        );
        assert!(["", "x", "-1", "1e99", "nan"].iter().all(|text| size(text).is_err()));
        assert_eq!(["30d", "12h"].map(|text| age(text).unwrap().as_secs()), [2_592_000, 43_200]);
        assert!(["", "3", "d", "3y", "ü"].iter().all(|text| age(text).is_err()));
    }
}
