"""Memory of activations that the backward pass needs, term by term.

Symbols: T tokens of the micro-batch on this context-parallel rank, h hidden size, f MLP size / TP, q query width
(heads x head size) / TP, k the same for the keys, d head size, b bytes of a parameter, r bytes of a number in the
residual stream. With sequence parallelism, the h of norms and the residual stream is the hidden size / TP.

The method is that of Korthikanti et al. 2022, arXiv 2205.05198, section 4: add up the operands that each operation's
backward pass keeps, counting a tensor once that several operations keep. Matrix products keep their input, norms their
input and the operand of the weight, the attention kernel query, key, value, output and the logarithm of its
denominator.
"""

from dataclasses import dataclass

from openrlhf_sfpo.plan import head as output_layer
from openrlhf_sfpo.plan.schedule import in_flight
from openrlhf_sfpo.plan.setup import Setup


@dataclass(frozen=True)
class Widths:
    """The symbols above; `h` is that of norms and the residual stream."""

    h: float
    f: int
    q: int
    k: int
    d: int
    heads: int
    b: int
    r: int

    @classmethod
    def of(cls, setup: Setup) -> "Widths":
        model, tp = setup.model, setup.layout.tp
        return cls(
            h=model.hidden_size / (tp if setup.sequence_parallel else 1),
            f=model.ffn_hidden_size // tp,
            q=model.num_heads * model.head_dim // tp,
            k=model.num_kv_heads * model.head_dim // tp,
            d=model.head_dim,
            heads=model.num_heads // tp,
            b=setup.element,
            r=setup.residual,
        )


def layer(setup: Setup) -> int:
    """Bytes that one layer saves for one micro-batch."""
    w = Widths.of(setup)
    mlp = _norm_and_input(setup, w) + _mlp(setup, w)
    if setup.recompute == "mlp":
        # The input: with Transformer Engine it is taken before the norm, which is part of the first linear layer.
        mlp = w.r * w.h if setup.layers == "te" else _norm_and_input(setup, w)
    return int(setup.local_tokens * (_norm_and_input(setup, w) + _attention(setup, w) + mlp))


def _norm_and_input(setup: Setup, w: Widths) -> float:
    """A norm and the matrix product after it, of each token.

    Local (layers.RMSNorm): the fp32 input (a copy of a 16-bit residual stream, or the fp32 stream itself), 4 h; the
    reciprocal root, 4; the normalized input that the weight multiplies, 4 h; the product's input, b h. Transformer
    Engine's LayerNormLinear: input r h, reciprocal root 4, output b h.
    """
    if setup.layers == "te":
        return (w.r + w.b) * w.h + 4
    return (4 + 4 + w.b) * w.h + 4


def _attention(setup: Setup, w: Widths) -> float:
    """From the query/key/value product's output to the output product's input, of each token.

    Always: the rotated query and the output product's input, b q each; cos and sin of queries and keys, 4 b d.
    Selective recomputation adds the rotated key, b k, and the value, a view that keeps the whole product's output,
    b (q + 2 k). flash-attn and Transformer Engine add the same and 4 bytes a head; their output is the output product's
    input. sdpa (layers.PackedSDPA) adds its own output, b q, and 4 bytes a head, and either the same key and value or,
    where it repeats them for every query head, 2 b q.

    Norms of queries and keys (Qwen3): local (4 + 4) (q + k), as of the residual stream; Transformer Engine b (q + k).
    """
    rotary = 4 * w.b * w.d
    whole = w.q + 2 * w.k
    ends = 2 * w.b * w.q
    if setup.recompute == "selective":
        inside = w.b * (w.k + whole)
    elif setup.layers == "te" or setup.attention == "flash":
        inside = w.b * (w.k + whole) + 4 * w.heads
    elif w.q == w.k:
        inside = w.b * (w.k + whole + w.q) + 4 * w.heads
    else:
        inside = 3 * w.b * w.q + 4 * w.heads
    return ends + inside + rotary + _query_key_norms(setup, w)


def _query_key_norms(setup: Setup, w: Widths) -> float:
    if not setup.model.qk_norm:
        return 0
    roots = 4 * (w.heads + w.k // w.d)
    if setup.layers == "te":
        return w.b * (w.q + w.k) + roots
    return (4 + 4) * (w.q + w.k) + roots


def _mlp(setup: Setup, w: Widths) -> float:
    """SwiGLU, of each token: gate and up, 2 b f, and the down product's input, b f. Without the fused kernel (on CPUs)
    also silu(gate), b f, and up once more, b f, to which Megatron adds an offset of zero."""
    return (3 if setup.cuda else 5) * w.b * w.f


def layer_input(setup: Setup) -> int:
    """What full recomputation keeps of a layer, and stages send to each other: the residual stream."""
    w = Widths.of(setup)
    return int(setup.local_tokens * w.h * w.r)


def head(setup: Setup) -> int:
    """What the last stage saves after its layers: the final norm, as in a layer, and the rows to score, at most all of
    them, with positions, labels and two fp32 statistics each. Sequence parallelism ends before these rows are
    selected."""
    w = Widths.of(setup)
    norm = (w.r if setup.layers == "te" else 4 + 4) * w.h + 4
    return int(setup.local_tokens * (norm + w.b * setup.model.hidden_size + 8 + 8 + 8))


@dataclass(frozen=True)
class Moment:
    """One moment of a pass.

    Attributes:
        saved: bytes that autograd has saved for the backward pass.
        held: inputs and outputs of the stage that the schedule keeps, too.
        passing: temporary tensors.
    """

    saved: int
    held: int
    passing: int

    @property
    def total(self) -> int:
        return self.saved + self.held + self.passing


def moments(setup: Setup, stage: int) -> list[Moment]:
    """The moments of peak memory on a stage, with the maximum number of micro-batches in flight: the backward pass of
    the output layer, on the last stage, and then that of the last layer.

    With full recomputation of n of a chunk's l layers, these keep only their inputs; each is computed again in the
    backward pass and then has all its activations, when those of the output layer, and of the l - n others, have been
    freed. The same holds for recomputed MLPs.
    """
    flights, held = in_flight(setup, stage), _held_by_schedule(setup, stage)
    one, kept, layers = layer(setup), layer_input(setup), setup.layers_per_chunk
    again = recomputed_layers(setup)
    whole = flights * (again * kept + (layers - again) * one)
    found = [Moment(whole, held, backward_of_layer(setup))]
    if again == layers:
        found = [Moment(whole + one - (kept if _input_is_saved(setup) else 0), held, backward_of_layer(setup))]
    if setup.recompute == "mlp":
        mlp = int(setup.local_tokens * _mlp(setup, Widths.of(setup)))
        found = [Moment(whole + mlp, held, backward_of_layer(setup))]
    if stage == setup.layout.pp - 1:
        found.append(Moment(whole + head(setup), held, output_layer.backward(setup)))
    return found


def recomputed_layers(setup: Setup) -> int:
    """The number of recomputed layers in each chunk."""
    if setup.recompute != "full":
        return 0
    return min(setup.recompute_num_layers or setup.layers_per_chunk, setup.layers_per_chunk)


def _input_is_saved(setup: Setup) -> bool:
    """Whether a layer saves its input itself: the local norm makes an fp32 copy of a 16-bit input."""
    return setup.layers == "te" or setup.residual == 4


def _held_by_schedule(setup: Setup, stage: int) -> int:
    """The schedule keeps a stage's inputs until their backward pass, unless the first layer saves them. It does not
    keep outputs that have been sent (deallocate_pipeline_outputs), except with the interleaved schedule on CPUs."""
    p, flights = setup.layout.pp, in_flight(setup, stage)
    if p == 1:
        return 0
    inputs = 0 if stage == 0 or _input_is_saved(setup) or recomputed_layers(setup) else flights
    outputs = flights - (stage == p - 1) if setup.layout.vpp > 1 and not setup.cuda else 0
    return (inputs + outputs) * layer_input(setup)


def backward_of_layer(setup: Setup) -> int:
    """Temporary tensors, in addition to saved ones, in the backward pass of the last layer's MLP, where most is still
    saved.

    Its down product creates the gradients of the residual stream, r h, and of its input, b f, each of T tokens, and of
    its weight, b h f, which is then added to the fp32 buffer. The gate and up product creates those of its output, 2 b
    f, and input, b h, and of its weight, 2 b h f, when the MLP's saved tensors have been freed. With sequence
    parallelism also the full input and its gradient, gathered over the tensor-parallel ranks. Full recomputation also
    holds a layer's output.
    """
    w, hidden, tokens = Widths.of(setup), setup.model.hidden_size, setup.local_tokens
    down = tokens * (w.r * w.h + w.b * w.f) + w.b * hidden * w.f
    gone = tokens * _mlp(setup, w)
    gate_and_up = tokens * (w.r * w.h + 2 * w.b * w.f + w.b * hidden) + 2 * w.b * hidden * w.f - gone
    gathered = 2 * tokens * w.b * hidden if setup.sequence_parallel else 0
    output = layer_input(setup) if recomputed_layers(setup) else 0
    return int(max(down, gate_and_up) + gathered) + output


def forward_of_layer(setup: Setup) -> int:
    """The peak of a layer's forward pass without saving, in its MLP: the residual stream at the input of the chunk, of
    the layer and of the MLP, the norm's output, gate and up and the results computed from them, and the rotary
    angles."""
    w, model = Widths.of(setup), setup.model
    gathered = w.b * model.hidden_size if setup.sequence_parallel else 0
    return int(setup.local_tokens * ((3 * w.r + w.b) * w.h + _mlp(setup, w) + gathered + 8 * w.d))
