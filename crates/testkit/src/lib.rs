//! Conformance: what the reference implementation computed, recorded, against what is computed here.
//!
//! A [`Set`] is a folder of recordings, a [`Case`] one of them. [`run`] makes every comparison that a case asks for and
//! returns a [`Row`] each; nothing stops at the first difference, and a panic is a difference like any other. The formats of
//! the folders are described in the README beside the recordings.
//!
//! Language models compute in `f32` from the weights as stored, which is how the recordings were made.

mod adapters;
mod agreement;
mod cache;
mod golden;
mod language;
mod manifest;
mod many;
mod measure;
mod quant;
mod samplers;
mod sequence;
mod set;
mod sheet;
mod speculative;
mod templates;
mod text;
mod tokenizers;

pub use agreement::Agreement;
pub use measure::{Measure, Stop};
pub use sequence::{Sequence, Step, generate, log_sum_exp};
pub use set::{Case, Kind, Selection, Set};
pub use sheet::{Outcome, Row, failures, quiet_panics};

use sheet::Sheet;

/// Makes every comparison of a case.
pub fn run(case: &Case) -> Vec<Row> {
    let mut sheet = Sheet::new(case);
    sheet.whole(|sheet| match case.kind {
        Kind::Llm | Kind::QuantModel => language::check(case, sheet),
        Kind::Perplexity => language::perplexity(case, sheet),
        Kind::QuantOps => quant::check(case, sheet),
        Kind::GatherQmm => quant::gather(case, sheet),
        Kind::KvCache => cache::generated(case, sheet),
        Kind::KvCacheDirect => cache::direct(case, sheet),
        Kind::Samplers => samplers::check(case, sheet),
        Kind::Tokenizer => tokenizers::check(case, sheet),
        Kind::ChatTemplate => templates::check(case, sheet),
        Kind::ChatTemplateWrapper => templates::defaults(case, sheet),
        Kind::Adapter | Kind::AdapterPeft => adapters::check(case, sheet),
        Kind::PromptCacheFile => cache::file(case, sheet),
        Kind::Training => Err(Stop::not_run("models are not trained yet")),
        Kind::Speculative => speculative::check(case, sheet),
        Kind::Unknown => Err(Stop::not_run("a kind of case that is not known")),
    });
    sheet.into_rows()
}
