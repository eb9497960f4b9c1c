//! Many answers at once, drafts, and scores, on the demo model.
#![cfg(feature = "demo")]

use std::sync::LazyLock;

use mlxengine::{
    Batch, BatchEvent, BatchOptions, CacheOptions, CancelToken, ChatSession, ErrorKind, Example, FinishReason,
    GenerateOptions, GenerateParams, InferenceEngine, KvQuantization, LlmEngine, LoadOptions, PerplexityOptions,
    Precision, Prompt, Question,
};

static DEMO: LazyLock<InferenceEngine> = LazyLock::new(|| {
    let options = LoadOptions { precision: Precision::Exact, ..LoadOptions::default() };
    InferenceEngine::load_with("demo", &options, |_| {}).expect("the demo model loads")
});

const QUESTIONS: [&str; 6] = [
    "What is the capital of Italy?",
    "Tell me a story about a fox.",
    "Hi!",
    "Count from one to five.",
    "What is the opposite of hot, and what is the capital of France? Say it in one short sentence, please.",
    "Write a poem about the sea.",
];

fn params(index: usize) -> GenerateParams {
    let params = GenerateParams::default().with_max_tokens(10 + 15 * (index % 3));
    if index.is_multiple_of(2) { params } else { params.with_temperature(0.8).with_seed(index as u64) }
}

/// The texts and the numbers of tokens of a batch's answers; an error's message in the place of a text.
fn collect(batch: Batch, count: usize) -> Vec<(String, usize)> {
    let mut answers = vec![(String::new(), 0); count];
    for (index, event) in batch {
        match event {
            BatchEvent::Step(step) => answers[index].0.push_str(&step.text),
            BatchEvent::Finished(finished) => answers[index].1 = finished.stats.generated_tokens,
            BatchEvent::Failed(error) => answers[index].0 = error.to_string(),
        }
    }
    answers
}

#[test]
fn answers_at_once_are_those_alone() {
    let alone: Vec<(String, usize)> = QUESTIONS
        .iter()
        .enumerate()
        .map(|(i, question)| DEMO.generate(Prompt::chat(*question), &params(i)).unwrap())
        .map(|answer| (answer.text, answer.stats.generated_tokens))
        .collect();
    for (sequences, cache_bytes) in [(4, None), (1, None), (9, Some(3_000_000))] {
        let prompts = QUESTIONS.iter().enumerate().map(|(i, question)| (Prompt::chat(*question), params(i)));
        let options = BatchOptions { sequences, cache_bytes };
        let together = collect(DEMO.generate_batch(prompts, options).unwrap(), QUESTIONS.len());
        assert_eq!(together, alone, "{options:?}");
    }
}

#[test]
fn a_request_fails_alone() {
    let hot = GenerateParams::default().with_temperature(-1.0);
    let prompts = [
        (Prompt::Tokens(vec![]), GenerateParams::default()),
        (Prompt::chat(QUESTIONS[0]), params(0)),
        (Prompt::chat("Hi!"), hot),
        (Prompt::Tokens(vec![1; 5000]), GenerateParams::default()),
    ];
    let answers = collect(DEMO.generate_batch(prompts, BatchOptions::default()).unwrap(), 4);
    let starts = ["the prompt is empty", "The capital of Italy", "temperature must be", "the prompt has 5000 tokens"];
    for ((text, _), start) in answers.iter().zip(starts) {
        assert!(text.starts_with(start), "{text}");
    }
    assert!(collect(DEMO.generate_batch([], BatchOptions::default()).unwrap(), 0).is_empty());
}

#[test]
fn who_cancels_gets_no_more() {
    let prompts = QUESTIONS.map(|question| (Prompt::chat(question), GenerateParams::default()));
    let cancel = CancelToken::new();
    let batch = DEMO.generate_batch(prompts, BatchOptions::default()).unwrap().with_cancel(cancel.clone());
    let mut seen = 0;
    for (_, event) in batch {
        assert!(matches!(event, BatchEvent::Step(_)));
        seen += 1;
        cancel.cancel();
    }
    assert!((1..=QUESTIONS.len()).contains(&seen), "{seen} steps");
}

#[test]
fn drafts_change_no_answer() {
    let drafted = [DEMO.with_draft_model(&DEMO, 4).unwrap(), DEMO.with_prompt_lookup(3, 4).unwrap()];
    let fast = InferenceEngine::load("demo").unwrap();
    let quick = [fast.with_draft_model(&DEMO, 8).unwrap(), fast.with_prompt_lookup(1, 3).unwrap()];
    for (plain, drafted) in [(&*DEMO, &drafted), (&fast, &quick)] {
        for (i, question) in QUESTIONS.iter().enumerate() {
            let params = GenerateParams { stop: vec!["zz".into(), ". The".into()], ..params(i) }.with_logprobs(1);
            let want = plain.generate(Prompt::chat(*question), &params).unwrap();
            for engine in drafted {
                let got = engine.generate(Prompt::chat(*question), &params).unwrap();
                assert_eq!((&got.text, &got.tokens, got.finish), (&want.text, &want.tokens, want.finish));
                let speculation = got.stats.speculation.unwrap();
                assert!(speculation.accepted <= speculation.drafted && want.stats.speculation.is_none());
            }
        }
    }
}

#[test]
fn caches_that_forget_or_round_see_the_same_with_drafts() {
    let quantize = |start| Some(KvQuantization { bits: 8, group: 32, start });
    for (max_tokens, quantize) in [(Some(24), None), (None, quantize(Some(20))), (Some(30), quantize(None))] {
        let cache = CacheOptions { max_tokens, quantize };
        let generate = GenerateOptions { cache, ..GenerateOptions::default() };
        let options = LoadOptions { generate, precision: Precision::Exact, ..LoadOptions::default() };
        let plain = InferenceEngine::load_with("demo", &options, |_| {}).unwrap();
        let drafted = [plain.with_draft_model(&DEMO, 4).unwrap(), plain.with_prompt_lookup(1, 4).unwrap()];
        let params = GenerateParams::default().with_max_tokens(60).with_ignore_eos(true);
        let say = |engine: &InferenceEngine| engine.generate(Prompt::chat(QUESTIONS[1]), &params).unwrap().tokens;
        let want = say(&plain);
        assert!(drafted.iter().all(|engine| say(engine) == want), "{max_tokens:?} {quantize:?}");
    }
}

#[test]
fn conversations_may_be_drafted() {
    let params = GenerateParams::default().with_max_tokens(40);
    let talk = |engine: &InferenceEngine| {
        let chat = ChatSession::new(engine).with_params(params.clone());
        let mut replies = Vec::new();
        for question in ["My name is Ada.", "What is my name?", "Tell me a story about a fox."] {
            let reply = chat.send(question).unwrap();
            assert!(replies.is_empty() || reply.stats.cached_tokens > 0);
            replies.push(reply.text);
        }
        replies.push(chat.regenerate().unwrap().finish().unwrap().text);
        replies
    };
    assert_eq!(talk(&DEMO.with_draft_model(&DEMO, 3).unwrap()), talk(&DEMO));
}

#[test]
fn a_drafted_answer_can_be_stopped_anywhere() {
    let engine = DEMO.with_draft_model(&DEMO, 5).unwrap();
    let whole = DEMO.generate(Prompt::chat(QUESTIONS[3]), &GenerateParams::default()).unwrap();
    for taken in 0..5 {
        let mut stream = engine.stream(Prompt::chat(QUESTIONS[3]), &GenerateParams::default()).unwrap();
        let before: Vec<u32> = stream.by_ref().take(taken).map(|step| step.unwrap().token).collect();
        stream.cancel_token().cancel();
        assert!(stream.next().is_none() && stream.finish_reason() == Some(FinishReason::Cancelled));
        assert!(whole.tokens.iter().map(|t| t.0).take(taken).eq(before));
        let sequence = stream.into_sequence();
        let again = engine.continue_from(Some(sequence), Prompt::chat(QUESTIONS[3]), &GenerateParams::default());
        assert_eq!(again.unwrap().finish().unwrap().text, whole.text);
    }
}

#[test]
fn drafts_that_cannot_be_are_refused() {
    assert_eq!(DEMO.with_prompt_lookup(0, 3).unwrap_err().kind(), ErrorKind::InvalidParameter);
    assert_eq!(DEMO.with_draft_model(&DEMO, 0).unwrap_err().kind(), ErrorKind::InvalidParameter);
}

#[test]
fn drafts_change_no_answer_among_many() {
    let ask = |engine: &InferenceEngine, options| {
        let prompts = QUESTIONS.iter().enumerate().map(|(i, question)| (Prompt::chat(*question), params(i)));
        engine.generate_batch(prompts, options).unwrap()
    };
    let want = collect(ask(&DEMO, BatchOptions::default()), QUESTIONS.len());
    for engine in [DEMO.with_draft_model(&DEMO, 4).unwrap(), DEMO.with_prompt_lookup(2, 5).unwrap()] {
        for (sequences, cache_bytes) in [(4, None), (1, None), (9, Some(6_000_000))] {
            let options = BatchOptions { sequences, cache_bytes };
            assert_eq!(collect(ask(&engine, options), QUESTIONS.len()), want, "{options:?}");
        }
        let drafted = ask(&engine, BatchOptions::default()).filter_map(|(_, event)| match event {
            BatchEvent::Finished(finished) => finished.stats.speculation,
            _ => None,
        });
        let (drafted, accepted) = drafted.fold((0, 0), |(d, a), s| (d + s.drafted, a + s.accepted));
        assert!(drafted > 0 && accepted > 0 && accepted <= drafted, "{accepted} of {drafted}");
    }
}

#[test]
fn texts_are_scored() {
    let lines = [r#"{"text": "The capital of France is Paris."}"#, r#"{"prompt": "Hi!", "completion": "Hello!"}"#];
    let tokens = DEMO.corpus(&lines.map(|line| Example::parse(line).unwrap())).unwrap();
    let options = PerplexityOptions { sequence_length: 8, samples: None, batch_size: 2 };
    let mut heard = Vec::new();
    let cancel = CancelToken::new();
    let found = DEMO.perplexity(&tokens, &options, &cancel, &mut |done, all| heard.push((done, all)));
    let found = found.unwrap().unwrap();
    assert_eq!(found.tokens, tokens.len() / 8 * 7);
    assert!(found.perplexity > 1.0 && heard.last().is_some_and(|(done, all)| done == all));
    let one = DEMO.perplexity(&tokens, &PerplexityOptions { batch_size: 1, ..options }, &cancel, &mut |_, _| {});
    assert_eq!(one.unwrap().unwrap(), found);
    for (sequence_length, said) in [(1, "predict nothing"), (999, "and a sample 999"), (2000, "reads at most 1024")] {
        let options = PerplexityOptions { sequence_length, ..options };
        let error = DEMO.perplexity(&tokens, &options, &cancel, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
    cancel.cancel();
    assert_eq!(DEMO.perplexity(&tokens, &options, &cancel, &mut |_, _| {}).unwrap(), None);
}

#[test]
fn endings_are_chosen() {
    let question = |choices: &[&str], answer| Question {
        context: "What is the capital of France?".into(),
        choices: choices.iter().map(|c| (*c).to_owned()).collect(),
        answer,
        id: None,
    };
    let choice =
        DEMO.choose(&question(&["The capital of France is Rome.", "The capital of France is Paris."], 1), true);
    let choice = choice.unwrap();
    assert_eq!((choice.likeliest, choice.likeliest_by_length), (1, 1));
    assert!(choice.likelihoods[1].greedy && !choice.likelihoods[0].greedy);
    assert_eq!(choice.likelihoods[0].tokens, choice.likelihoods[1].tokens);
    for (bad, said) in [(question(&["a"], 1), "counted from 0, of 1"), (question(&["", "a"], 0), "adds no token")] {
        let error = DEMO.choose(&bad, false).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
    }
}
