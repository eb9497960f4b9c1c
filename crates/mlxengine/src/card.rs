//! The model card: the YAML at the top of a checkpoint's `README.md`.

use serde::Deserialize;

/// What a card says about its model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) licence: Option<String>,
    pub(crate) tags: Vec<String>,
    pub(crate) base_model: Option<String>,
}

#[derive(Deserialize)]
struct FrontMatter {
    license: Option<OneOrMany>,
    tags: Option<OneOrMany>,
    base_model: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn into_list(self) -> Vec<String> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

impl Card {
    /// Reads the front matter of a README; a card that cannot be read says nothing, for nothing depends on it.
    pub(crate) fn parse(readme: &str) -> Card {
        let body = readme.trim_start_matches('\u{feff}');
        let front = body.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---")).map(|(front, _)| front);
        let Some(Ok(front)) = front.map(serde_saphyr::from_str::<FrontMatter>) else { return Card::default() };
        let first = |field: Option<OneOrMany>| field.and_then(|f| f.into_list().into_iter().next());
        Card {
            licence: first(front.license),
            tags: front.tags.map(OneOrMany::into_list).unwrap_or_default(),
            base_model: first(front.base_model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards() {
        let card = Card::parse(
            "---\nlicense: apache-2.0\nlanguage: en\ntags:\n- mlx\n- chat\nbase_model:\n- a/b\n---\n# Text\n",
        );
        assert_eq!(
            card,
            Card {
                licence: Some("apache-2.0".into()),
                tags: vec!["mlx".into(), "chat".into()],
                base_model: Some("a/b".into())
            }
        );
        for odd in ["", "# no card", "---\n: [\n---\n", "---\nlicense: {a: 1}\n---\n", "---\nnever closed"] {
            assert_eq!(Card::parse(odd), Card::default(), "{odd:?}");
        }
    }
}
