//! What a chat template can do, found by rendering conversations with it, and where two prompts part.

use serde::Serialize;
use serde_json::{Value, json};

use super::{ChatTemplate, RenderOptions, Tokenizer};
use crate::error::Result;
use crate::message::{Function, Message, ToolCall};

/// A variable of a template that changes how the model thinks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThinkingSwitch {
    /// Its name.
    pub variable: &'static str,
    /// What the template takes it for if nobody sets it; `None` if that is yet something else.
    pub default: Option<Value>,
}

/// What a chat template can do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Capabilities {
    /// It writes instructions.
    pub system: bool,
    /// It describes tools to the model.
    pub tools: bool,
    /// It writes calls that the model made.
    pub tool_calls: bool,
    /// It writes what tools answered.
    pub tool_results: bool,
    /// It writes instructions in the middle of a conversation.
    pub late_system: bool,
    /// The variables by which thinking is turned on and off or sized.
    pub thinking: Vec<ThinkingSwitch>,
    /// What begins an answer, if it has such.
    pub generation_prompt: Option<String>,
    /// It shows the thoughts of an answer to the turns after it.
    pub keeps_reasoning: bool,
    /// It marks what the model says, for training.
    pub marks_generation: bool,
}

/// Words that no template has.
const SYSTEM: &str = "Probe-Alpha";
const CALL: &str = "probe_beta";
const RESULT: &str = "Probe-Gamma";
const THOUGHT: &str = "Probe-Delta";

impl Capabilities {
    /// Finds them by rendering; what the template refuses, it cannot do.
    pub fn of(template: &ChatTemplate) -> Self {
        let user = || Message::user("Hello");
        let shows = |messages: &[Message], options: &RenderOptions, word: &str| {
            template.render(messages, options).is_ok_and(|text| text.contains(word))
        };
        let plain = RenderOptions::default();
        let tools = RenderOptions { tools: Some(vec![probe_tool()]), ..plain.clone() };
        let mut calling = Message::assistant("");
        calling.tool_calls.push(probe_call());
        let talk = [user(), calling, Message::tool("probe0001", RESULT)];
        let mut thoughtful = Message::assistant("Hi");
        thoughtful.reasoning = Some(THOUGHT.to_owned());
        Capabilities {
            system: shows(&[Message::system(SYSTEM), user()], &plain, SYSTEM),
            tools: shows(&[user()], &tools, CALL),
            tool_calls: shows(&talk, &plain, CALL),
            tool_results: shows(&talk, &plain, RESULT),
            late_system: shows(&[user(), Message::assistant("Hi"), Message::system(SYSTEM), user()], &plain, SYSTEM),
            thinking: switches(template),
            generation_prompt: generation_prompt(template),
            keeps_reasoning: shows(&[user(), thoughtful, user()], &plain, THOUGHT),
            marks_generation: template.marks_generation(),
        }
    }

    /// Variables among these that are about thinking and that the template does not look at.
    pub fn ignored<'a>(&self, variables: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let known = |name: &str| self.thinking.iter().any(|switch| switch.variable == name);
        variables.into_iter().filter(|name| SWITCHES.iter().any(|(s, _)| s == name) && !known(name)).collect()
    }
}

fn probe_tool() -> Value {
    json!({"type": "function", "function": {"name": CALL, "description": "A probe.",
        "parameters": {"type": "object", "properties": {"x": {"type": "string", "description": "A text."}}, "required": ["x"]}}})
}

fn probe_call() -> ToolCall {
    let function = Function { name: CALL.to_owned(), arguments: json!({"x": "y"}) };
    ToolCall { id: Some("probe0001".to_owned()), kind: "function".to_owned(), function, extra: serde_json::Map::new() }
}

/// Variables by which templates let themselves be told how to think, with two values that should differ.
const SWITCHES: [(&str, [&str; 2]); 5] = [
    ("enable_thinking", ["true", "false"]),
    ("thinking", ["true", "false"]),
    ("reasoning_effort", ["\"low\"", "\"high\""]),
    ("thinking_budget", ["0", "512"]),
    ("reasoning", ["true", "false"]),
];

fn switches(template: &ChatTemplate) -> Vec<ThinkingSwitch> {
    let messages = [Message::user("Hello")];
    let render = |set: Option<(&str, &Value)>| {
        let mut options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        options.extra.extend(set.map(|(name, value)| (name.to_owned(), value.clone())));
        template.render(&messages, &options).ok()
    };
    let unset = render(None);
    let found = SWITCHES.iter().filter_map(|(variable, values)| {
        let values: Vec<Value> = values.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
        let texts: Vec<Option<String>> = values.iter().map(|value| render(Some((variable, value)))).collect();
        let default = values.iter().zip(&texts).find(|(_, text)| **text == unset).map(|(value, _)| value.clone());
        (texts[0] != texts[1]).then_some(ThinkingSwitch { variable, default })
    });
    found.collect()
}

/// The text with which a template begins an answer, where the conversation does not change it.
pub(crate) fn generation_prompt(template: &ChatTemplate) -> Option<String> {
    let messages = [Message::user("Hello")];
    let without = template.render(&messages, &RenderOptions::default()).ok()?;
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let with = template.render(&messages, &options).ok()?;
    with.strip_prefix(without.as_str()).filter(|prompt| !prompt.is_empty()).map(str::to_owned)
}

/// Where two prompts part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Parting {
    /// Tokens that both begin with.
    pub common: usize,
    /// The message of the second in which they part, from 0; `None` behind the last, in what begins an answer.
    pub message: Option<usize>,
    /// What the first goes on with, cut after some tokens; empty if it just ends.
    pub first: String,
    /// What the second goes on with there.
    pub second: String,
}

/// Why `new`, the tokens of `messages`, does not go on from `old`; `None` if it does. This is what makes a model read again.
///
/// # Errors
/// If the tokenizer fails.
pub fn parting(
    (template, tokenizer): (&ChatTemplate, &Tokenizer),
    old: &[u32],
    new: &[u32],
    messages: &[Message],
    options: &RenderOptions,
) -> Result<Option<Parting>> {
    const SHOWN: usize = 12;
    let common = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    if common == old.len() {
        return Ok(None);
    }
    let show = |tokens: &[u32]| tokenizer.decode(&tokens[common..tokens.len().min(common + SHOWN)], false);
    let place = tokenizer.decode(&new[..common], false)?.len();
    let plain = RenderOptions { add_generation_prompt: false, ..options.clone() };
    let ends_after = |count: &usize| {
        let text = template.render(&messages[..*count], &plain);
        text.is_ok_and(|text| text.len() > place)
    };
    let message = (1..=messages.len()).find(ends_after).map(|count| count - 1);
    Ok(Some(Parting { common, message, first: show(old)?, second: show(new)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::tokenizer::tests::tiny;
    use std::collections::BTreeMap;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, &BTreeMap::new()).unwrap()
    }

    #[test]
    fn a_plain_template_can_little() {
        let found = Capabilities::of(&template(
            "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}{{ raise_exception('no') }}{% endif %}\
             <{{ m.role }}>{{ m.content }}{% endfor %}",
        ));
        assert_eq!(found, Capabilities::default());
        assert_eq!(found.ignored(["enable_thinking", "x"]), ["enable_thinking"]);
    }

    #[test]
    fn what_a_template_does_is_found() {
        let found = Capabilities::of(&template(
            "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>\
             {{ m.reasoning_content or '' }}{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}\
             {% endfor %}{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}\
             <think></think>{% endif %}{% if reasoning_effort == 'high' %}!{% endif %}{% endif %}",
        ));
        assert!(found.system && found.tools && found.tool_calls && found.tool_results && found.late_system);
        assert!(found.keeps_reasoning && !found.marks_generation);
        assert_eq!(found.generation_prompt.as_deref(), Some("<assistant>"));
        let switches: Vec<_> = found.thinking.iter().map(|s| (s.variable, s.default.clone())).collect();
        assert_eq!(switches, [("enable_thinking", Some(true.into())), ("reasoning_effort", Some("low".into()))]);
        assert!(found.ignored(["enable_thinking"]).is_empty());
    }

    #[test]
    fn prompts_part_in_a_message() {
        // Only the last message is shown in full, as templates do that drop old thoughts.
        let template = template(
            "{% for m in messages %}{{ m.content if loop.last else m.content[0] }},{% endfor %}\
             {% if add_generation_prompt %}z{% endif %}",
        );
        let tokenizer = tiny(&[], json!({}));
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let messages = [Message::user("ab"), Message::assistant("cd"), Message::user("ef")];
        let tokens = |n: usize| tokenizer.encode(&template.render(&messages[..n], &options).unwrap(), false).unwrap();
        let both = (&template, &tokenizer);
        let found = parting(both, &tokens(1), &tokens(3), &messages, &options).unwrap().unwrap();
        assert_eq!((found.common, found.message), (1, Some(0)));
        assert!(found.first.starts_with('b') && found.second.starts_with(','), "{found:?}");
        assert_eq!(parting(both, &tokens(3), &tokens(3), &messages, &options).unwrap(), None);
    }
}
