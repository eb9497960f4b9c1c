//! Which models are worth running on this machine.
//!
//! Of what fits and is fast enough the most capable comes first. The one measure of capability that shapes give is the number
//! of weights: models of one generation get better with it. A mixture of experts counts as the geometric mean of all its
//! weights and of those that work on a token, the customary rule of thumb between the two. Among equals the one whose weights
//! keep more bits comes first, then the faster.

use std::path::PathBuf;

use mlxengine_hub::{Cache, LocalModel};
use mlxengine_models::{CacheOptions, Checkpoint, Precision};
use serde::Serialize;

use super::{ModelRegistry, Purpose, RegistryEntry, Storage};
use crate::configuration::MemoryPlan;
use crate::cost::ModelCost;
use crate::device::Calibration;
use crate::predict::Prediction;
use crate::source::ModelPaths;

/// What is wished for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// What it is for.
    pub kind: Purpose,
    /// Least tokens of an answer a second.
    pub min_speed: f64,
    /// Tokens that memory is reckoned with, and at which answers are that fast.
    pub context: usize,
    /// Tokens of the prompt whose first answer token is waited for.
    pub prompt: usize,
    /// Memory that may be used, in bytes.
    pub memory: u64,
}

impl Wish {
    /// About as fast as people read.
    pub const READING: f64 = 5.0;

    /// A language model that answers as fast as people read, with 4096 tokens of context, in so much memory.
    #[must_use]
    pub fn new(memory: u64) -> Self {
        Wish { kind: Purpose::Language, min_speed: Self::READING, context: 4096, prompt: 512, memory }
    }
}

/// Whether a model is worth running.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It fits and is fast enough.
    Runs,
    /// It fits, and is slower than was wished.
    TooSlow,
    /// It needs more memory than there is.
    TooLarge,
    /// It was made for fewer tokens.
    TooShort,
    /// This build does not run it.
    NotRunnable {
        /// Why.
        reason: String,
    },
    /// Too little is known of it to say.
    Unknown {
        /// What is missing.
        missing: String,
    },
}

/// A model and what is expected of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recommendation {
    /// By which commands call it.
    pub name: String,
    /// Its name on the Hub, or of its folder.
    pub model: String,
    /// Whether it is on this machine.
    pub here: bool,
    /// How its weights are stored, if known.
    pub quantization: Option<String>,
    /// Weights, and those that work on a token.
    pub parameters: Option<[u64; 2]>,
    /// Memory that it needs.
    pub memory: Option<MemoryPlan>,
    /// Speeds.
    pub speed: Option<Prediction>,
    /// Whether it is worth running.
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl Recommendation {
    /// The measure of capability.
    fn weight(&self) -> f64 {
        self.parameters.map_or(0.0, |[all, active]| (all as f64 * active as f64).sqrt())
    }

    fn bits(&self) -> f64 {
        let weights = self.memory.map_or(0, |plan| plan.weights);
        self.parameters.map_or(0.0, |[all, _]| weights as f64 / all.max(1) as f64)
    }

    /// What comes first: what runs, and of that the most capable; then what nearly does.
    fn rank(&self) -> (u8, [f64; 3]) {
        let verdict = match self.verdict {
            Verdict::Runs => 0,
            Verdict::TooSlow => 1,
            Verdict::TooLarge => 2,
            Verdict::TooShort => 3,
            Verdict::Unknown { .. } => 4,
            Verdict::NotRunnable { .. } => 5,
        };
        let speed = self.speed.map_or(0.0, |speed| speed.tokens_per_second);
        match self.verdict {
            // Of what is too slow the fastest, of what is too large the smallest comes nearest.
            Verdict::TooSlow => (verdict, [-speed, 0.0, 0.0]),
            Verdict::TooLarge => (verdict, [self.memory.map_or(0.0, |plan| plan.total() as f64), 0.0, 0.0]),
            _ => (verdict, [-self.weight(), -self.bits(), -speed]),
        }
    }
}

impl ModelRegistry {
    /// The models of this registry and those on this machine, the most worth running first, each with what is expected of it.
    /// Nothing is asked of the network, and nothing is loaded: sizes and a calibration tell all.
    #[must_use]
    pub fn recommend(&self, wish: &Wish, paths: &ModelPaths, machine: &Calibration) -> Vec<Recommendation> {
        let local = if wish.kind == Purpose::Language { local(paths) } else { Vec::new() };
        let known = self.entries.iter().filter(|entry| entry.kind == wish.kind);
        let mut all: Vec<Recommendation> = known.map(|entry| self.judge(entry, &local, wish, machine)).collect();
        for (model, cost) in &local {
            if self.get(&model.name).is_none() {
                let bare = Recommendation {
                    name: format!("mlx://{}", model.name),
                    model: model.name.clone(),
                    here: true,
                    quantization: model.revisions.first().and_then(|r| r.description.quantization.clone()),
                    parameters: None,
                    memory: None,
                    speed: None,
                    verdict: Verdict::Runs,
                };
                all.push(expect(bare, cost, wish, machine));
            }
        }
        all.sort_by(|a, b| {
            let ((first, a), (second, b)) = (a.rank(), b.rank());
            first.cmp(&second).then_with(|| a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal))
        });
        all
    }

    fn judge(&self, entry: &RegistryEntry, local: &[Local], wish: &Wish, machine: &Calibration) -> Recommendation {
        let here = local.iter().find(|(model, _)| entry.is_called(&model.name));
        let bare = Recommendation {
            name: entry.aliases.first().unwrap_or(&entry.name).clone(),
            model: entry.name.clone(),
            here: here.is_some(),
            quantization: entry.quantization.as_ref().map(Storage::name),
            parameters: None,
            memory: None,
            speed: None,
            verdict: Verdict::Runs,
        };
        let refuse = |verdict| Recommendation { verdict, ..bare.clone() };
        if entry.kind != Purpose::Language {
            let reason = format!("{} models are not run by this build yet", entry.kind.name());
            return refuse(Verdict::NotRunnable { reason });
        }
        match (here, entry.cost()) {
            (Some((_, cost)), _) => expect(bare, cost, wish, machine),
            (None, Some(Ok(cost))) => expect(bare, &cost, wish, machine),
            (None, Some(Err(error))) => refuse(Verdict::NotRunnable { reason: error.message().to_owned() }),
            (None, None) => {
                let missing = if entry.config.is_none() { "sizes" } else { "storage" };
                refuse(Verdict::Unknown { missing: format!("the registry does not know its {missing}") })
            }
        }
    }
}

/// A model on this machine, and what it takes.
type Local = (LocalModel, ModelCost);

/// The models on this machine that this build runs.
fn local(paths: &ModelPaths) -> Vec<Local> {
    let cached = paths.hub_caches.iter().filter_map(|cache| Cache::new(cache).list().ok()).flatten();
    let plain = paths.directories.iter().flat_map(|directory| LocalModel::in_directory(directory));
    let cost = |model: LocalModel| {
        let whole = model.revisions.iter().filter(|revision| revision.missing.is_empty());
        let cost = |path: &PathBuf| {
            let checkpoint = Checkpoint::open_directory(path).ok()?;
            ModelCost::of_checkpoint(&checkpoint, Precision::Fast).ok()
        };
        let cost = whole.map(|revision| &revision.path).find_map(cost)?;
        Some((model, cost))
    };
    cached.chain(plain).filter_map(cost).collect()
}

/// What is expected of a model.
fn expect(bare: Recommendation, cost: &ModelCost, wish: &Wish, machine: &Calibration) -> Recommendation {
    let cache = CacheOptions::default();
    let plan = cost.plan(wish.context, 1, &cache);
    let prompt = wish.prompt.min(wish.context);
    let speed = cost.predict(wish.context - prompt, prompt, &cache, machine);
    let speed = Prediction { first_token: cost.prompt_seconds(0, prompt, machine), ..speed };
    let verdict = match () {
        () if cost.context().is_some_and(|most| most < wish.context) => Verdict::TooShort,
        () if plan.total() > wish.memory => Verdict::TooLarge,
        () if speed.tokens_per_second < wish.min_speed => Verdict::TooSlow,
        () => Verdict::Runs,
    };
    Recommendation { parameters: Some(cost.parameters()), memory: Some(plan), speed: Some(speed), verdict, ..bare }
}
