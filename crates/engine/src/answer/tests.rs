use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The tools of every test.
fn tools() -> Tools {
    let schema = json!({"type": "object", "properties": {
        "city": {"type": "string"}, "days": {"type": "integer"}, "list": {"type": "array"}}});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": schema}});
    Tools::from(vec![tool("get_weather"), tool("now")])
}

fn format(name: &str) -> AnswerFormat {
    if name == "channels" {
        return AnswerFormat::Channels;
    }
    let markers = |start: &str, end: &str| ReasoningMarkers { start: start.to_owned(), end: end.to_owned() };
    let (reasoning, response) = match name {
        "command_r" => {
            (markers("<|START_THINKING|>", "<|END_THINKING|>"), Some(("<|START_RESPONSE|>", "<|END_RESPONSE|>")))
        }
        "seed_oss" => (markers("<seed:think>", "</seed:think>"), None),
        "granite" => (markers("<think>", "</think>"), Some(("<response>", "</response>"))),
        "apriel" => {
            let reasoning = markers("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]");
            return AnswerFormat::Marked {
                reasoning: Some(reasoning),
                response: Some(("", "[END FINAL RESPONSE]")),
                tools: None,
            };
        }
        _ => (markers("<think>", "</think>"), None),
    };
    let tools = ToolFormat::named(name).unwrap_or_else(|| panic!("there is no format {name}"));
    AnswerFormat::Marked { reasoning: Some(reasoning), response, tools: Some(tools) }
}

/// A piece in one line.
fn show(piece: &Piece) -> String {
    match piece {
        Piece::Reasoning(text) => format!("think {text:?}"),
        Piece::Text(text) => format!("text {text:?}"),
        Piece::Call(call) => {
            format!("{} {} {}", call.id.as_deref().unwrap_or("?"), call.function.name, call.function.arguments)
        }
        Piece::Broken { text, .. } => format!("broken {text:?}"),
    }
}

/// The pieces of an answer that arrives in these parts, like next to like made one.
fn parse<'a>(format: &AnswerFormat, parts: impl IntoIterator<Item = &'a str>, inside: bool) -> Vec<String> {
    let mut parser = AnswerParser::new(format, Some(tools()), inside);
    let mut pieces: Vec<Piece> = parts.into_iter().flat_map(|part| parser.push(part)).collect();
    pieces.extend(parser.finish());
    let mut whole: Vec<Piece> = Vec::new();
    for piece in pieces {
        match (whole.last_mut(), piece) {
            (Some(Piece::Text(text)), Piece::Text(more)) | (Some(Piece::Reasoning(text)), Piece::Reasoning(more)) => {
                text.push_str(&more);
            }
            (_, piece) => whole.push(piece),
        }
    }
    whole.iter().map(show).collect()
}

/// Checks an answer as a whole, in characters, and cut in two at every place.
#[track_caller]
fn check_from(name: &str, inside: bool, answer: &str, want: &[&str]) {
    let format = format(name);
    assert_eq!(parse(&format, [answer], inside), want, "{name}: {answer}");
    let ends: Vec<usize> = answer.char_indices().map(|(at, _)| at).chain([answer.len()]).collect();
    let characters = ends.windows(2).map(|w| &answer[w[0]..w[1]]);
    assert_eq!(parse(&format, characters, inside), want, "{name}, in characters: {answer}");
    for at in ends {
        assert_eq!(parse(&format, [&answer[..at], &answer[at..]], inside), want, "{name}, cut at {at}: {answer}");
    }
}

#[track_caller]
fn check(name: &str, answer: &str, want: &[&str]) {
    check_from(name, false, answer, want);
}

const WEATHER: &str = r#"call00000 get_weather {"city":"Paris","days":3}"#;
const NOW: &str = "call00001 now {}";

#[test]
fn one_call_and_two_in_every_format() {
    let json = r#"{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}"#;
    let now = r#"{"name": "now", "arguments": {}}"#;
    for (name, answer) in [
        ("json_tools", format!("<tool_call>\n{json}\n</tool_call>\n<tool_call>\n{now}\n</tool_call>")),
        ("json_tools", format!("<tool_call>{json}</tool_call><tool_call>{now}")),
        ("json_tools", format!("<tool_call>{json}\n{now}</tool_call>")),
        ("granite", format!("<|tool_call|>[{json}, {now}]")),
        ("granite", format!("<tool_call>[{json}, {now}]")),
        ("phi4", format!("<|tool_call|>[{json}, {now}]<|/tool_call|>")),
        ("phi4", format!("functools[{json}, {now}]")),
        ("tool_calls", format!("<tool_calls>[\n{json},\n{now}\n]</tool_calls>")),
        ("nemotron", format!("<TOOLCALL>[{json}, {now}]</TOOLCALL>")),
        ("gigachat", format!("function call<|role_sep|>\n{json}\n{now}")),
        ("internlm", format!("<|action_start|><|plugin|>\n{json}<|action_end|><|action_start|><|plugin|>{now}<|action_end|>")),
        ("llama3_json", format!("<|python_tag|>{json}; {now}")),
        ("llama3_json", json.replace("arguments", "parameters") + "; " + now),
        ("llama3_json", format!("[{json}, {now}]")),
        ("llama3_json", r#"<function=get_weather>{"city": "Paris", "days": 3}</function><function=now>{}</function>"#.into()),
        ("llama3_json", r#"<|python_tag|>get_weather.call(city="Paris", days=3), now.call()"#.into()),
        ("llama3_json", r#"[get_weather(city="Paris", days=3), now()]"#.into()),
        ("llama4_pythonic", r#"<|python_start|>[get_weather(city="Paris", days=3), now()]<|python_end|>"#.into()),
        ("llama4_pythonic", r#"[get_weather(city='Paris', days=3), now()]"#.into()),
        ("pythonic", r#"<|tool_call_start|>[get_weather(city="Paris", days=3), now()]<|tool_call_end|>"#.into()),
        ("olmo3", "<function_calls>\nget_weather(city=\"Paris\", days=3)\nnow()\n</function_calls>".into()),
        ("mistral", format!("[TOOL_CALLS][{json}, {now}]")),
        ("mistral", r#"[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 3}[TOOL_CALLS]now[ARGS]{}"#.into()),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n\
            {\"city\": \"Paris\", \"days\": 3}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n\
            ```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>".into()),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Paris\", \"days\": 3}\
            <｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>".into()),
        ("qwen3_coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n\
            </parameter>\n</function>\n</tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>".into()),
        ("seed_oss", "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n<parameter=days>3\
            </parameter>\n</function>\n<function=now>\n</function>\n</seed:tool_call>".into()),
        ("minimax_m2", "<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Paris</parameter>\n\
            <parameter name=\"days\">3</parameter>\n</invoke>\n<invoke name=\"now\">\n</invoke>\n</minimax:tool_call>".into()),
        ("dsml", "<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get_weather\">\n<｜DSML｜parameter name=\"city\" \
            string=\"true\">Paris</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" string=\"false\">3\
            </｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name=\"now\">\n</｜DSML｜invoke>\n\
            </｜DSML｜function_calls>".into()),
        ("minicpm5", "<function name=\"get_weather\"><param name=\"city\"><![CDATA[Paris]]></param><param name=\"days\">3\
            </param></function><function name=\"now\"></function>".into()),
        ("muse_spark", "<atem:function_calls>\n<atem:invoke name=\"get_weather\">\n<atem:parameter name=\"city\">Paris\
            </atem:parameter>\n<atem:parameter name=\"days\">3</atem:parameter>\n</atem:invoke>\n\
            <atem:invoke name=\"now\">\n</atem:invoke>\n</atem:function_calls>".into()),
        ("glm47", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>days</arg_key>\n\
            <arg_value>3</arg_value>\n</tool_call>\n<tool_call>now\n</tool_call>".into()),
        ("glm47", format!("<tool_call>{json}</tool_call><tool_call>now\n{{}}</tool_call>")),
        ("longcat", "<longcat_tool_call>get_weather\n<longcat_arg_key>city</longcat_arg_key>\n<longcat_arg_value>Paris\
            </longcat_arg_value>\n<longcat_arg_key>days</longcat_arg_key>\n<longcat_arg_value>3</longcat_arg_value>\n\
            </longcat_tool_call><longcat_tool_call>now</longcat_tool_call>".into()),
        ("function_gemma", "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:3}<end_function_call>\
            <start_function_call>call:now{}<end_function_call>".into()),
        ("gemma4", "<|tool_call>call:get_weather{city:<|\"|>Paris<|\"|>,days:3}<tool_call|><|tool_call>call:now{}<tool_call|>".into()),
        ("command_r_action", "Action: ```json\n[{\"tool_name\": \"get_weather\", \"parameters\": {\"city\": \"Paris\", \
            \"days\": 3}}, {\"tool_name\": \"now\", \"parameters\": {}}]\n```".into()),
        ("apertus", r#"<|tools_prefix|>[{"get_weather": {"city": "Paris", "days": 3}}, {"now": {}}]<|tools_suffix|>"#.into()),
    ] {
        check(name, &answer, &[WEATHER, NOW]);
        check(name, &format!("<think>\nhm\n</think>\n\n{answer}\n").replace("<think>", &start(name)).replace("</think>", &end(name)),
            &["think \"hm\"", WEATHER, NOW]);
    }
}

fn start(name: &str) -> String {
    format(name).reasoning().unwrap().start
}

fn end(name: &str) -> String {
    format(name).reasoning().unwrap().end
}

#[test]
fn ids_that_the_model_gives_are_kept() {
    let weather = r#"{"city":"Paris"}"#;
    check(
        "mistral",
        &format!("[TOOL_CALLS]get_weather[CALL_ID]abc123def[ARGS]{weather}"),
        &[r#"abc123def get_weather {"city":"Paris"}"#],
    );
    check("mistral", r#"[TOOL_CALLS][{"name": "now", "arguments": "{}", "id": "xyzxyzxyz"}]"#, &["xyzxyzxyz now {}"]);
    check(
        "kimi_k2",
        &format!(
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:7<|tool_call_argument_begin|>{weather}\
            <|tool_call_end|><|tool_calls_section_end|>"
        ),
        &[r#"functions.get_weather:7 get_weather {"city":"Paris"}"#],
    );
    check(
        "command_r",
        "<|START_THINKING|>I look.<|END_THINKING|><|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"now\", \
            \"parameters\": {}}\n]<|END_ACTION|>",
        &["think \"I look.\"", "0 now {}"],
    );
    check(
        "solar",
        "<|tool_calls|><|tool_call:begin|>id7<|tool_call:name|>now<|tool_call:args|>{}<|tool_call:end|>",
        &["id7 now {}"],
    );
    check(
        "kimi_k3",
        "Wait.<|open|>tools<|sep|><|open|>call tool=\"get_weather\" index=\"1\"<|sep|><|open|>argument key=\"city\" \
            type=\"string\"<|sep|>3<|close|>argument<|sep|><|close|>call<|sep|><|open|>call tool=\"now\" index=\"2\"<|sep|>\
            <|open|>json type=\"object\"<|sep|>{}<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
        &["text \"Wait.\"", r#"call00000 get_weather {"city":"3"}"#, NOW],
    );
}

#[test]
fn text_and_thoughts() {
    for (answer, want) in [
        ("", vec![]),
        ("  plain \n", vec!["text \"  plain \\n\""]),
        ("<think>\n\n</think>\n\nHi ", vec!["text \"Hi \""]),
        ("<think>a\n\nb </think>Hi", vec!["think \"a\\n\\nb\"", "text \"Hi\""]),
        ("<think>cut off ", vec!["think \"cut off\""]),
        ("a <think> b </think> c", vec!["text \"a <think> b </think> c\""]),
        ("a < b <t", vec!["text \"a < b <t\""]),
        (
            "Let me see.\n\n<tool_call>{\"name\": \"now\"}</tool_call> \nDone.",
            vec!["text \"Let me see.\"", "call00000 now {}", "text \"Done.\""],
        ),
    ] {
        check("json_tools", answer, &want);
    }
    check_from("json_tools", true, "hm\n</think>\n\nHi", &["think \"hm\"", "text \"Hi\""]);
    check_from("json_tools", true, "<think>hm</think>Hi", &["think \"hm\"", "text \"Hi\""]);
    check_from("json_tools", true, "only thoughts", &["think \"only thoughts\""]);
    check("granite", "<think>hm</think><response>\nHi\n</response>", &["think \"hm\"", "text \"Hi\""]);
    check(
        "command_r",
        "<|START_THINKING|>hm<|END_THINKING|><|START_RESPONSE|>Hi<|END_RESPONSE|>",
        &["think \"hm\"", "text \"Hi\""],
    );
    check_from(
        "apriel",
        true,
        "One.\n[BEGIN FINAL RESPONSE]\nHi\n[END FINAL RESPONSE]",
        &["think \"One.\"", "text \"Hi\""],
    );
}

#[test]
fn nothing_is_lost() {
    let cases: &[(&str, &str, &[&str])] = &[
        ("json_tools", "<tool_call>{\"name\": \"now\"", &["broken \"<tool_call>{\\\"name\\\": \\\"now\\\"\""]),
        (
            "json_tools",
            "a <tool_call>no</tool_call> b",
            &["text \"a\"", "broken \" <tool_call>no</tool_call>\"", "text \" b\""],
        ),
        ("json_tools", "<tool_call>[1]</tool_call>", &["broken \"<tool_call>[1]</tool_call>\""]),
        (
            "json_tools",
            "<tool_call>{\"name\": \"now\"} x</tool_call>",
            &["broken \"<tool_call>{\\\"name\\\": \\\"now\\\"} x</tool_call>\""],
        ),
        (
            "json_tools",
            "<tool_call>{\"name\": \"now\", \"arguments\": 3}</tool_call>",
            &["broken \"<tool_call>{\\\"name\\\": \\\"now\\\", \\\"arguments\\\": 3}</tool_call>\""],
        ),
        (
            "json_tools",
            "<tool_call>{\"name\": \"now\", \"arguments\": {\"x\": \"</tool_call>\"}}</tool_call>",
            &["call00000 now {\"x\":\"</tool_call>\"}"],
        ),
        (
            "json_tools",
            "<tool_call>{\"name\": </tool_call><tool_call>{\"name\": \"now\"}</tool_call>",
            &["broken \"<tool_call>{\\\"name\\\": </tool_call>\"", "call00000 now {}"],
        ),
        ("qwen3_coder", "Use <tool_call> for calls", &["text \"Use <tool_call> for calls\""]),
        ("qwen3_coder", "x <tool_call>\n", &["text \"x\"", "broken \" <tool_call>\\n\""]),
        (
            "qwen3_coder",
            "<tool_call>\n<function=now>\n<parameter=x>\n1",
            &["broken \"<tool_call>\\n<function=now>\\n<parameter=x>\\n1\""],
        ),
        ("qwen3_coder", "<function=now>\n</function> </tool_call> end", &["call00000 now {}", "text \"end\""]),
        ("glm47", "<tool_call>get_wea", &["broken \"<tool_call>get_wea\""]),
        ("glm47", "<tool_call>two words</tool_call>", &["broken \"<tool_call>two words</tool_call>\""]),
        ("mistral", "[TOOL_CALLS]now[ARGS]{\"a\":", &["broken \"[TOOL_CALLS]now[ARGS]{\\\"a\\\":\""]),
        ("mistral", "[TOOL_CALLS]now[ARGS]{} and more", &["call00000 now {}", "text \"and more\""]),
        ("llama3_json", "{\"name\": \"Ada\", \"age\": 36}", &["text \"{\\\"name\\\": \\\"Ada\\\", \\\"age\\\": 36}\""]),
        ("llama3_json", "{\"answer\": 1}", &["text \"{\\\"answer\\\": 1}\""]),
        ("llama3_json", "[1](link) and {", &["text \"[1](link) and {\""]),
        ("deepseek", "<｜tool▁calls▁begin｜>hm", &["text \"<｜tool▁calls▁begin｜>hm\""]),
    ];
    for (name, answer, want) in cases {
        check(name, answer, want);
    }
}

#[test]
fn channels() {
    check(
        "channels",
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>\
            assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{\"city\":\"Paris\",\"days\":3}\
            <|call|><|start|>assistant to=functions.now<|channel|>commentary json<|message|>",
        &["think \"hm\"", "text \"I look.\"", WEATHER, NOW],
    );
    check("channels", "<|channel|>final<|message|>Hi <|not a marker", &["text \"Hi <|not a marker\""]);
    check(
        "channels",
        "<|channel|>analysis<|message|>hm<|channel|>final<|message|>Hi",
        &["think \"hm\"", "text \"Hi\""],
    );
    check("channels", "no header at all", &["text \"no header at all\""]);
    check("channels", "<|channel|>ana", &["broken \"<|channel|>ana\""]);
    check(
        "channels",
        "<|channel|>commentary to=functions.now<|message|>{\"a\"",
        &["broken \"<|channel|>commentary to=functions.now<|message|>{\\\"a\\\"\""],
    );
}

#[test]
fn without_tools_nothing_is_a_call() {
    let answer = "<tool_call>{\"name\": \"now\"}</tool_call>";
    let mut parser = AnswerParser::new(&format("json_tools"), None, false);
    let mut pieces = parser.push(answer);
    pieces.extend(parser.finish());
    assert_eq!(message(pieces).content.text(), answer);
}

#[test]
fn pieces_make_a_message() {
    let mut parser = AnswerParser::new(&format("json_tools"), Some(tools()), false).after_calls(4);
    let mut pieces = parser.push("<think>a</think>b<tool_call>{\"name\": \"now\"}</tool_call><tool_call>x");
    pieces.extend(parser.finish());
    let message = message(pieces);
    assert_eq!(message.reasoning.as_deref(), Some("a"));
    assert_eq!(message.content.text(), "b<tool_call>x");
    assert_eq!(message.tool_calls[0].id.as_deref(), Some("call00004"));
}

#[test]
fn every_format_has_a_name_of_its_own_and_is_tested() {
    let source = include_str!("tests.rs");
    for (i, format) in TOOL_FORMATS.iter().enumerate() {
        assert!(source.matches(&format!("\"{}\"", format.name)).count() >= 1, "{} is not tested", format.name);
        assert!(TOOL_FORMATS[..i].iter().all(|other| other.name != format.name), "{} twice", format.name);
    }
}

/// Texts made of the formats' own markers and of what may stand between them.
fn fragments(format: &AnswerFormat) -> Vec<String> {
    let mut all: Vec<String> =
        ["{\"name\": \"now\", \"arguments\": {}}", "now", "(", ")", "[", "{}", " ", "\n", "a", "é", "<", "```json\n"]
            .map(str::to_owned)
            .into();
    if let Some(markers) = format.reasoning() {
        all.extend([markers.start, markers.end]);
    }
    if let AnswerFormat::Channels = format {
        all.extend(
            ["<|channel|>", "final", "analysis", "<|message|>", "<|end|>", "<|start|>", " to=functions.now"]
                .map(str::to_owned),
        );
    }
    if let AnswerFormat::Marked { response, tools: Some(tools), .. } = format {
        let calls = tools.calls.iter().flat_map(|syntax| [syntax.open, syntax.close]);
        let pairs = tools.section.iter().chain(response).flat_map(|(open, close)| [*open, *close]);
        all.extend(calls.chain(pairs).filter(|m| !m.is_empty()).map(str::to_owned));
        if let Body::Tagged(tags) = tools.calls[0].body {
            all.extend([tags.head_end, tags.argument, tags.argument_end].map(str::to_owned));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn where_an_answer_is_cut_makes_no_difference(
        index in 0..=TOOL_FORMATS.len(),
        parts in prop::collection::vec((0usize..64, 0usize..6), 0..14),
        cuts in prop::collection::vec(0usize..200, 0..6),
        inside in any::<bool>(),
    ) {
        let format = format(TOOL_FORMATS.get(index).map_or("channels", |format| format.name));
        let fragments = fragments(&format);
        // Now and then only the beginning of a fragment.
        let parts = parts.into_iter().map(|(i, cut)| {
            let text = &fragments[i % fragments.len()];
            if cut == 0 { text.char_indices().nth(3).map_or(text.as_str(), |(at, _)| &text[..at]) } else { text }
        });
        let answer: String = parts.collect();
        let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| answer.is_char_boundary(*cut)).chain([0, answer.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|w| &answer[w[0]..w[1]]);
        let whole = parse(&format, [answer.as_str()], inside);
        prop_assert_eq!(parse(&format, pieces, inside), whole.clone(), "{:?} {}", format, answer);
        let ends: Vec<usize> = answer.char_indices().map(|(at, _)| at).chain([answer.len()]).collect();
        prop_assert_eq!(parse(&format, ends.windows(2).map(|w| &answer[w[0]..w[1]]), inside), whole, "in characters: {}", answer);
    }
}
