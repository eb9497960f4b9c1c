//! The demo model, inside the library: a chat model of 5.8 million parameters, trained for this project.

use mlxengine_models::Source;

macro_rules! embed {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../demo/", $name)))),*]
    };
}

const FILES: &[(&str, &[u8])] = embed![
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

pub(crate) const SOURCE: Source = Source::Embedded { name: "demo", files: FILES };
