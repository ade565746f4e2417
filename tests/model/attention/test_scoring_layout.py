"""Layouts of flat rows against attention with an explicit mask, token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rankscope.model.attention import joined_attention, scoring_layout
from rankscope.model.attention.registration import Scores
from rankscope.model.attention.scoring_layout import TreeLayout, TreeShape

HEADS, KEY_HEADS, SIZE, PREFIX = 4, 2, 8, 5
SHAPE = TreeShape(
    prompt_lengths=torch.tensor([6, 3, 4]),
    owners=torch.tensor([0, 2]),
    tree_lengths=torch.tensor([4, 3]),
    depths=torch.tensor([0, 1, 1, 0, 0, 0, 1]),
    ends=torch.tensor([3, 2, 3, 4, 1, 3, 3]),
)
# One row for each token of the flat row: its sequence in flat places, itself last. Trees begin at place 13.
SEQUENCES = [
    *(list(range(place + 1)) for place in range(6)),
    *(list(range(6, place + 1)) for place in range(6, 9)),
    *(list(range(9, place + 1)) for place in range(9, 13)),
    *([*range(6), *path] for path in ([13], [13, 14], [13, 15], [16])),
    *([*range(9, 13), *path] for path in ([17], [18], [18, 19])),
]


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def states(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Query (H, T, d), key and value (K, T, d)."""
    heads = (HEADS, KEY_HEADS, KEY_HEADS)
    query, key, value = (drawn(count, tokens, SIZE, seed=seed + k) for k, count in enumerate(heads))
    return query, key, value


def reference(query: Tensor, keys: Tensor, values: Tensor, scores: Scores) -> Tensor:
    """(H, d) of one query (H, d) over the keys and values (K, S, d) of its sequence, itself last, in double."""
    found = []
    for head in range(HEADS):
        own = head * KEY_HEADS // HEADS
        weights = keys[own].double() @ query[head].double() * scores.scale
        if scores.softcap is not None:
            weights = torch.tanh(weights / scores.softcap) * scores.softcap
        if scores.window is not None:
            weights[: max(0, len(weights) - scores.window)] = -torch.inf
        found.append(weights.softmax(-1) @ values[own].double())
    return torch.stack(found)


SCORES = [
    Scores(SIZE**-0.5),
    Scores(0.3),
    Scores(SIZE**-0.5, 3),
    Scores(0.3, 4, 2.0),
    Scores(SIZE**-0.5, 99),
]


@pytest.mark.parametrize("scores", SCORES)
def test_each_token_sees_its_own_sequence(scores: Scores) -> None:
    query, key, value = states(len(SEQUENCES))
    found = TreeLayout(SHAPE).attend(0, query, key, value, scores)
    for place, sequence in enumerate(SEQUENCES):
        wanted = reference(query[:, place], key[:, sequence], value[:, sequence], scores)
        torch.testing.assert_close(found[place].double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scores", [SCORES[0], SCORES[1], Scores(0.3, None, 2.0)])
def test_a_prefix_comes_before_every_prompt(scores: Scores) -> None:
    query, key, value = states(len(SEQUENCES))
    first = [(drawn(KEY_HEADS, PREFIX, SIZE, seed=7 + k), drawn(KEY_HEADS, PREFIX, SIZE, seed=9)) for k in (0, 1)]
    layout = TreeLayout(SHAPE, first)
    for layer in (0, 1):
        found = layout.attend(layer, query, key, value, scores)
        for place, sequence in enumerate(SEQUENCES):
            keys = torch.cat([first[layer][0], key[:, sequence]], 1)
            values = torch.cat([first[layer][1], value[:, sequence]], 1)
            wanted = reference(query[:, place], keys, values, scores)
            torch.testing.assert_close(found[place].double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("read", [[5, 8, 12], [0, 4, 5, 11], [7]])
def test_the_last_layer_leaves_out_what_is_not_read(read: list[int], scores: Scores, begins: bool) -> None:
    if begins:  # which comes without a window
        scores = replace(scores, window=None)
    query, key, value = states(len(SEQUENCES))
    first = [(drawn(KEY_HEADS, PREFIX, SIZE, seed=7 + k), drawn(KEY_HEADS, PREFIX, SIZE, seed=9)) for k in (0, 1)]
    prefix = first if begins else None
    whole = TreeLayout(SHAPE, prefix)
    layout = TreeLayout(SHAPE, prefix, read=torch.tensor([*read, *range(13, 20)]), last=1)
    for layer in (0, 1):
        wanted = whole.attend(layer, query, key, value, scores)
        if layer == 1:
            wanted[[place for place in range(13) if place not in read]] = 0
        torch.testing.assert_close(layout.attend(layer, query, key, value, scores), wanted, atol=1e-6, rtol=0)


def test_a_long_prompt_in_a_window_makes_no_mask_of_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt of 200 tokens, beside one of 5: masks stay as small as the window."""
    sizes: list[int] = []
    honest = joined_attention.additive

    def noted(seen: Tensor, dtype: torch.dtype) -> Tensor:
        sizes.append(seen.numel())
        return honest(seen, dtype)

    for module in (joined_attention, scoring_layout):
        monkeypatch.setattr(module, "additive", noted)
    none, window, count = torch.empty(0, dtype=torch.long), 16, 200
    query, key, value = states(count + 5)
    layout = TreeLayout(TreeShape(torch.tensor([count, 5]), none, none, none, none))
    found = layout.attend(0, query, key, value, Scores(0.3, window))
    assert 0 < max(sizes) <= 2 * window * window
    for place in range(count + 5):
        sequence = slice(0 if place < count else count, place + 1)
        wanted = reference(query[:, place], key[:, sequence], value[:, sequence], Scores(0.3, window))
        torch.testing.assert_close(found[place].double(), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scores", SCORES)
def test_nothing_is_read_back_from_the_device(scores: Scores) -> None:
    """On torch's meta device, where nothing has a value: reading one is an error."""
    query, key, value = (part.to("meta") for part in states(len(SEQUENCES)))
    prefix = [(drawn(KEY_HEADS, PREFIX, SIZE, seed=7).to("meta"),) * 2] * 2 if scores.window is None else None
    layout = TreeLayout(SHAPE, prefix, read=torch.tensor([5, 8, *range(13, 20)]), last=1, device=torch.device("meta"))
    for layer in (0, 1):
        assert layout.attend(layer, query, key, value, scores).shape == (len(SEQUENCES), HEADS, SIZE)
