"""Strings that end a written answer: rankscope's own, and as lm-eval has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

STOP_WINDOW_TOKENS = 24
"""A stop string is looked for in the text of so many last tokens."""


class StopStrings:
    """Says when a row has just written one of `stops`, after some text that is not blank.

    `decode` turns token ids into text. Text is only decoded after a token that holds the last character of a stop;
    what a single token holds is remembered.
    """

    def __init__(self, stops: Sequence[str], decode: Callable[[list[int]], str]) -> None:
        self.stops = tuple(stops)
        self.decode = decode
        self._last = {stop[-1] for stop in self.stops}
        self._may_end: dict[int, bool] = {}

    def __call__(self, tokens: list[int]) -> bool:
        """Whether `tokens`, generated so far, now hold a stop."""
        if not self.stops:
            return False
        last = tokens[-1]
        if last not in self._may_end:
            text = self.decode([last])
            # A part of a character decodes to the replacement mark: then only the whole text can tell.
            self._may_end[last] = "\ufffd" in text or any(end in text for end in self._last)
        if not self._may_end[last]:
            return False
        tail = self.decode(tokens[-STOP_WINDOW_TOKENS:])
        return any(stop in tail for stop in self.stops) and self.cut(self.decode(tokens)) is not None

    def cut(self, text: str) -> str | None:
        """The text before the first stop that follows some text; None where there is none."""
        begin = len(text) - len(text.lstrip())
        found = [place for stop in self.stops if (place := text.find(stop, begin)) >= 0]
        return text[: min(found)] if found else None


class FirstStop(StopStrings):
    """lm-eval's stop strings: the first one ends the text, even before there is any."""

    def cut(self, text: str) -> str | None:
        found = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return text[: min(found)] if found else None
