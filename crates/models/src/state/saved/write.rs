//! The current layout of mlx-lm, so that it reads what is written here.

use std::collections::{BTreeMap, HashMap};

use mlxengine_tensor::{Dtype, Spec, Tensor, Tensors, safetensors};
use smallvec::smallvec;

use crate::decoder::LanguageModel;
use crate::spec::{self, DeltaProjection, Mixer};
use crate::state::{KvShape, Slot, SlotSpec, State};
use crate::{Error, Result};

/// What one of mlx-lm's caches holds of a slot.
enum Place {
    /// Keys and values; `chunk`: of chunks of so many positions.
    Attention { chunk: Option<usize> },
    /// Keys that are kept in two pieces, the first of so many numbers.
    Latent(usize),
    /// Keys that are kept twice, or beside values of no size.
    Index { twice: bool },
    /// Arrays, the first cut into pieces of so many channels.
    Arrays(Vec<usize>),
}

/// The caches of a layer: one, or a list of several.
enum Layer {
    One(Place),
    List(Vec<Place>),
}

/// The caches that mlx-lm has of a model, in the order of our slots.
fn layers(spec: &spec::Decoder) -> Vec<Layer> {
    let mixers = || spec.layers.iter().filter_map(|layer| layer.mixer.as_ref());
    // The reference keeps lists in every layer where it does in some.
    let lists = mixers().any(|mixer| matches!(mixer, Mixer::BlockSparse(_)));
    let places = |mixer: &Mixer| {
        let mut places = Vec::new();
        self::places(mixer, &mut places);
        let single = places.len() == 1 && !lists && !matches!(mixer, Mixer::Sum(_));
        if single { places.pop().map(Layer::One) } else { Some(Layer::List(places)) }
    };
    mixers().filter(|mixer| !matches!(mixer, Mixer::Attention(a) if a.keys_of.is_some())).filter_map(places).collect()
}

/// The same of a model that is more than its description says: each slot by itself.
fn plain(slots: &[SlotSpec]) -> Vec<Layer> {
    let place = |slot: &SlotSpec| match slot {
        SlotSpec::Kv { shape: KvShape { value_dim: None, .. }, .. } => Place::Index { twice: false },
        SlotSpec::Kv { .. } => Place::Attention { chunk: None },
        SlotSpec::Recurrent(_) => Place::Arrays(Vec::new()),
    };
    slots.iter().map(|slot| Layer::One(place(slot))).collect()
}

fn places(mixer: &Mixer, into: &mut Vec<Place>) {
    match mixer {
        Mixer::Attention(a) => into.push(Place::Attention { chunk: a.window.filter(|_| a.chunked) }),
        Mixer::Latent(latent) => {
            into.push(Place::Latent(latent.rank));
            into.extend(latent.indexer.as_ref().map(|_| Place::Index { twice: true }));
        }
        Mixer::BlockSparse(_) => into.extend([Place::Attention { chunk: None }, Place::Index { twice: false }]),
        Mixer::GatedDelta(delta) if delta.projection == DeltaProjection::Each => {
            let keys = delta.key_heads * delta.key_dim;
            into.push(Place::Arrays(vec![keys, keys, delta.heads * delta.value_dim]));
        }
        Mixer::ShortConv(_) | Mixer::GatedDelta(_) | Mixer::GatedRecurrence(_) | Mixer::KeyedDelta(_) => {
            into.push(Place::Arrays(Vec::new()))
        }
        Mixer::LinearAttention(_)
        | Mixer::Wkv(_)
        | Mixer::StateSpace(_)
        | Mixer::ScalarStateSpace(_)
        | Mixer::SelectedStateSpace(_) => into.push(Place::Arrays(Vec::new())),
        Mixer::Sum(parts) => parts.iter().for_each(|part| places(part, into)),
    }
}

/// The arrays and the metadata of a file, being collected.
#[derive(Default)]
struct Writer {
    tensors: BTreeMap<String, Tensor>,
    metadata: HashMap<String, String>,
    /// Leaves that are no arrays in the reference.
    leaves: usize,
}

impl State {
    /// The bytes of a prompt cache file in mlx-lm's layout, with further metadata.
    ///
    /// # Errors
    /// If nothing has been read yet.
    pub fn save(&self, network: &dyn LanguageModel, metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
        if self.offset == 0 {
            return Err(super::super::invalid("there is nothing to save: no token has been read".to_owned()));
        }
        let mut file = Writer::default();
        file.metadata.extend(metadata.iter().map(|(key, value)| (format!("0.{key}"), value.clone())));
        file.metadata.insert("2.0".to_owned(), String::new());
        let mut layers = layers(network.spec());
        let count = |layer: &Layer| if let Layer::List(places) = layer { places.len() } else { 1 };
        if layers.iter().map(count).sum::<usize>() != self.slots.len() {
            layers = plain(network.slots());
        }
        let mut slots = self.slots.iter();
        let mut next = || slots.next().ok_or_else(|| Error::unsupported("caches of this model cannot be saved"));
        for (index, layer) in layers.iter().enumerate() {
            let class = match layer {
                Layer::One(place) => file.cache(&index.to_string(), place, next()?, self.offset),
                Layer::List(places) => {
                    for (part, place) in places.iter().enumerate() {
                        let class = file.cache(&format!("{index}.{part}.0"), place, next()?, self.offset);
                        file.text(format!("{index}.{part}.1"), class);
                    }
                    "CacheList"
                }
            };
            file.metadata.insert(format!("1.{index}"), class.to_owned());
        }
        if slots.next().is_some() {
            return Err(Error::unsupported("caches of this model cannot be saved"));
        }
        let tensors = file.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
        Ok(safetensors::serialize(tensors, file.metadata)?)
    }
}

impl Writer {
    /// Adds the arrays of a slot; returns the class that reads them.
    fn cache(&mut self, path: &str, place: &Place, slot: &Slot, offset: usize) -> &'static str {
        let cache = match slot {
            Slot::Recurrent(carried) => {
                self.carried(path, place, carried);
                return "ArraysCache";
            }
            Slot::Kv(cache) => cache,
        };
        let view = cache.view();
        let (keys, values): (Tensors, Tensors) = match place {
            Place::Latent(rank) => {
                let format = view.format;
                let part = |first: bool| {
                    let cut = |(i, t): (usize, &Tensor)| {
                        let at = match (format, i) {
                            (None, _) => *rank,
                            (Some(f), 0) => rank * f.bits as usize / 32,
                            (Some(f), _) => rank / f.group,
                        };
                        let (start, count) = if first { (0, at) } else { (at, t.shape().last() - at) };
                        t.clone().slice(2, start, count)
                    };
                    view.keys.iter().enumerate().map(cut).collect()
                };
                (part(true), part(false))
            }
            Place::Index { twice: false } if view.format.is_none() => {
                let none = view.keys[0].shape().with_last(0);
                (view.keys, smallvec![Tensor::from_f32(&[], none)])
            }
            _ => (view.keys, view.values),
        };
        let live = keys[0].shape()[0];
        for (which, parts) in [keys, values].into_iter().enumerate() {
            let several = parts.len() > 1;
            for (i, rows) in parts.into_iter().enumerate() {
                let [count, heads, size] = [0, 1, 2].map(|axis| rows.shape()[axis]);
                let name = if several { format!("{path}.{which}.{i}") } else { format!("{path}.{which}") };
                self.tensors.insert(name, rows.permute(&[1, 0, 2]).reshape([1, heads, count, size]));
            }
        }
        let ring = cache.bound().map(|(size, keep)| [keep, size, live]);
        let (class, numbers): (_, Vec<usize>) = match (ring, view.format, place) {
            (_, None, Place::Attention { chunk: Some(chunk) }) => ("ChunkedKVCache", vec![*chunk, offset - live]),
            (None, None, _) => ("KVCache", vec![]),
            (None, Some(f), _) => ("QuantizedKVCache", vec![f.group, f.bits as usize]),
            (Some(ring), None, _) => ("RotatingKVCache", ring.to_vec()),
            (Some([keep, size, live]), Some(f), _) => {
                ("QuantizedRotatingKVCache", vec![keep, size, live, f.group, f.bits as usize])
            }
        };
        for (i, number) in [offset].into_iter().chain(numbers).enumerate() {
            self.leaf(format!("{path}.{}", i + 2), &[number as i32], true);
        }
        class
    }

    fn carried(&mut self, path: &str, place: &Place, carried: &[Tensor]) {
        // The reference has no axis for heads where there is but one to a channel.
        let batch = |t: &Tensor| match t.shape()[..] {
            [channels, 1, size] => t.clone().reshape([1, channels, size]),
            [heads, rows, size] => t.clone().reshape([1, heads, rows, size]),
            [size] => t.clone().reshape([1, size]),
            _ => t.clone().reshape([1, t.shape()[0], t.shape().last()]),
        };
        let pieces = match place {
            Place::Arrays(pieces) if !pieces.is_empty() => pieces.clone(),
            _ => vec![carried[0].shape().last()],
        };
        let mut start = 0;
        let cut = |count: usize| {
            start += count;
            batch(&carried[0].clone().slice(1, start - count, count))
        };
        let arrays: Vec<Tensor> = pieces.into_iter().map(cut).chain(carried[1..].iter().map(batch)).collect();
        for (i, array) in arrays.into_iter().enumerate() {
            self.tensors.insert(format!("{path}.0.{i}"), array);
        }
        for part in [1, 2] {
            let name = format!("{path}.{part}");
            self.tensors.insert(name.clone(), Tensor::from_f32(&[], [0]));
            self.note(name, "none");
        }
    }

    fn text(&mut self, name: String, text: &str) {
        let characters: Vec<i32> = text.chars().map(|c| c as i32).collect();
        self.leaf(name, &characters, false);
    }

    /// A number, or the characters of a text, as an array.
    fn leaf(&mut self, name: String, numbers: &[i32], scalar: bool) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let shape: &[usize] = if scalar { &[] } else { &[numbers.len()] };
        self.tensors.insert(name.clone(), Tensor::lying(bytes.into(), Spec::new(Dtype::I32, shape)));
        self.note(name, if scalar { "scalar" } else { "string" });
    }

    fn note(&mut self, name: String, kind: &str) {
        self.leaves += 1;
        self.metadata.insert(format!("2.{}.0", self.leaves), name);
        self.metadata.insert(format!("2.{}.1", self.leaves), kind.to_owned());
    }
}
