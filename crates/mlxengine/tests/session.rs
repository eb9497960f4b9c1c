//! Conversations with the demo model.
#![cfg(feature = "demo")]

use std::sync::LazyLock;

use mlxengine::{ChatSession, ErrorKind, FinishReason, Format, GenerateParams, InferenceEngine, Message, Role};

static DEMO: LazyLock<InferenceEngine> = LazyLock::new(|| InferenceEngine::load("demo").expect("the demo model loads"));

fn session() -> ChatSession {
    ChatSession::new(&DEMO).with_params(GenerateParams::default())
}

#[test]
fn it_remembers_and_reads_nothing_twice() {
    let chat = session();
    let first = chat.send("My name is Ada.").unwrap();
    assert_eq!(first.stats.cached_tokens, 0);
    let second = chat.send("What is my name?").unwrap();
    assert!(second.text.contains("Ada"), "{}", second.text);
    let spoken = first.stats.prompt_tokens + first.stats.generated_tokens;
    assert!(second.stats.cached_tokens >= spoken - 1, "{:?} after {:?}", second.stats, first.stats);
    let read = second.stats.prompt_tokens - second.stats.cached_tokens;
    assert!(read < 25, "{read} tokens were read for a short turn");
    assert_eq!(
        chat.messages().iter().map(|m| m.role).collect::<Vec<_>>(),
        [Role::User, Role::Assistant, Role::User, Role::Assistant]
    );
}

#[test]
fn a_reused_prefix_changes_no_letter() {
    let chat = session();
    chat.send("What is the capital of Italy?").unwrap();
    let reused = chat.send("Tell me a story about a fox.").unwrap();
    let mut turns = chat.messages();
    turns.truncate(2);
    let fresh = ChatSession::with_messages(&DEMO, turns).with_params(GenerateParams::default());
    let fresh = fresh.send("Tell me a story about a fox.").unwrap();
    assert!(reused.stats.cached_tokens > 0 && fresh.stats.cached_tokens == 0);
    assert_eq!(reused.text, fresh.text);
}

#[test]
fn another_try_and_an_edit_reuse_what_came_before() {
    let chat = session();
    chat.send("What is the capital of Italy?").unwrap();
    let answer = chat.send("And what is the capital of Spain?").unwrap();
    let again = chat.regenerate().unwrap().finish().unwrap();
    assert_eq!(again.text, answer.text, "greedy answers repeat");
    assert_eq!(again.stats.cached_tokens, again.stats.prompt_tokens - 1, "all but the last token was known");
    assert_eq!(chat.messages().len(), 4);
    let edited = chat.edit(2, "And what is the capital of Peru?").unwrap().finish().unwrap();
    assert!(edited.text.contains("Lima"), "{}", edited.text);
    assert!(edited.stats.cached_tokens > edited.stats.prompt_tokens / 2, "{:?}", edited.stats);
    assert_eq!(chat.messages().len(), 4);
    assert!(chat.edit(1, "x").is_err() && chat.edit(9, "x").is_err());
    assert_eq!(chat.messages().len(), 4, "a refused edit changes nothing");
}

#[test]
fn a_cancelled_answer_stays_as_far_as_it_came() {
    let chat = session();
    let mut reply = chat.stream("Tell me a story about a fox.").unwrap();
    let said: String = (&mut reply).take(12).map(|s| s.unwrap().text).collect();
    chat.cancel();
    assert!(reply.next().is_none());
    drop(reply);
    assert_eq!(chat.messages()[1].content.text(), said);
    let dropped = chat.stream("Tell me a story about a cat.").unwrap();
    drop(dropped);
    assert_eq!(chat.messages().len(), 4, "a dropped reply is an empty one");
    assert!(chat.send("What is the capital of France?").unwrap().text.contains("Paris"));
}

#[test]
fn one_answer_at_a_time_from_any_thread() {
    let chat = session();
    let reply = chat.stream("Tell me a story about a fox.").unwrap();
    let clone = chat.clone();
    let error = std::thread::spawn(move || clone.send("Hello!").unwrap_err()).join().unwrap();
    assert!(error.to_string().contains("wait for its end, or cancel it"), "{error}");
    assert_eq!(reply.finish().unwrap().finish, FinishReason::Stop);
    assert_eq!(chat.messages().len(), 2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                session().send("What is the capital of France?").map(|r| assert!(r.text.contains("Paris"))).unwrap()
            });
        }
    });
}

#[test]
fn a_turn_that_does_not_fit_leaves_everything_as_it_was() {
    let chat = session();
    chat.send("What is the capital of Italy?").unwrap();
    let before = chat.messages();
    let error = chat.send(&"word ".repeat(2000)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContextExceeded);
    assert_eq!(chat.messages(), before);
    let next = chat.send("And of Spain?").unwrap();
    assert!(next.stats.cached_tokens > 0, "the cache survived too");
    assert!(chat.set_params(GenerateParams::default().with_temperature(f32::NAN)).is_err());
    assert!(session().regenerate().is_err());
}

#[test]
fn instructions_come_first_and_stay() {
    let chat = session().with_system("You are a pirate.");
    assert_eq!(chat.system().as_deref(), Some("You are a pirate."));
    chat.send("Hello!").unwrap();
    chat.clear();
    assert_eq!(chat.messages(), [Message::system("You are a pirate.")]);
    chat.set_system(None);
    assert!(chat.messages().is_empty() && chat.system().is_none());
}

#[test]
fn conversations_travel() {
    let chat = session().with_system("Answer in one word.");
    chat.send("What is the capital of France?").unwrap();
    for format in [Format::Json, Format::Markdown, Format::Text, Format::OpenAi, Format::ShareGpt] {
        let copy = ChatSession::import(&DEMO, &chat.export(format).unwrap(), format).unwrap();
        assert_eq!(copy.messages(), chat.messages(), "{format:?}");
    }
    let foreign = ChatSession::import(
        &DEMO,
        r#"[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"}]"#,
        Format::Json,
    );
    assert_eq!(foreign.unwrap().messages().len(), 2);
    assert!(ChatSession::import(&DEMO, "{", Format::OpenAi).is_err());
    assert!(ChatSession::import(&DEMO, r#"{"version": 9}"#, Format::Json).is_err());
}
