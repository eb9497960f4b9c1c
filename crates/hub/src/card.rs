//! The model card: the YAML at the top of a repository's `README.md`.

use serde::Deserialize;

/// What a card says about its model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelCard {
    /// The licence's short name, as in `apache-2.0`.
    pub licence: Option<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// The models that it was made from.
    pub base_models: Vec<String>,
    /// What it is for, as in `text-generation`.
    pub pipeline: Option<String>,
    /// The library that it was made for.
    pub library: Option<String>,
    /// Languages.
    pub languages: Vec<String>,
}

#[derive(Deserialize)]
struct FrontMatter {
    license: Option<OneOrMany>,
    license_name: Option<OneOrMany>,
    tags: Option<OneOrMany>,
    base_model: Option<OneOrMany>,
    pipeline_tag: Option<OneOrMany>,
    library_name: Option<OneOrMany>,
    language: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
    /// Anything else says nothing.
    Other(serde::de::IgnoredAny),
}

fn list(field: Option<OneOrMany>) -> Vec<String> {
    match field {
        Some(OneOrMany::One(one)) => vec![one],
        Some(OneOrMany::Many(many)) => many,
        Some(OneOrMany::Other(_)) | None => Vec::new(),
    }
}

impl ModelCard {
    /// Reads the front matter of a README; a card that cannot be read says nothing, for nothing depends on it.
    #[must_use]
    pub fn parse(readme: &str) -> Self {
        let text = readme.trim_start_matches('\u{feff}').replace("\r\n", "\n");
        let front = text.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")).map(|(front, _)| front);
        let Some(Ok(front)) = front.map(serde_saphyr::from_str::<FrontMatter>) else { return Self::default() };
        let first = |field| list(field).into_iter().next();
        let licence = first(front.license).filter(|name| name != "other");
        Self {
            licence: licence.or_else(|| first(front.license_name)),
            tags: list(front.tags),
            base_models: list(front.base_model),
            pipeline: first(front.pipeline_tag),
            library: first(front.library_name),
            languages: list(front.language),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards() {
        let card = ModelCard::parse(
            "---\r\nlicense: apache-2.0\nlanguage: en\ntags:\n- mlx\n- chat\nbase_model:\n- a/b\n- c/d\nx: {y: 1}\n---\n# T\n",
        );
        assert_eq!(card.licence.as_deref(), Some("apache-2.0"));
        assert_eq!((card.tags.len(), card.base_models, card.languages.len()), (2, vec!["a/b".into(), "c/d".into()], 1));
        let other = ModelCard::parse("---\nlicense: other\nlicense_name: gemma\ntags: 3\n---\n");
        assert_eq!((other.licence.as_deref(), other.tags.len()), (Some("gemma"), 0));
        for nothing in ["", "# Title", "---\n: [\n---\n", "---\nlicense: mit\n"] {
            assert_eq!(ModelCard::parse(nothing), ModelCard::default(), "{nothing}");
        }
    }
}
