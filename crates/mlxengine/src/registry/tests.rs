use std::collections::BTreeSet;

use mlxengine_models::CacheOptions;

use super::*;

fn names<'a>(entries: impl Iterator<Item = &'a RegistryEntry>) -> Vec<&'a str> {
    entries.map(|entry| entry.name.as_str()).collect()
}

#[test]
fn the_models_inside_the_library_are_enough_and_sound() {
    // `add` refuses names that are there twice, sizes that cannot be, and bytes that disagree with the parameters.
    let registry = ModelRegistry::builtin();
    let of = |kind: Purpose| registry.entries().iter().filter(move |entry| entry.kind == kind);
    let counts = Purpose::ALL.map(|kind| of(kind).count());
    assert!(counts[0] >= 20 && counts[1] >= 6 && counts[2] + counts[3] >= 6 && counts[4] >= 4, "{counts:?}");
    let mut families = BTreeSet::new();
    for entry in of(Purpose::Language).chain(of(Purpose::Vision)) {
        let model_type = entry.family.as_deref().unwrap_or_else(|| panic!("{} has no family", entry.name));
        let family = mlxengine_models::families::find(model_type);
        assert!(family.is_some(), "{}: {model_type} is not implemented", entry.name);
        families.extend(family.filter(|_| entry.kind == Purpose::Language).map(|family| family.name));
    }
    assert!(families.len() >= 8, "{families:?}");
    let sizes: Vec<u64> = of(Purpose::Language).filter_map(|entry| entry.parameters).collect();
    assert!(sizes.iter().min() < Some(&400_000_000) && sizes.iter().max() > Some(&70_000_000_000), "{sizes:?}");
    let distinct: BTreeSet<&str> = registry.entries().iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(distinct.len(), registry.entries().len(), "an entry replaced another one");
}

#[test]
fn every_fact_says_where_it_comes_from() {
    for entry in ModelRegistry::builtin().entries() {
        let value = serde_json::to_value(entry).unwrap();
        let facts =
            value.as_object().unwrap().keys().filter(|key| !["name", "aliases", "kind", "source"].contains(&&***key));
        for fact in facts {
            assert!(entry.source.get(fact).is_some_and(|source| !source.is_empty()), "{}: {fact}", entry.name);
        }
        assert!(entry.source.keys().all(|key| value.get(key).is_some()), "{}: a source of nothing", entry.name);
    }
}

#[test]
fn memory_is_weights_and_cache() {
    let registry = ModelRegistry::builtin();
    let memory = |name: &str, context| registry.get(name).unwrap().memory(context).unwrap();
    let qwen = memory("qwen3-0.6b", 1000);
    assert_eq!(qwen.cache, 2 * 28 * 8 * 128 * 1000 * 2);
    assert_eq!(qwen.weights, Bytes { bytes: 596_000_000 * 9 / 16, estimated: true });
    assert_eq!(qwen.total(), qwen.weights.bytes + qwen.cache);
    let gemma = memory("gemma-3-1b", 10_000);
    assert_eq!(gemma.cache, 2 * 256 * (4 * 10_000 + 22 * 512) * 2);
    assert_eq!(memory("glm-4.7-flash", 10).cache, 47 * 576 * 10 * 2);
    let state = memory("qwen3.5-27b", 0).cache;
    assert_eq!(state, 48 * (48 * 128 * 128 + 3 * (2 * 16 * 128 + 48 * 128)) * 2);
    assert!(registry.get("sdxl").unwrap().memory(1).is_none());
    assert!(!registry.get("llama-3.2-1b").unwrap().weights().unwrap().estimated);
}

#[test]
fn configurations_agree_with_what_else_is_known() {
    let mut count = 0;
    for entry in ModelRegistry::builtin().entries().iter().filter(|entry| entry.config.is_some()) {
        let name = &entry.name;
        let cost = entry.cost().unwrap_or_else(|| panic!("{name}: its storage is not known"));
        let cost = cost.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(entry.config.as_ref().unwrap()["model_type"].as_str(), entry.family.as_deref(), "{name}");
        assert_eq!(cost.context().map(|n| n as u64), entry.context, "{name}");
        // Names of models that see count the part that sees.
        if entry.kind == Purpose::Language {
            let (all, known) = (cost.parameters()[0] as f64, entry.parameters.unwrap() as f64);
            assert!((all / known - 1.0).abs() < 0.05, "{name}: {all} of {known}");
        }
        // States of recurrences are kept in 32 bits.
        let recurrent = |layers: &LayerCache| matches!(layers, LayerCache::Recurrent { .. });
        if !entry.cache.iter().flatten().any(recurrent) {
            for context in [100, 3000, 100_000] {
                let own = cost.cache(context, &CacheOptions::default());
                assert_eq!(own, entry.memory(context as u64).unwrap().cache, "{name} with {context} tokens");
            }
        }
        count += 1;
    }
    assert!(count >= 20, "{count}");
}

#[test]
fn names_are_found_and_others_fall_through_to_the_hub() {
    let registry = ModelRegistry::builtin();
    let known = registry.get("QWEN3-0.6B").unwrap();
    assert_eq!(registry.find("MLX-community/qwen3-0.6b-4BIT").unwrap(), Found::Known(known));
    assert_eq!(registry.find("org/name").unwrap(), Found::Hub("org/name".into()));
    let miss = registry.find("lama-3.2-1b").unwrap_err();
    assert_eq!(miss.kind(), ErrorKind::NotFound);
    assert!(miss.remedy().unwrap().starts_with("did you mean llama-3.2-1b or "), "{miss:?}");
    assert_eq!(registry.find("zzz").unwrap_err().remedy(), Some("write org/name for a model of the Hub"));
}

#[test]
fn queries() {
    let registry = ModelRegistry::builtin();
    let ask = |query: Query| names(registry.search(&query)).join(" ");
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        ask(Query { text: text("QWEN3 0.6b 4bit reranker"), ..Query::default() }),
        "mlx-community/Qwen3-Reranker-0.6B-4bit"
    );
    assert_eq!(ask(Query { family: text("smollm3"), ..Query::default() }), "mlx-community/SmolLM3-3B-4bit");
    assert_eq!(
        ask(Query { quantization: text("MXFP4"), max_bytes: Some(20_000_000_000), ..Query::default() }),
        "mlx-community/gpt-oss-20b-MXFP4-Q8"
    );
    let tools = Query { capability: Some(Ability::Tools), kind: Some(Purpose::Vision), ..Query::default() };
    assert!(registry.search(&tools).count() == 4 && ask(tools).contains("Qwen3-VL-8B"));
    let small = |context| Query {
        max_memory: Some(2_000_000_000),
        context: Some(context),
        kind: Some(Purpose::Language),
        ..Query::default()
    };
    assert!(ask(small(1000)).contains("Qwen3-0.6B") && ask(small(1000)).contains("Llama-3.2-1B"));
    // 40 000 tokens of Qwen3 are 4.6 GB, of Gemma 3 with its windows 0.2 GB.
    assert!(!ask(small(32_000)).contains("Qwen3-0.6B") && ask(small(32_000)).contains("gemma-3-1b"));
    // It was made for 32768.
    assert!(!ask(small(33_000)).contains("gemma-3-1b"));
}

#[test]
fn entries_of_the_user() {
    let mut registry = ModelRegistry::builtin();
    let count = registry.entries().len();
    let path = std::env::temp_dir().join(format!("mlxengine-registry-{}.json", std::process::id()));
    let mut load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        registry.load(&path).map_err(|error| error.message().replace(&path.display().to_string(), "FILE"))
    };
    let good = r#"[{"name": "me/mine", "kind": "language", "aliases": ["mine"], "parameters": 1000000,
        "quantization": {"mode": "affine", "bits": 4, "group": 64},
        "cache": [{"kind": "attention", "layers": 2, "kv_heads": 2, "head_dim": 64}]}]"#;
    load(good).unwrap();
    load(good).unwrap();
    for (text, error) in [
        ("{}", "FILE: not a JSON list of models: invalid type: map, expected a sequence at line 1 column 0"),
        ("[1]", "FILE: the model number 1: `name`: is missing: this is no object"),
        (r#"[{"name": "a/b"}]"#, "FILE: the model a/b: `kind`: is missing"),
        (r#"[{"name": "b", "kind": "language"}]"#, "FILE: the model b: `name`: must be org/name, as on the Hub"),
        (r#"[{"name": "a/b", "kind": "language", "size": 1}]"#, "FILE: the model a/b: `size`: is no field of an entry"),
        (
            r#"[{"name": "a/b", "kind": "language", "aliases": ["QWEN3-0.6b"]}]"#,
            "FILE: the model a/b: `aliases`: `QWEN3-0.6b` is taken by mlx-community/Qwen3-0.6B-4bit",
        ),
        (
            r#"[{"name": "a/b", "kind": "language", "bytes": 2000, "parameters": 2000, "quantization": {"mode": "float", "bits": 16}}]"#,
            "FILE: the model a/b: `bytes`: disagrees with parameters and quantization, which make 4000",
        ),
        (
            r#"[{"name": "a/b", "kind": "language", "context": "long"}]"#,
            "FILE: the model a/b: `context`: invalid type: string \"long\", expected u64",
        ),
        (
            r#"[{"name": "a/c", "kind": "language"}, {"name": "a/b", "kind": "language", "quantization": {"mode": "float", "bits": 3}}]"#,
            "FILE: the model a/b: `quantization`: has an impossible size",
        ),
    ] {
        assert_eq!(load(text).unwrap_err(), error);
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(registry.load(&path).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(registry.entries().len(), count + 1, "a file is added as a whole or not at all");
    assert_eq!(registry.get("Mine").unwrap().memory(10).unwrap().total(), 562_500 + 2 * 2 * 2 * 64 * 10 * 2);
    registry
        .add(RegistryEntry { aliases: vec!["mine".into()], ..RegistryEntry::new("me/other", Purpose::Language) })
        .unwrap_err();
}
