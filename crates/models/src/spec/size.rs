//! How much a decoder holds and computes, from its description alone.

use super::{Attention, Decoder, Head, HeadGate, Mixer, Mlp, Projection, Unit};

/// Numbers of weights in the matrices of a decoder. What is small beside them, norms and biases, is not counted, nor is what a
/// family has for itself beside its layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// The table of tokens.
    pub embedding: usize,
    /// A head of its own; 0 where the table serves.
    pub head: usize,
    /// All layers.
    pub layers: usize,
    /// Of those the weights that work on one token.
    pub active: usize,
    /// The weights of experts among those of the layers, whether they work or not.
    pub experts: usize,
}

impl Size {
    /// All weights.
    pub fn all(&self) -> usize {
        self.embedding + self.head + self.layers
    }

    /// Weights that one token of an answer reads: those that work on it, and the head, which may be the table.
    pub fn read(&self) -> usize {
        self.active + if self.head > 0 { self.head } else { self.embedding }
    }
}

/// Multiplications of one query with one position that it sees, and how many it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attended {
    /// Of scores and of values, over all heads.
    pub products: usize,
    /// Most positions, if there is a bound.
    pub most: Option<usize>,
}

impl Decoder {
    /// Its weights.
    pub fn size(&self) -> Size {
        let table = self.vocab * self.dim;
        let mut size = Size { embedding: table, ..Size::default() };
        size.head = if self.head == Head::Tied { 0 } else { table };
        for layer in &self.layers {
            let mixer = layer.mixer.as_ref().map_or(0, |mixer| mixer.weights(self.dim));
            let mlp = layer.mlp.as_ref().map_or(0, |mlp| mlp.weights(self.dim));
            let idle = layer.mlp.as_ref().map_or(0, |mlp| mlp.idle(self.dim));
            size.layers += mixer + mlp;
            size.active += mixer + mlp - idle;
            size.experts += layer.mlp.as_ref().map_or(0, |mlp| mlp.experts(self.dim));
        }
        size
    }

    /// Bytes of activations that a pass over `tokens` positions needs at its peak.
    pub fn activation_bytes(&self, tokens: usize) -> u64 {
        let widest = self.layers.iter().map(|layer| {
            let mixer = layer.mixer.as_ref().map_or(0, |mixer| mixer.width(self.dim));
            mixer.max(layer.mlp.as_ref().map_or(0, |mlp| mlp.width(self.dim)))
        });
        4 * (tokens * (3 * self.dim + widest.max().unwrap_or(0)) + 2 * self.vocab) as u64
    }

    /// What each layer with attention attends to.
    pub fn attended(&self) -> impl Iterator<Item = Attended> {
        self.layers.iter().filter_map(|layer| layer.mixer.as_ref()).flat_map(Mixer::attended)
    }
}

impl HeadGate {
    /// Numbers that gate the results of so many heads.
    fn numbers(self, heads: usize, query_dim: usize, value_dim: usize) -> usize {
        match self {
            HeadGate::Head(_) => heads,
            HeadGate::Each => heads * value_dim,
            HeadGate::Query => heads * query_dim,
        }
    }
}

impl Attention {
    fn weights(&self, dim: usize) -> usize {
        let gate = self.gate.map_or(0, |gate| gate.numbers(self.heads, self.head_dim, self.value_dim));
        let kv = match self.projection {
            _ if self.keys_of.is_some() => 0,
            Projection::KeysAsValues => self.kv_heads * self.head_dim,
            _ => self.kv_heads * (self.head_dim + self.value_dim),
        };
        dim * (self.heads * (self.head_dim + self.value_dim) + gate + kv)
    }

    fn attended(&self) -> Attended {
        Attended { products: self.heads * (self.head_dim + self.value_dim), most: self.window }
    }
}

impl Mixer {
    /// Weights in its matrices, for a residual stream of `dim`.
    pub fn weights(&self, dim: usize) -> usize {
        match self {
            Mixer::Attention(a) => a.weights(dim),
            Mixer::Latent(l) => {
                let queries = l.heads * (l.nope_dim + l.rope_dim);
                let queries = l.query_rank.map_or(dim * queries, |rank| rank * (dim + queries));
                let index = l
                    .indexer
                    .as_ref()
                    .map_or(0, |i| i.heads * i.head_dim * l.query_rank.unwrap_or(dim) + dim * (i.head_dim + i.heads));
                let values = l.heads * l.value_dim;
                let gate = dim * l.gate.map_or(0, |gate| gate.numbers(l.heads, l.nope_dim + l.rope_dim, l.value_dim));
                let inner = l.rank * l.heads * (l.nope_dim + l.value_dim);
                queries + dim * (l.rank + l.rope_dim) + inner + dim * values + gate + index
            }
            Mixer::BlockSparse(s) => s.attention.weights(dim) + dim * (s.heads + 1) * s.head_dim,
            Mixer::ShortConv(c) => 4 * dim * dim + c.kernel * dim,
            Mixer::GatedDelta(d) => {
                let (keys, values) = (d.key_heads * d.key_dim, d.heads * d.value_dim);
                dim * (2 * keys + 3 * values + 2 * d.heads) + d.kernel * (2 * keys + values)
            }
            Mixer::KeyedDelta(d) => {
                let inner = d.heads * d.head_dim;
                let low = d.head_dim * (dim + inner);
                let gate = if d.full_gate { dim * inner } else { low };
                dim * (4 * inner + d.heads) + low + gate + 3 * d.kernel * inner
            }
            Mixer::LinearAttention(l) => 5 * dim * l.rates.len() * l.head_dim,
            Mixer::Wkv(w) => {
                let inner = w.heads * w.head_dim;
                let ranks = w.decay_rank + w.rate_rank + w.gate_rank + w.value_rank.unwrap_or(0);
                4 * dim * inner + ranks * (dim + inner)
            }
            Mixer::GatedRecurrence(r) => r.width * (3 * dim + 2 * r.width / r.heads + r.kernel),
            Mixer::SelectedStateSpace(m) => {
                m.inner() * (3 * dim + m.rank + 2 * m.state_dim + m.kernel) + m.rank * m.heads
            }
            Mixer::StateSpace(m) => m.inner * (3 * dim + 2 * m.rank + 3 * m.state_dim + m.kernel),
            Mixer::ScalarStateSpace(m) => dim * (2 * m.inner() + m.channels() + m.heads) + m.kernel * m.channels(),
            Mixer::Sum(parts) => parts.iter().map(|part| part.weights(dim)).sum(),
        }
    }

    fn attended(&self) -> Vec<Attended> {
        match self {
            Mixer::Attention(a) => vec![a.attended()],
            Mixer::Latent(l) => {
                let most = l.indexer.as_ref().map(|indexer| indexer.top);
                let whole = Attended { products: l.heads * (2 * l.rank + l.rope_dim), most };
                let index = l.indexer.as_ref().map(|i| Attended { products: i.heads * i.head_dim, most: None });
                [whole].into_iter().chain(index).collect()
            }
            Mixer::BlockSparse(s) => {
                let most = Some((s.top + s.local) * s.block);
                vec![
                    Attended { most, ..s.attention.attended() },
                    Attended { products: s.heads * s.head_dim, most: None },
                ]
            }
            Mixer::Sum(parts) => parts.iter().flat_map(Mixer::attended).collect(),
            _ => Vec::new(),
        }
    }
}

impl Mlp {
    /// Weights in its matrices, for a residual stream of `dim`.
    pub fn weights(&self, dim: usize) -> usize {
        match self {
            Mlp::Dense(unit) => unit.weights(dim),
            Mlp::Experts(e) => {
                let shared = e.shared.map_or(0, |s| s.unit.weights(dim) + usize::from(s.gated) * dim);
                let latent = e.latent.map_or(0, |latent| 2 * latent.dim * dim);
                self.experts(dim) + dim * e.count + shared + latent
            }
        }
    }

    /// Weights of all its experts, those that every token sees not among them.
    pub fn experts(&self, dim: usize) -> usize {
        match self {
            Mlp::Dense(_) => 0,
            Mlp::Experts(e) => e.count * e.unit.weights(e.latent.map_or(dim, |latent| latent.dim)),
        }
    }

    /// Weights of the experts that do not work on a token.
    pub fn idle(&self, dim: usize) -> usize {
        match self {
            Mlp::Dense(_) => 0,
            Mlp::Experts(e) => self.experts(dim) / e.count * (e.count - e.active),
        }
    }
}

impl Unit {
    fn weights(&self, dim: usize) -> usize {
        let matrices = if matches!(self, Unit::Gated(_)) { 3 } else { 2 };
        matrices * self.hidden() * dim
    }
}
