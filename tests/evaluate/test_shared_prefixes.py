"""Which prompts are grouped by a shared prefix."""

from __future__ import annotations

import itertools
import random

from rankscope.evaluate.shared_prefixes import shared_prefixes


def saved(groups: list[tuple[int, list[int]]]) -> int:
    return sum((len(members) - 1) * shared for shared, members in groups)


def test_nested_prefixes_are_shared_where_they_save_most() -> None:
    deep = [(*range(8), 50 + k) for k in range(4)]
    shallow = [(*range(3), 60 + k, 70) for k in range(2)]
    groups = shared_prefixes([*shallow, *deep, (90, 91)], saving=2, shortest=2)
    assert [(shared, sorted(members)) for shared, members in groups] == [(8, [2, 3, 4, 5]), (0, [0, 1, 6])]
    many = [(*range(3), 60 + k, 70) for k in range(40)]
    groups = shared_prefixes([*many, *deep], saving=2, shortest=2)
    assert [(shared, len(members)) for shared, members in groups] == [(3, 44)]


def test_a_prompt_keeps_a_token_and_little_is_not_worth_it() -> None:
    same = [(1, 2, 3, 4)] * 3
    assert shared_prefixes(same, saving=6, shortest=2) == [(3, [0, 1, 2])]
    assert shared_prefixes(same, saving=7, shortest=2) == [(0, [0, 1, 2])]
    assert shared_prefixes(same, saving=6, shortest=4) == [(0, [0, 1, 2])]
    assert shared_prefixes([], saving=1) == []


def best_single(prompts: list[tuple[int, ...]]) -> int:
    """The most that one group can save: every run of neighbours in sorted order, tried out."""
    prompts = sorted(prompts)

    def shared(part: list[tuple[int, ...]]) -> int:
        size = min(map(len, part)) - 1
        return next((k for k in range(size) if len({prompt[k] for prompt in part}) > 1), size)

    spans = itertools.combinations(range(len(prompts) + 1), 2)
    return max((stop - start - 1) * shared(prompts[start:stop]) for start, stop in spans)


def test_groups_are_disjoint_and_save_at_least_as_much_as_any_one() -> None:
    draw = random.Random(0)
    for _ in range(200):
        prompts = [tuple(draw.choices((1, 2), k=draw.randint(1, 6))) for _ in range(draw.randint(1, 7))]
        groups = shared_prefixes(prompts, saving=1, shortest=1)
        assert sorted(itertools.chain(*(members for _, members in groups))) == list(range(len(prompts)))
        for size, members in groups:
            assert len({prompts[index][:size] for index in members}) == 1
            assert all(len(prompts[index]) > size for index in members)
        assert saved(groups) >= best_single(prompts)
