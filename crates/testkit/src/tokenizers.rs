//! Tokenizers: ids, decoded texts, and texts as they stream.

use mlxengine_engine::Tokenizer;
use mlxengine_engine::text::DetokenizerKind;
use serde::Deserialize;

use crate::sheet::Sheet;
use crate::text::tokenizer;
use crate::{Case, Measure, Stop};

#[derive(Deserialize)]
struct Manifest {
    tokenizer_dir: String,
    vocab_size: usize,
    detokenizer: String,
    eos_token_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct Encoding {
    text: String,
    ids: Vec<u32>,
    ids_special: Vec<u32>,
    tokens: Vec<String>,
    decoded: String,
    decoded_special: String,
    decoded_skip: String,
}

#[derive(Deserialize)]
struct Stream {
    ids: Vec<u32>,
    segments: Vec<String>,
    decode: String,
}

pub(crate) fn check(case: &Case, sheet: &mut Sheet<'_>) -> Result<(), Stop> {
    let manifest: Manifest = case.read()?;
    let tokenizer = tokenizer(&case.dir.join(&manifest.tokenizer_dir))?;
    sheet.check("facts", || Ok(facts(&tokenizer, &manifest)));
    sheet.check("encode", || {
        let encodings: Vec<Encoding> = case.json("encode.json")?;
        Measure::worst(encodings.iter().map(|e| (format!("{:?}", e.text), encode(&tokenizer, e))))
    });
    sheet.check("single_decode", || {
        let want: Vec<String> = case.json("single_decode.json")?;
        let got = (0..want.len() as u32).map(|id| tokenizer.decode(&[id], false)).collect::<Result<Vec<_>, _>>()?;
        Measure::exact(&got, &want)
    });
    sheet.check("stream", || {
        let streams: Vec<Stream> = case.json("stream.json")?;
        Measure::worst(streams.iter().map(|s| (format!("{:?}", s.ids), stream(&tokenizer, s))))
    });
    Ok(())
}

fn facts(tokenizer: &Tokenizer, manifest: &Manifest) -> Measure {
    let kind = match tokenizer.detokenizer_kind() {
        DetokenizerKind::ByteLevel => "BPEStreamingDetokenizer",
        DetokenizerKind::SentencePiece { .. } => "SPMStreamingDetokenizer",
        DetokenizerKind::Naive { .. } => "NaiveStreamingDetokenizer",
    };
    let ends: Vec<u32> = tokenizer.end_tokens(None, None, None).iter().map(|end| end.id).collect();
    Measure::equal("size", &tokenizer.vocab_size(), &manifest.vocab_size)
        .or_worse(Measure::equal("detokenizer", kind, manifest.detokenizer.as_str()))
        .or_worse(Measure::equal("end tokens", &ends, &manifest.eos_token_ids))
}

fn encode(tokenizer: &Tokenizer, want: &Encoding) -> Result<Measure, Stop> {
    let [ids, special] = [tokenizer.encode(&want.text, false)?, tokenizer.encode(&want.text, true)?];
    let tokens: Vec<String> = ids.iter().filter_map(|id| tokenizer.id_to_token(*id)).collect();
    let decoded =
        [(&ids, false, &want.decoded), (&special, false, &want.decoded_special), (&special, true, &want.decoded_skip)];
    let mut measure = Measure::equal("ids", &ids, &want.ids)
        .or_worse(Measure::equal("ids with special tokens", &special, &want.ids_special))
        .or_worse(Measure::equal("tokens", &tokens, &want.tokens));
    for (ids, skip, want) in decoded {
        measure = measure.or_worse(Measure::equal("decoded", &tokenizer.decode(ids, skip)?, want));
    }
    Ok(measure)
}

fn stream(tokenizer: &Tokenizer, want: &Stream) -> Result<Measure, Stop> {
    let mut stream = tokenizer.detokenizer();
    let mut segments: Vec<String> = want.ids.iter().map(|id| stream.push(*id)).collect();
    segments.push(stream.finish());
    let decoded = tokenizer.decode(&want.ids, false)?;
    Ok(Measure::equal("segments", &segments, &want.segments).or_worse(Measure::equal("decode", &decoded, &want.decode)))
}
