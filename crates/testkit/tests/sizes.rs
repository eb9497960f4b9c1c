//! What a description alone says of a model, beside what was loaded: of every recorded checkpoint.
#![allow(clippy::print_stderr, reason = "with --nocapture a test says how much it compared")]

use std::io::Write;
use std::path::Path;

use mlxengine_models::families::{self, Family};
use mlxengine_models::{Checkpoint, Precision, decoder};
use mlxengine_testkit::{Kind, Set};

/// The slots of a description are those that mixers ask for while they are loaded, where a family has no parts of its own.
#[test]
fn descriptions_know_what_is_kept() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance/llm");
    if !dir.is_dir() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{} must be there in CI", dir.display());
        // Not by `eprintln!`, which the harness keeps to itself where a test passes.
        let _ = writeln!(std::io::stderr(), "SKIPPED: no recordings at {}", dir.display());
        return;
    }
    let set = Set::open(&dir).unwrap();
    let mut count = 0;
    for case in set.cases.iter().filter(|case| case.kind == Kind::Llm) {
        let model = case.dir.join(case.manifest["model_dir"].as_str().expect("recordings name their model"));
        let checkpoint = Checkpoint::open_directory(model).unwrap();
        if !families::find(checkpoint.config.model_type()).is_some_and(Family::is_described) {
            continue;
        }
        let spec = families::decoder(&checkpoint.config).unwrap();
        for precision in [Precision::Exact, Precision::Fast] {
            let model = decoder::load(&checkpoint, precision, |_, _| {}).unwrap();
            assert_eq!(spec.slots(precision), model.slots(), "{} in {precision:?}", case.id);
        }
        count += 1;
    }
    assert!(count > 0, "no checkpoint was compared");
    eprintln!("{count} checkpoints compared");
}
