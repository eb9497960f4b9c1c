//! The engine on the demo model.
#![cfg(feature = "demo")]

use std::sync::LazyLock;

use mlxengine::{
    CacheOptions, ErrorKind, Feature, FinishReason, GenerateOptions, GenerateParams, InferenceEngine, KvQuantization,
    LlmEngine, LoadOptions, Message, Prompt,
};

static DEMO: LazyLock<InferenceEngine> = LazyLock::new(|| InferenceEngine::load("demo").expect("the demo model loads"));

fn greedy() -> GenerateParams {
    GenerateParams::default()
}

fn say(text: &str, params: &GenerateParams) -> String {
    DEMO.generate(Prompt::chat(text), params).expect("an answer").text
}

#[test]
fn it_knows_its_capitals() {
    assert_eq!(say("What is the capital of France?", &greedy()), "The capital of France is Paris.");
    let answer = DEMO.generate(Prompt::chat("What is the capital of Japan?"), &greedy()).unwrap();
    assert!(answer.text.contains("Tokyo"));
    assert_eq!(answer.finish, FinishReason::Stop);
    assert_eq!(answer.stats.generated_tokens, answer.tokens.len());
    assert!(answer.tokens.iter().all(|(_, logprob)| *logprob <= 0.0 && logprob.is_finite()));
}

#[test]
fn the_configuration_tells_the_truth() {
    let c = DEMO.configuration();
    assert_eq!((c.family.as_str(), c.layers, c.vocabulary, c.context_length), ("qwen3", 6, 4096, Some(1024)));
    assert_eq!(c.quantization(), "4-bit affine group 32");
    assert!((5_500_000..6_000_000).contains(&c.parameters) && c.parameters == c.active_parameters);
    assert_eq!(c.licence.as_deref(), Some("cc0-1.0"));
    assert!(c.end_tokens.iter().any(|e| e.text.as_deref() == Some("<|im_end|>")));
    assert_eq!(c.default_params.temperature, 0.5);
    assert!(DEMO.features().has(Feature::Chat) && !DEMO.features().has(Feature::Vision));
    let json = serde_json::to_string(c).unwrap();
    assert_eq!(&serde_json::from_str::<mlxengine::ModelConfiguration>(&json).unwrap(), c);
}

#[test]
fn a_stream_is_the_whole_in_pieces() {
    let params = greedy();
    let mut stream = DEMO.stream(Prompt::chat("Tell me a story about a fox."), &params).unwrap();
    let steps: Vec<_> = (&mut stream).map(|s| s.unwrap()).collect();
    let text: String = steps.iter().map(|s| s.text.as_str()).collect();
    assert_eq!(text, say("Tell me a story about a fox.", &params));
    assert!(steps.len() > 20 && steps[..steps.len() - 1].iter().all(|s| s.finish.is_none()));
    assert_eq!(steps.last().unwrap().finish, Some(FinishReason::Stop));
}

#[test]
fn many_threads_give_the_same_answers_as_one() {
    let questions =
        ["What is the capital of Italy?", "What is 3 + 4?", "What is the opposite of hot?", "Count from one to five."];
    let alone: Vec<String> = questions.iter().map(|q| say(q, &greedy())).collect();
    std::thread::scope(|scope| {
        let answers: Vec<_> = questions.iter().cycle().take(8).map(|q| scope.spawn(|| say(q, &greedy()))).collect();
        for (i, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.join().unwrap(), alone[i % questions.len()]);
        }
    });
}

#[test]
fn a_seed_gives_the_same_text_again() {
    let params = greedy().with_temperature(1.2).with_seed(7);
    let text = say("Tell me a story about a cat.", &params);
    assert_eq!(text, say("Tell me a story about a cat.", &params));
    assert_ne!(text, say("Tell me a story about a cat.", &params.clone().with_seed(8)));
    let stream = DEMO.stream(Prompt::chat("Hello!"), &greedy().with_temperature(1.0)).unwrap();
    let (seed, first) = (stream.seed(), stream.finish().unwrap().text);
    assert_eq!(first, say("Hello!", &greedy().with_temperature(1.0).with_seed(seed)));
}

#[test]
fn answers_end_where_they_are_told_to() {
    let short = DEMO.generate(Prompt::chat("Tell me a story about a fox."), &greedy().with_max_tokens(5)).unwrap();
    assert_eq!((short.finish, short.stats.generated_tokens), (FinishReason::Length, 5));
    let whole = say("What is the capital of France?", &greedy());
    let (before, _) = whole.split_once("of France").unwrap();
    let stopped = DEMO
        .generate(Prompt::chat("What is the capital of France?"), &greedy().with_stop(vec!["of France".into()]))
        .unwrap();
    assert_eq!((stopped.text.as_str(), stopped.finish), (before, FinishReason::Stop));
    let on =
        DEMO.generate(Prompt::chat("What is 1 + 1?"), &greedy().with_ignore_eos(true).with_max_tokens(40)).unwrap();
    assert_eq!((on.finish, on.stats.generated_tokens), (FinishReason::Length, 40));
}

#[test]
fn cancelling_stops_within_a_step() {
    let mut stream = DEMO.stream(Prompt::chat("Tell me a story about a fox."), &greedy()).unwrap();
    stream.next().unwrap().unwrap();
    stream.cancel_token().cancel();
    assert!(stream.next().is_none());
    assert_eq!(stream.finish_reason(), Some(FinishReason::Cancelled));
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() {
    let refuse = |prompt, params: &GenerateParams| DEMO.generate(prompt, params).unwrap_err();
    let long = refuse(Prompt::text("a ".repeat(3000)), &greedy());
    assert_eq!(long.kind(), ErrorKind::ContextExceeded);
    assert!(long.to_string().contains("may have 1024; shorten it by at least"), "{long}");
    assert_eq!(refuse(Prompt::Tokens(vec![]), &greedy()).kind(), ErrorKind::InvalidInput);
    assert_eq!(refuse(Prompt::Tokens(vec![4096]), &greedy()).kind(), ErrorKind::InvalidInput);
    assert_eq!(refuse(Prompt::chat("x"), &greedy().with_top_p(1.5)).kind(), ErrorKind::InvalidParameter);
    let image: Vec<Message> =
        serde_json::from_str(r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}]"#)
            .unwrap();
    assert!(DEMO.generate(Prompt::messages(image), &greedy()).is_err());
    let memory = |context, memory| {
        let options = LoadOptions { context, memory: Some(memory), ..LoadOptions::default() };
        InferenceEngine::load_with("demo", &options, |_| {})
    };
    let error = memory(Some(1024), 8_000_000).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("8.00 MB are available"), "{error}");
    assert!(memory(Some(1024), 1_000_000_000).is_ok());
    assert_eq!(memory(Some(5000), 1_000_000_000).unwrap_err().kind(), ErrorKind::ContextExceeded);
    assert_eq!(InferenceEngine::load("mlx://no/model").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn caches_of_all_kinds_talk_sense() {
    let with = |cache: CacheOptions| {
        let options = LoadOptions { generate: GenerateOptions { cache, ..Default::default() }, ..Default::default() };
        InferenceEngine::load_with("demo", &options, |_| {})
    };
    let quantize =
        |bits, start| CacheOptions { quantize: Some(KvQuantization { bits, group: 64, start }), max_tokens: None };
    for cache in [
        quantize(8, None),
        quantize(8, Some(4)),
        quantize(4, Some(0)),
        CacheOptions { max_tokens: Some(64), quantize: None },
    ] {
        let answer =
            with(cache.clone()).unwrap().generate(Prompt::chat("What is the capital of France?"), &greedy()).unwrap();
        assert!(answer.text.contains("Paris"), "{cache:?}: {}", answer.text);
    }
    let error =
        with(CacheOptions { quantize: Some(KvQuantization { bits: 4, group: 128, start: None }), max_tokens: None })
            .unwrap_err();
    assert!(error.to_string().contains("groups of 128"), "{error}");
}

#[test]
fn an_unloaded_model_says_so() {
    let engine = InferenceEngine::load("demo").unwrap();
    let under_way = engine.stream(Prompt::chat("What is the capital of France?"), &greedy()).unwrap();
    engine.unload();
    assert!(!engine.is_loaded());
    assert!(
        engine.generate(Prompt::chat("x"), &greedy()).unwrap_err().to_string().contains("was unloaded; load it again")
    );
    assert!(under_way.finish().unwrap().text.contains("Paris"));
}

#[test]
fn a_processor_of_ones_own_bends_the_answer() {
    let stream = DEMO.stream(Prompt::chat("What is the capital of France?"), &greedy().with_max_tokens(4)).unwrap();
    let forced = stream.with_processor(|_: &[u32], logits: &mut [f32]| {
        logits.fill(f32::NEG_INFINITY);
        logits[65] = 0.0;
    });
    assert!(forced.finish().unwrap().tokens.iter().all(|(token, _)| *token == 65));
}

#[cfg(feature = "stream")]
#[test]
fn a_futures_stream_is_the_same_answer() {
    use futures_util::StreamExt;
    let stream = DEMO.stream(Prompt::chat("What is the capital of France?"), &greedy()).unwrap().into_stream();
    let steps: Vec<_> = futures_executor::block_on(stream.collect());
    let text: String = steps.into_iter().map(|s| s.unwrap().text).collect();
    assert_eq!(text, "The capital of France is Paris.");
}
