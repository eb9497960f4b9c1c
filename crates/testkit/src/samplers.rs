//! Filters and penalties on logits.

use std::sync::{Arc, Mutex, PoisonError};

use mlxengine_engine::sample::filters::{self, Scratch};
use mlxengine_engine::{GenerateParams, Sampler};
use mlxengine_tensor::Tensor;
use serde::Deserialize;

use crate::golden::Golden;
use crate::sequence::log_sum_exp;
use crate::sheet::Sheet;
use crate::{Case, Measure, Stop};

#[derive(Deserialize)]
struct Manifest {
    filters: Vec<Filter>,
    processors: Vec<Processor>,
    tolerance: Tolerance,
}

#[derive(Deserialize)]
struct Tolerance {
    logprobs_abs: f64,
    probs_abs: f64,
}

#[derive(Deserialize)]
struct Filter {
    id: String,
    input: String,
    params: FilterParams,
    kept: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(default)]
struct FilterParams {
    top_p: f32,
    min_p: f32,
    min_tokens_to_keep: usize,
    xtc_probability: f32,
    xtc_threshold: f32,
    xtc_special_tokens: Vec<u32>,
    top_k: usize,
    temp: f64,
}

impl Default for FilterParams {
    fn default() -> Self {
        Self {
            top_p: 0.0,
            min_p: 0.0,
            min_tokens_to_keep: 1,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            xtc_special_tokens: Vec::new(),
            top_k: 0,
            temp: 1.0,
        }
    }
}

#[derive(Deserialize)]
struct Processor {
    id: String,
    tokens: Vec<u32>,
    params: GenerateParams,
}

pub(crate) fn check(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: Manifest = case.read()?;
    let golden = Golden::open(case)?;
    for entry in &manifest.filters {
        sheet.check(&entry.id, || filter(entry, &golden, &manifest.tolerance));
    }
    for entry in &manifest.processors {
        sheet.check(&entry.id, || {
            let got = processed(&entry.params, &entry.tokens, golden.f32("proc.logits")?.f32s());
            let want = golden.f32(&format!("{}.logits", entry.id))?;
            Measure::close(&got, want.f32s(), [manifest.tolerance.logprobs_abs, 0.0])
        });
    }
    Ok(())
}

fn rows(tensor: &Tensor) -> impl Iterator<Item = &[f32]> {
    tensor.f32s().chunks_exact(tensor.shape().last())
}

fn filter(entry: &Filter, golden: &Golden, tolerance: &Tolerance) -> Result<Measure, Stop> {
    let input = golden.f32(&format!("in.{}.logprobs", entry.input))?;
    let p = &entry.params;
    let (mut logprobs, mut probs, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for row in rows(&input) {
        let (mut x, mut scratch) = (row.to_vec(), Scratch::default());
        filters::top_p(&mut x, p.top_p, &mut scratch);
        filters::min_p(&mut x, p.min_p, p.min_tokens_to_keep, &mut scratch);
        if p.xtc_probability > 0.0 {
            filters::xtc(&mut x, p.xtc_threshold, &p.xtc_special_tokens);
        }
        filters::top_k(&mut x, p.top_k, &mut scratch);
        kept.push(x.iter().filter(|v| v.is_finite()).count());
        let warmed: Vec<f32> = x.iter().map(|v| (f64::from(*v) / p.temp) as f32).collect();
        let total = log_sum_exp(&warmed);
        probs.extend(warmed.iter().map(|v| (f64::from(*v) - total).exp() as f32));
        logprobs.extend(x);
    }
    let want = [golden.f32(&format!("{}.logprobs", entry.id))?, golden.f32(&format!("{}.probs", entry.id))?];
    Measure::worst([
        ("log-probabilities".to_owned(), Measure::close(&logprobs, want[0].f32s(), [tolerance.logprobs_abs, 0.0])),
        ("probabilities".to_owned(), Measure::close(&probs, want[1].f32s(), [tolerance.probs_abs, 0.0])),
        ("kept".to_owned(), Measure::exact(&kept, &entry.kept)),
    ])
}

/// The logits after bias and penalties, as a processor of the caller's sees them.
fn processed(params: &GenerateParams, tokens: &[u32], logits: &[f32]) -> Vec<f32> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let copy = Arc::clone(&seen);
    let keep = move |_: &[u32], logits: &mut [f32]| {
        *copy.lock().unwrap_or_else(PoisonError::into_inner) = logits.to_vec();
    };
    Sampler::new(params, 0).with_processor(keep).sample(&mut logits.to_vec(), tokens, 0);
    std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner))
}
