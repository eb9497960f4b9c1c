//! Calls under grammars, in every format: what is written is read back, and what the tools do not take cannot be written.

use serde_json::json;

use super::tests::{SPECIAL, allowed, tokenizer_with};
use super::*;
use crate::answer::{AnswerFormat, AnswerParser, Piece, TOOL_FORMATS, ToolFormat, Tools};

/// A vocabulary in which markers are control tokens, or one in which they are text.
fn constrainer(markers: bool) -> (Tokenizer, Constrainer, u32) {
    let own = TOOL_FORMATS.iter().flat_map(|format| {
        let section = format.section.into_iter().flat_map(|(open, close)| [open, close]);
        section.chain(format.calls.iter().flat_map(|call| [call.open, call.close]))
    });
    let others = ["</arg_value>", "<|\"|>", "<escape>", "<|open|>", "<|close|>", "<|sep|>", "<｜tool▁sep｜>", "[ARGS]"];
    let channels = ["<|channel|>", "<|message|>", "<|constrain|>", "<|start|>", "<|end|>", "<|call|>", "<|return|>"];
    let mut special: Vec<&str> =
        if markers { own.chain(others).chain(channels).chain(SPECIAL).collect() } else { vec!["<end>"] };
    special.retain(|marker| (marker.starts_with('<') && marker.ends_with('>')) || marker.starts_with('['));
    special.sort_unstable();
    special.dedup();
    let tokenizer = tokenizer_with(&special);
    let end = tokenizer.token_to_id("<end>").unwrap();
    let constrainer = Constrainer::new(&tokenizer, tokenizer.vocab_size(), &[end]).unwrap();
    (tokenizer, constrainer, end)
}

fn tools() -> Tools {
    let schema = json!({"type": "object", "required": ["city", "days"], "additionalProperties": false, "properties": {
        "city": {"type": "string", "description": "Where."}, "days": {"type": "integer", "minimum": 1, "maximum": 999},
        "unit": {"enum": ["celsius", "2"]}, "code": {"type": "string", "pattern": "^[A-Z]{2,3}$"},
        "note": {"anyOf": [{"type": "string", "maxLength": 20}, {"type": "null"}]}, "flag": {"type": "boolean"},
        "size": {"type": ["number", "string"]}, "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "place": {"$ref": "#/$defs/place"}, "any": {}},
        "$defs": {"place": {"type": "object", "required": ["lat"], "properties": {"lat": {"type": "number"},
            "inside": {"$ref": "#/$defs/place"}}, "additionalProperties": false}}});
    let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
    Tools::from(vec![
        json!({"type": "function", "function": {"name": "forecast", "parameters": schema}}),
        json!({"type": "function", "function": {"name": "now", "parameters": none}}),
    ])
}

fn is_place(value: &Value) -> bool {
    let known = value.as_object().is_some_and(|place| place.keys().all(|key| key == "lat" || key == "inside"));
    known && value["lat"].is_number() && value.get("inside").is_none_or(is_place)
}

/// What the schema of `forecast` says.
fn fits(name: &str, value: &Value) -> bool {
    let Some(arguments) = value.as_object() else { return false };
    if name == "now" {
        return arguments.is_empty();
    }
    let text = |value: &Value, fits: &dyn Fn(&str) -> bool| value.as_str().is_some_and(fits);
    arguments.contains_key("city")
        && arguments.contains_key("days")
        && arguments.iter().all(|(key, value)| match key.as_str() {
            "city" => value.is_string(),
            "days" => value.as_f64().is_some_and(|days| (1.0..=999.0).contains(&days) && days.fract() == 0.0),
            "unit" => text(value, &|unit| unit == "celsius" || unit == "2"),
            "code" => text(value, &|code| matches!(code.len(), 2 | 3) && code.bytes().all(|b| b.is_ascii_uppercase())),
            "note" => value.is_null() || text(value, &|note| note.chars().count() <= 20),
            "flag" => value.is_boolean(),
            "size" => value.is_number() || value.is_string(),
            "tags" => value.as_array().is_some_and(|tags| tags.len() <= 2 && tags.iter().all(Value::is_string)),
            "place" => is_place(value),
            "any" => true,
            _ => false,
        })
}

fn written(format: ToolFormat) -> AnswerFormat {
    AnswerFormat::Marked { reasoning: None, response: None, tools: Some(format) }
}

fn parse(format: &AnswerFormat, text: &str) -> Vec<Piece> {
    let mut parser = AnswerParser::new(format, Some(tools()), false);
    parser.push(text).into_iter().chain(parser.finish()).collect()
}

/// Random answers: allowed tokens, among which the texts that end something are written in one go now and then.
struct Walk {
    state: u64,
    hints: Vec<Vec<u32>>,
}

impl Walk {
    fn new(seed: u64, tokenizer: &Tokenizer, format: &ToolFormat) -> Self {
        let mut texts =
            vec!["\"", "'", "}", "]", ")", "</arg_value>", "</longcat_arg_value>", "</parameter>", "</param>"];
        texts.extend(["</atem:parameter>", "</｜DSML｜parameter>", "<|close|>argument<|sep|>", "<escape>", "<|\"|>"]);
        texts.extend(format.section.into_iter().flat_map(|(open, close)| [open, close]));
        texts.extend(format.calls.iter().flat_map(|call| [call.open, call.close]));
        let hints = texts.into_iter().map(|text| tokenizer.encode(text, false).unwrap());
        Self { state: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, hints: hints.filter(|h| !h.is_empty()).collect() }
    }

    fn next(&mut self, below: usize) -> usize {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % below
    }

    /// The tokens of an answer; `None` if it has not ended after many of them.
    fn answer(mut self, constraint: &mut Constraint, end: u32) -> Option<Vec<u32>> {
        let (mut tokens, mut queue): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
        while tokens.len() < 2500 {
            let choices = allowed(constraint);
            assert!(!choices.is_empty(), "nothing may follow {tokens:?}");
            if queue.is_empty() && self.next(6) == 0 {
                let hint = self.next(self.hints.len());
                queue = self.hints[hint].iter().rev().copied().collect();
            }
            let hinted = queue.pop().filter(|token| choices.contains(token));
            let token = hinted.unwrap_or_else(|| choices[self.next(choices.len())]);
            if hinted.is_none() {
                queue.clear();
            }
            if token == end || (choices.contains(&end) && self.next(4) == 0) {
                return Some(tokens);
            }
            constraint.accept(token).unwrap();
            tokens.push(token);
        }
        None
    }
}

/// A `Value` has no place for the number 1e999, which the library may write.
fn has_huge_number(text: &str) -> bool {
    let exponent = |at: usize| text[at + 1..].trim_start_matches(['+', '-']).bytes().take_while(u8::is_ascii_digit);
    text.match_indices(['e', 'E']).any(|(at, _)| exponent(at).count() > 2)
}

#[test]
fn calls_in_every_format_are_read_as_their_tools_want_them() {
    for markers in [true, false] {
        let (tokenizer, constrainer, end) = constrainer(markers);
        for format in TOOL_FORMATS {
            for choice in [ToolChoice::Required, ToolChoice::Named("forecast".to_owned()), ToolChoice::Auto] {
                let grammar = constrainer.calls(&written(format), &tools(), &choice).unwrap();
                let Grammar::Lark(text) = &grammar else { panic!("{grammar:?}") };
                let what = format!("{} {choice:?} {markers}", format.name);
                let constraint = constrainer.compile(&grammar).unwrap_or_else(|e| panic!("{what}: {e}: {text}"));
                let mut called = 0;
                for seed in 0..6 {
                    let walk = Walk::new(seed, &tokenizer, &format);
                    let Some(tokens) = walk.answer(&mut constraint.clone(), end) else { continue };
                    let text = tokenizer.decode(&tokens, false).unwrap();
                    let pieces = parse(&written(format), &text);
                    if pieces.iter().any(|piece| !matches!(piece, Piece::Call(_))) && has_huge_number(&text) {
                        continue;
                    }
                    for piece in pieces {
                        match piece {
                            Piece::Call(call) => {
                                called += 1;
                                let (name, arguments) = (&call.function.name, &call.function.arguments);
                                assert!(fits(name, arguments), "{what}: {name} {arguments} in {text:?}");
                            }
                            Piece::Text(_) if choice == ToolChoice::Auto => {}
                            piece => panic!("{what}: {piece:?} in {text:?}"),
                        }
                    }
                }
                assert!(called > 0 || choice == ToolChoice::Auto, "{what}");
            }
        }
    }
}

/// Whether the tokens of `text` are an answer.
fn accepts(constraint: &Constraint, tokenizer: &Tokenizer, end: u32, text: &str) -> bool {
    let mut constraint = constraint.clone();
    let tokens = tokenizer.encode(text, false).unwrap();
    tokens
        .into_iter()
        .chain([end])
        .all(|token| allowed(&mut constraint).contains(&token) && (token == end || constraint.accept(token).is_ok()))
}

const JSON: &str = r#"{"city": "Paris", "days": 371, "unit": "celsius", "flag": true, "place": {"lat": 1.5}}"#;

/// A call of `forecast` as models write it, in each way of writing.
fn sentences() -> Vec<(&'static str, String)> {
    [json_sentences(), tagged_sentences(), literal_sentences()].concat()
}

fn json_sentences() -> Vec<(&'static str, String)> {
    let named = |arguments: &str| format!(r#"{{"name": "forecast", "{arguments}": {JSON}}}"#);
    let kimi =
        ["<|tool_calls_section_begin|>", "<|tool_call_begin|>functions.forecast:7<|tool_call_argument_begin|>", JSON];
    let deepseek = ["<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>forecast\n```json\n", JSON];
    let solar = ["<|tool_calls|><|tool_call:begin|>id7<|tool_call:name|>", "forecast<|tool_call:args|>", JSON];
    vec![
        ("json_tools", format!("<tool_call>\n{}\n</tool_call>", named("arguments"))),
        ("llama3_json", named("parameters")),
        ("apertus", format!("<|tools_prefix|>[{{\"forecast\": {JSON}}}]<|tools_suffix|>")),
        ("kimi_k2", kimi.concat() + "<|tool_call_end|><|tool_calls_section_end|>"),
        ("deepseek", deepseek.concat() + "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("solar", solar.concat() + "<|tool_call:end|>"),
    ]
}

fn tagged_sentences() -> Vec<(&'static str, String)> {
    let tag = |open: &str, close: &str| {
        let pairs =
            [("city", "Paris"), ("days", "371"), ("unit", "celsius"), ("flag", "true"), ("place", "{\"lat\": 1.5}")];
        pairs.map(|(key, value)| open.replace("KEY", key) + value + close).join("")
    };
    let dsml = tag("<｜DSML｜parameter name=\"KEY\" string=\"true\">", "</｜DSML｜parameter>\n");
    let dsml = ["days", "flag", "place"].iter().fold(dsml, |text, key| {
        text.replace(&format!("{key}\" string=\"true\""), &format!("{key}\" string=\"false\""))
    });
    let kimi = tag("<|open|>argument key=\"KEY\" type=\"string\"<|sep|>", "<|close|>argument<|sep|>");
    let kinds = [("days", "number"), ("flag", "boolean"), ("place", "object")];
    let kimi = kinds.iter().fold(kimi, |text, (key, kind)| {
        text.replace(&format!("{key}\" type=\"string\""), &format!("{key}\" type=\"{kind}\""))
    });
    let kimi = ["<|open|>tools<|sep|><|open|>call tool=\"forecast\" index=\"1\"<|sep|>", &kimi, "<|close|>call<|sep|>"];
    let dsml = ["<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"forecast\">\n", &dsml, "</｜DSML｜invoke>\n"];
    let calls = |section: &str, call: &str, arguments: &str| {
        let (end, _) = call.split_once(['=', ' ']).unwrap();
        format!("<{section}>\n<{call}>\n{arguments}</{end}>\n</{section}>")
    };
    let pairs = |arguments: &str| {
        tag(&format!("<{arguments}_key>KEY</{arguments}_key><{arguments}_value>"), &format!("</{arguments}_value>"))
    };
    vec![
        ("qwen3_coder", calls("tool_call", "function=forecast", &tag("<parameter=KEY>\n", "\n</parameter>\n"))),
        ("seed_oss", calls("seed:tool_call", "function=forecast", &tag("<parameter=KEY>", "</parameter>\n"))),
        (
            "minimax_m2",
            calls("minimax:tool_call", "invoke name=\"forecast\"", &tag("<parameter name=\"KEY\">", "</parameter>\n")),
        ),
        ("dsml", dsml.concat() + "</｜DSML｜function_calls>"),
        ("kimi_k3", kimi.concat() + "<|close|>tools<|sep|>"),
        ("minicpm5", format!("<function name=\"forecast\">{}</function>", tag("<param name=\"KEY\">", "</param>"))),
        (
            "muse_spark",
            calls(
                "atem:function_calls",
                "atem:invoke name=\"forecast\"",
                &tag("<atem:parameter name=\"KEY\">", "</atem:parameter>\n"),
            ),
        ),
        (
            "glm47",
            format!(
                "<tool_call>forecast\n{}</tool_call>",
                tag("<arg_key>KEY</arg_key>\n<arg_value>", "</arg_value>\n")
            ),
        ),
        ("longcat", format!("<longcat_tool_call>forecast{}</longcat_tool_call>", pairs("longcat_arg"))),
    ]
}

fn literal_sentences() -> Vec<(&'static str, String)> {
    let python = "[forecast(city=\"Paris\", days=371, unit='celsius', flag=True, place={\"lat\": 1.5})]";
    let braces =
        |q: &str| format!("call:forecast{{city:{q}Paris{q},days:371,unit:{q}celsius{q},flag:true,place:{{lat:1.5}}}}");
    vec![
        ("pythonic", format!("<|tool_call_start|>{python}<|tool_call_end|>")),
        ("olmo3", format!("<function_calls>\n{}\n</function_calls>", &python[1..python.len() - 1])),
        ("gemma4", format!("<|tool_call>{}<tool_call|>", braces("<|\"|>"))),
        ("function_gemma", format!("<start_function_call>{}<end_function_call>", braces("<escape>"))),
    ]
}

#[test]
fn calls_in_channels_come_after_thoughts() {
    let call = format!("<|channel|>commentary to=functions.forecast <|constrain|>json<|message|>{JSON}");
    let thought = "<|channel|>analysis<|message|>Paris?<|end|><|start|>assistant";
    let remark = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant";
    let said = "<|channel|>final<|message|>Hello.";
    for markers in [true, false] {
        let (tokenizer, constrainer, end) = constrainer(markers);
        for choice in [ToolChoice::Required, ToolChoice::Named("forecast".to_owned()), ToolChoice::Auto] {
            let grammar = constrainer.calls(&AnswerFormat::Channels, &tools(), &choice).unwrap();
            let constraint = constrainer.compile(&grammar).unwrap();
            let accepts = |text: &str| accepts(&constraint, &tokenizer, end, text);
            for before in ["", thought, &[thought, remark].concat()] {
                let text = before.to_owned() + &call;
                assert!(accepts(&text), "{choice:?} {markers}: {text}");
                for (right, wrong) in [("371", "many"), ("celsius", "kelvin"), ("city", "town"), ("forecast", "guess")]
                {
                    let wrong = text.replace(right, wrong);
                    assert!(!accepts(&wrong), "{choice:?} {markers}: {wrong}");
                }
                let pieces = parse(&AnswerFormat::Channels, &text);
                let [.., Piece::Call(call)] = &pieces[..] else { panic!("{pieces:?}") };
                assert!(fits(&call.function.name, &call.function.arguments), "{:?}", call.function);
                let answer = before.to_owned() + said;
                assert_eq!(accepts(&answer), choice == ToolChoice::Auto, "{choice:?} {markers}: {answer}");
            }
        }
    }
}

#[test]
fn what_models_write_is_allowed_and_what_tools_do_not_take_is_not() {
    for markers in [true, false] {
        let (tokenizer, constrainer, end) = constrainer(markers);
        for (name, text) in sentences() {
            let format = ToolFormat::named(name).unwrap();
            for choice in [ToolChoice::Required, ToolChoice::Named("forecast".to_owned()), ToolChoice::Auto] {
                let grammar = constrainer.calls(&written(format), &tools(), &choice).unwrap();
                let constraint = constrainer.compile(&grammar).unwrap();
                assert!(
                    accepts(&constraint, &tokenizer, end, &text),
                    "{name} {choice:?} {markers}: {text}\n{grammar:?}"
                );
                let changes =
                    [("371", "many"), ("371", "1000"), ("celsius", "kelvin"), ("city", "town"), ("lat", "lot")];
                for (right, wrong) in changes.into_iter().chain([("forecast", "guess"), ("flag", "flags")]) {
                    let wrong = text.replace(right, wrong);
                    assert!(!accepts(&constraint, &tokenizer, end, &wrong), "{name} {choice:?} {markers}: {wrong}");
                }
            }
            let pieces = parse(&written(format), &text);
            let [Piece::Call(call)] = &pieces[..] else { panic!("{name}: {pieces:?}") };
            assert!(fits(&call.function.name, &call.function.arguments), "{name}: {:?}", call.function);
        }
    }
}

#[test]
fn what_a_format_cannot_carry_is_refused_by_name() {
    let (_, constrainer, _) = constrainer(false);
    let refuse = |format: &str, name: &str, schema: Value| {
        let tools = Tools::from(vec![json!({"name": name, "parameters": schema})]);
        let error =
            constrainer.calls(&written(ToolFormat::named(format).unwrap()), &tools, &ToolChoice::Required).unwrap_err();
        assert!(error.to_string().contains(&format!("calls of {name} in the format {format}")), "{error}");
        error.to_string()
    };
    let with = |x: Value| json!({"type": "object", "properties": {"x": x}});
    for (format, schema, why) in [
        ("qwen3_coder", with(json!({"type": "string", "format": "iri"})), "the `format` \"iri\" of `x`"),
        ("qwen3_coder", with(json!({"enum": ["1", 1]})), "would be read as something else"),
        (
            "qwen3_coder",
            with(json!({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]})),
            "`x` is text or",
        ),
        ("glm47", with(json!({"not": {"type": "string"}})), "`not` of `x`"),
        ("glm47", with(json!({"$ref": "#/$defs/no"})), "the `$ref` of `x` leads nowhere"),
        ("pythonic", with(json!({"type": "array", "uniqueItems": true})), "`uniqueItems` of `x`"),
        ("pythonic", with(json!({"type": "object", "properties": {"y": {"patternProperties": {}}}})), "of `y` of `x`"),
        ("gemma4", json!({"type": "object", "additionalProperties": true}), "`additionalProperties` of the arguments"),
        ("gemma4", json!({"type": "object", "properties": {"a b": {}}}), "the name \"a b\" in the arguments"),
        ("seed_oss", json!({"anyOf": [{"type": "object"}]}), "the arguments are no plain object"),
        ("json_tools", json!({"type": "object", "properties": {"x": {"$ref": "#"}}}), "the `$ref` to #"),
    ] {
        let error = refuse(format, "f", schema);
        assert!(error.contains(why), "{error}");
    }
    assert!(refuse("minimax_m2", "a b", json!({})).contains("the name \"a b\" in the call"));
    let nobody = ToolChoice::Named("three".to_owned());
    assert!(constrainer.calls(&written(ToolFormat::named("mistral").unwrap()), &tools(), &nobody).is_err());
}
