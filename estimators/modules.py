"""The modules of a network by the names of its tensors: embedding, attention, perceptron, head, norms."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from .parameters import ParameterLayout

PATTERNS = (
    ("embedding", r"(^|\.)(wte|wpe|emb|embed|embeddings?|embed_tokens|tok|token|pos|position|place)(\.|_|$)"),
    ("head", r"(^|\.)(lm_head|head|unembed|classifier)(\.|$)"),
    ("qk", r"(^|[._])(q|k|q_proj|k_proj|query|key|wq|wk|qk)(\.|$)"),
    ("vo", r"(^|[._])(v|o|v_proj|o_proj|value|wv|wo|vo|out|out_proj)(\.|$)|(attn|attention)\.(c_proj|dense)\."),
    ("attention", r"(^|[._])(qkv|attn|attention|self_attn|c_attn|in_proj)(\.|_|$)"),
    ("mlp", r"(^|[._])(mlp|fc\d*|ffn|feed_forward|up_proj|gate_proj|down_proj|up|down|gate|w1|w2|w3)(\.|$)"),
)
"""Modules by patterns of the names of matrices; what matches none stands in `other`, norms and biases in `norms`."""
FUSED = re.compile(r"(^|[._])(qkv|c_attn|in_proj)(\.|_|$)")
"""Names of one matrix that makes queries, keys and values one after the other."""


def modules_of(layout: ParameterLayout) -> tuple[str, ...]:
    """The module of every tensor: its group where the layout has groups, else by its name."""
    if layout.groups:
        return layout.groups
    named = zip(layout.names, layout.shapes, strict=True)
    return tuple(_module(name.lower()) if len(shape) > 1 else "norms" for name, shape in named)


def _module(name: str) -> str:
    return next((module for module, pattern in PATTERNS if re.search(pattern, name)), "other")


def module_coordinates(layout: ParameterLayout) -> dict[str, Tensor]:
    """The coordinates of every module, by the tensors' names, whatever groups the layout has.

    A fused matrix of queries, keys and values, three times as long as wide, is divided: `qk` has its first two thirds, `vo` its
    last, by rows (`nn.Linear`, `nn.MultiheadAttention`) or by columns (GPT-2's `Conv1D`).

    Args:
        layout: of the parameters; GPT-2's, Llama's and the built-in model's names are known, and their like.

    Returns:
        Numbers of coordinates, ascending, by module, in the order in which modules first occur; together all of them.
    """
    found: dict[str, list[Tensor]] = {}
    plain = ParameterLayout(layout.names, layout.shapes)
    for name, shape, module, place in zip(layout.names, layout.shapes, modules_of(plain), layout.slices, strict=True):
        numbers = torch.arange(place.start, place.stop)
        if module == "attention" and len(shape) == 2 and FUSED.search(name.lower()) and max(shape) == 3 * min(shape):
            parts = numbers.view(shape).tensor_split(3, dim=0 if shape[0] > shape[1] else 1)
            for own, part in zip(("qk", "qk", "vo"), parts, strict=True):
                found.setdefault(own, []).append(part.reshape(-1))
        else:
            found.setdefault(module, []).append(numbers)
    return {module: torch.cat(parts).sort().values for module, parts in found.items()}
