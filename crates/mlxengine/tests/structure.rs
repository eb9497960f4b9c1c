//! Answers of the demo model under grammars, and its conversations with tools.

use mlxengine::{
    ChatSession, GenerateParams, Grammar, InferenceEngine, LlmEngine, Message, Piece, Prompt, RenderOptions,
    ToolChoice, Tools, explain,
};
use serde_json::{Value, json};

fn engine() -> InferenceEngine {
    InferenceEngine::load("demo").unwrap()
}

fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["city", "size", "rivers"], "properties": {
        "city": {"type": "string", "maxLength": 12}, "size": {"type": "integer", "minimum": 0, "maximum": 999},
        "rivers": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 2}}})
}

#[test]
fn json_is_valid_at_every_temperature_and_seed() {
    let engine = engine();
    for temperature in [0.0, 0.7, 1.5] {
        for seed in 0..if temperature == 0.0 { 1 } else { 12 } {
            let params = GenerateParams::default()
                .with_temperature(temperature)
                .with_seed(seed)
                .with_max_tokens(400)
                .with_grammar(Grammar::JsonSchema(schema()));
            let answer = engine.generate(Prompt::chat("Describe Paris."), &params).unwrap();
            let value: Value = serde_json::from_str(&answer.text)
                .unwrap_or_else(|e| panic!("{temperature} {seed}: {e}: {}", answer.text));
            assert!(value["city"].as_str().unwrap().chars().count() <= 12, "{value}");
            assert!((0..=999).contains(&value["size"].as_i64().unwrap()), "{value}");
            assert!(value["rivers"].as_array().unwrap().len() <= 2, "{value}");
        }
    }
}

#[test]
fn a_pattern_binds_plain_text_and_conversations() {
    let engine = engine();
    let params = GenerateParams::default().with_grammar(Grammar::Regex("(yes|no)".to_owned()));
    let answer = engine.generate(Prompt::text("Is the sky blue?"), &params).unwrap();
    assert!(["yes", "no"].contains(&answer.text.as_str()), "{}", answer.text);
    let chat = ChatSession::new(&engine).with_params(params);
    for question in ["Is water wet?", "Is fire cold?"] {
        let answer = chat.send(question).unwrap();
        assert!(["yes", "no"].contains(&answer.text.as_str()), "{}", answer.text);
    }
    assert_eq!(chat.messages().len(), 4);
}

#[test]
fn what_cannot_be_enforced_is_refused_before_anything_is_computed() {
    let engine = engine();
    let refuse =
        |params: &GenerateParams| engine.stream(Prompt::chat("Hi"), params).map(|_| ()).unwrap_err().to_string();
    let schema = Grammar::JsonSchema(json!({"type": "string", "format": "no-such-format"}));
    let error = refuse(&GenerateParams::default().with_grammar(schema.clone()));
    assert!(error.starts_with("the JSON schema cannot be enforced: "), "{error}");
    let error = refuse(&GenerateParams::default().with_grammar(Grammar::JsonObject).with_ignore_eos(true));
    assert!(error.contains("ignore_eos"), "{error}");
}

#[test]
fn a_call_that_a_grammar_holds_to_its_tool_is_read_as_a_call() {
    let engine = engine();
    let model = engine.model().unwrap();
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": {"type": "object",
        "properties": {"days": {"enum": [1, 2, 3]}}, "required": ["days"], "additionalProperties": false}}});
    let tools = Tools::from(vec![tool.clone()]);
    let weather = ToolChoice::Named("weather".to_owned());
    let grammar = model.constrainer().unwrap().calls(&model.answer_format, &tools, &weather).unwrap();
    let options = RenderOptions { add_generation_prompt: true, tools: Some(vec![tool]), ..RenderOptions::default() };
    let prompt = Prompt::Chat { messages: vec![Message::user("How will it be in Paris?")], options };
    let params = GenerateParams::default().with_grammar(grammar).with_max_tokens(100);
    let mut stream = engine.stream(prompt, &params).unwrap();
    stream.by_ref().for_each(|step| drop(step.unwrap()));
    let pieces = stream.take_pieces();
    let [Piece::Call(call)] = &pieces[..] else { panic!("{pieces:?}") };
    assert_eq!(call.function.name, "weather");
    assert!([1, 2, 3].contains(&call.function.arguments["days"].as_i64().unwrap()));
}

#[test]
fn an_explanation_shows_text_tokens_and_what_is_read_again() {
    let engine = engine();
    let messages = [Message::user("Hi"), Message::assistant("Hello!"), Message::user("Bye")];
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let found = explain(&engine, &messages, &options).unwrap();
    assert!(found.text.contains("Hello!") && found.capabilities.generation_prompt.is_some());
    assert!(found.tokens.iter().any(|token| token.special) && found.tokens.iter().any(|token| !token.special));
    assert_eq!(found.turns.len(), 1);
    assert_eq!(found.turns[0].parting, None, "the demo's template shows answers as they were given");
}
