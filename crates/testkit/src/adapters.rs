//! Models under an adapter.

use mlxengine_models::{Adapter, CacheOptions, Checkpoint, Precision, decoder};

use crate::golden::{Golden, last_rows};
use crate::language::greedy;
use crate::manifest::Adapted;
use crate::sequence::{Sequence, generate};
use crate::sheet::Sheet;
use crate::{Case, Measure, Stop};

pub(crate) fn check(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: Adapted = case.read()?;
    let golden = Golden::open(case)?;
    let checkpoint = Checkpoint::open_directory(case.root.join(&manifest.base))?;
    // What a recording needs has to load.
    let failed = |e: mlxengine_models::Error| Stop::failed(e.to_string());
    let adapter = Adapter::open(case.dir.join(&manifest.adapter_dir)).map_err(failed)?;
    let model = decoder::load_adapted(&checkpoint, Some(&adapter), Precision::Exact, |_, _| {}).map_err(failed)?;
    let bounds = [manifest.tolerance.f32_atol, manifest.tolerance.f32_rtol];
    for (name, ids) in &manifest.prompts {
        let full = format!("{name}.full");
        let ways: [(&str, Vec<&[u32]>); 2] = [("full", vec![ids]), ("decode", ids.chunks(1).collect())];
        for (way, pieces) in ways {
            sheet.check(format!("{name}.{way}"), || {
                let want = golden.f32(&full)?;
                let got = Sequence::new(model.as_ref(), &CacheOptions::default())?.feed_pieces(pieces);
                Measure::close(last_rows(&got, want.shape().rows()), want.f32s(), bounds)
            });
        }
    }
    for (name, recorded) in &manifest.greedy {
        sheet.check(format!("greedy.{name}"), || {
            let ids = manifest.prompts.get(name).ok_or_else(|| Stop::failed(format!("there is no prompt {name}")))?;
            let count = (recorded.tokens.len(), &[][..]);
            let steps = generate(model.as_ref(), &CacheOptions::default(), ids, 2048, count)?;
            greedy(&steps, recorded, manifest.tolerance)
        });
    }
    Ok(())
}
