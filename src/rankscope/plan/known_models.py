"""Shapes of well-known models, from small to large: what a machine could train, before any model is at hand."""

from __future__ import annotations

from dataclasses import dataclass

from rankscope.records import ModelFacts


@dataclass(frozen=True)
class Shape:
    """A Llama-like decoder: hidden size D, MLP width, layers L, widths of queries and of keys, vocabulary V."""

    name: str
    hidden: int
    mlp: int
    layers: int
    query: int
    key: int
    vocab: int
    tied: bool

    def facts(self) -> ModelFacts:
        """What the plan's arithmetic needs; the content is nobody's."""
        d, m, q, k = self.hidden, self.mlp, self.query, self.key
        own = {
            "self_attn.q_proj": (q, d), "self_attn.k_proj": (k, d), "self_attn.v_proj": (k, d),
            "self_attn.o_proj": (d, q), "mlp.gate_proj": (m, d), "mlp.up_proj": (m, d), "mlp.down_proj": (d, m),
        }  # fmt: skip
        linear = {f"model.layers.{i}.{name}": shape for i in range(self.layers) for name, shape in own.items()}
        vocabulary = self.vocab * d * (1 if self.tied else 2)
        norms = {f"model.layers.{i}.{n}": d for i in range(self.layers) for n in ("input_layernorm", "post_norm")}
        norms["model.norm"] = d
        count = sum(out * in_ for out, in_ in linear.values()) + vocabulary + sum(norms.values())
        return ModelFacts(
            name=self.name, source=self.name, revision=None, content_sha256="", architecture="LlamaForCausalLM",
            parameter_count=count, hidden_size=d, layer_count=self.layers, vocab_size=self.vocab, context_tokens=4096,
            tied_embeddings=self.tied, linear_shapes=linear, norm_parameters=norms, vocabulary_parameters=vocabulary,
            key_value_width=k,
        )  # fmt: skip


LADDER = (
    Shape("SmolLM2-135M", 576, 1536, 30, 576, 192, 49152, True),
    Shape("SmolLM2-360M", 960, 2560, 32, 960, 320, 49152, True),
    Shape("Llama-3.2-1B", 2048, 8192, 16, 2048, 512, 128256, True),
    Shape("Llama-3.2-3B", 3072, 8192, 28, 3072, 1024, 128256, True),
    Shape("Llama-3.1-8B", 4096, 14336, 32, 4096, 1024, 128256, False),
    Shape("Llama-2-13B", 5120, 13824, 40, 5120, 5120, 32000, False),
    Shape("Mistral-Small-24B", 5120, 32768, 40, 4096, 1024, 131072, False),
    Shape("Llama-3.1-70B", 8192, 28672, 80, 8192, 1024, 128256, False),
)
"""From the models' published config.json files."""
