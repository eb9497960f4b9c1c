//! Between people's text and the model's token ids.

pub mod detokenizer;
pub mod end_tokens;
pub mod probe;
mod python;
pub mod stop;
mod strftime;
pub mod template;
mod template_env;
pub mod template_files;
pub mod tokenizer;

pub use detokenizer::{Detokenizer, DetokenizerKind};
pub use end_tokens::EndToken;
pub use probe::{Capabilities, Parting, ThinkingSwitch};
pub use stop::StopScanner;
pub use strftime::CivilTime;
pub use template::{ChatTemplate, RenderOptions, Rendered};
pub use template_files::{ChatTemplates, TemplateFiles};
pub use tokenizer::{ThinkMarkers, Tokenizer, TokenizerFiles};
