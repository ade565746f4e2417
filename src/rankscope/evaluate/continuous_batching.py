"""Decoding of many rows at once (continuous batching): finished rows leave and waiting rows enter.

A row may enter with a draft of its answer, what another model wrote, say: one forward tells which of the draft's tokens
this model would have written, and decoding begins after those (speculative decoding, arXiv 2211.17192, with a draft
that costs nothing).

Shapes: n rows that are decoded now, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from rankscope.evaluate.answer_count import count_answers
from rankscope.evaluate.stop_strings import StopStrings
from rankscope.model.attention.cached_decoder import Decoder
from rankscope.model.attention.scoring_layout import moved
from rankscope.model.forward import NotFinite
from rankscope.model.sharding.team import Team

IDLE_SHARE = {"cpu": 0.0}
"""By device, the share of the decoded rows that may have ended before the others move together. On a CPU a row that is
run in vain costs more than to move the rest."""

_IDLE_SHARE_ELSE = 0.25

NOT_FINITE = -1
"""Stands for a token where a logit was NaN or infinite: who reads the tokens finds it, without another wait."""

RIGHT_SHARE = 0.25
"""Where less of the first drafts is right, a draft costs what it saves."""

Choose = Callable[[Tensor, "Sequence[WrittenRow]"], Tensor]
"""Picks the next tokens (n,) of so many rows from their logits (n, V): NOT_FINITE where one is NaN or infinite."""


def most_likely(logits: Tensor) -> Tensor:
    """The most likely tokens (n,) of logits (n, V), as `Choose`."""
    largest, tokens = logits.max(-1)
    return torch.where(torch.isfinite(largest), tokens, NOT_FINITE)


def read_tokens(chosen: Tensor) -> list[int]:
    """The tokens that were chosen; the one time that a step waits for the device.

    Raises NotFinite where a logit was NaN or infinite.
    """
    tokens: list[int] = chosen.tolist()
    return [_finite(token) for token in tokens]


def _finite(token: int) -> int:
    if token == NOT_FINITE:
        raise NotFinite("a logit is not finite")
    return token


@dataclass(eq=False)
class WrittenRow:
    """A prompt and what followed it so far: at most `room` tokens, and the token that ended it, which is none of them.

    `draws` are a row's own random numbers in [0, 1), one for each token, where tokens are drawn. `draft`: what may
    follow the prompt, of fewer than `room` tokens, where nothing is drawn.
    """

    prompt: tuple[int, ...]
    room: int
    tokens: list[int] = field(default_factory=list)
    ended_by: int | None = None
    draws: Iterator[float] = field(default_factory=lambda: iter(()))
    draft: tuple[int, ...] = ()

    @property
    def entering_tokens(self) -> int:
        """Those of its first forward."""
        return len(self.prompt) + len(self.draft)


@dataclass(frozen=True)
class Ending:
    """What ends a row: a token of `eos_ids`, or the token that completes a stop string."""

    eos_ids: frozenset[int]
    stop: StopStrings | None = None

    def take(self, row: WrittenRow, token: int) -> bool:
        """Gives the row its next token; says whether that was its last."""
        if token in self.eos_ids:
            row.ended_by = token
            return True
        row.tokens.append(token)
        return len(row.tokens) >= row.room or (self.stop is not None and self.stop(row.tokens))


def decode(
    decoder: Decoder, waiting: list[WrittenRow], ending: Ending, choose: Choose, token_budget: int, team: Team
) -> None:
    """Decodes all of `waiting`, which are in order of their length, the longest first.

    The processes of a team run as many forwards; all raise NotFinite where one's numbers are not finite.
    """
    cache = decoder.cache
    idle = IDLE_SHARE.get(cache.device.type, _IDLE_SHARE_ELSE)
    active: list[WrittenRow] = []
    ended: set[int] = set()  # of `active`, the rows that are run along until the others move together
    following = torch.zeros(0, dtype=torch.int64, device=cache.device)
    problem: NotFinite | None = None
    while True:
        going, failed = team.any(bool(waiting) or len(ended) < len(active), problem is not None)
        if failed:
            raise problem or NotFinite("a logit is not finite")
        if not going:
            return
        if not waiting and len(ended) == len(active):
            decoder.idle()
            continue
        free = cache.slot_count - len(active) + len(ended)
        enters = bool(waiting) and (len(ended) == len(active) or free >= max(1, cache.slot_count // 4))
        if ended and (enters or len(ended) >= idle * len(active)):
            order = cache.keep([index for index in range(len(active)) if index not in ended])
            active, ended = [active[index] for index in order], set()
            following = following[moved(torch.tensor(order, dtype=torch.int64), cache.device)]
        old = len(active)
        if enters:
            size = max(1, min(free, token_budget // waiting[0].entering_tokens))
            entering, waiting = waiting[:size], waiting[size:]
            active += entering
        else:
            following = choose(decoder.step(following), active)
        try:
            if enters:
                last, done, wrong = _enter(decoder, entering, ending, choose)
                following = torch.cat([following, moved(torch.tensor(last), cache.device)])
                done = {old + index for index in done}
                if wrong > (1 - RIGHT_SHARE) * sum(len(row.draft) for row in entering):
                    for row in waiting:
                        row.draft = ()
                    waiting.sort(key=lambda row: -row.entering_tokens)
            else:
                tokens = read_tokens(following)
                done = {
                    index for index in range(old) if index not in ended and ending.take(active[index], tokens[index])
                }
        except NotFinite as error:  # told to the team, which raises it together
            problem = error
            continue
        if done:
            count_answers(len(done))
            cache.end(done)
            ended |= done


def _enter(
    decoder: Decoder, rows: Sequence[WrittenRow], ending: Ending, choose: Choose
) -> tuple[list[int], set[int], int]:
    """The first forward of rows that enter: gives each the tokens that it tells, the next one and before it those of
    its draft that are the model's own. The last token of each, which rows have ended with it, and how many tokens of
    all drafts were in vain.

    Raises NotFinite where a logit that is read is not finite.
    """
    parts = decoder.prefill_drafts([row.prompt for row in rows], [row.draft for row in rows])
    asked = iter([row for row in rows for _ in range(1 + len(row.draft))])
    chosen = torch.cat([choose(logits, list(islice(asked, len(logits)))) for logits in parts]).tolist()
    last, done, dropped, start = [], set(), [], 0
    for index, row in enumerate(rows):
        for place, token in enumerate(chosen[start : start + 1 + len(row.draft)]):
            if ending.take(row, _finite(token)):
                done.add(index)
            if index in done or row.draft[place : place + 1] != (token,):
                break
        last.append(token)
        dropped.append(len(row.draft) - place)
        start += 1 + len(row.draft)
    decoder.drop(dropped)
    return last, done, sum(dropped)
