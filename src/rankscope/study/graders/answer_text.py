"""Compares written answers as texts: exact match, token F1, and the final number."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

_ARTICLES = frozenset({"a", "an", "the"})
_DASHES = dict.fromkeys(range(0x2010, 0x2016), "-") | {0x2212: "-"}
_QUOTES = dict.fromkeys((0x2018, 0x2019, 0x201A, 0x2039, 0x203A), "'") | dict.fromkeys(
    (0x201C, 0x201D, 0x201E, 0xAB, 0xBB), '"'
)
_LETTER = r"[^\W\d_]"
_WRAPPED = re.compile(r"""(?<!\w)(\*{1,3}|_{1,3}|`{1,3}|"|')(?=\S)(.{0,200}?\S)\1(?!\w)""", re.DOTALL)
"""Quotation marks, and Markdown's marks of emphasis and code, on both sides of whole words."""
_BRACKETED = re.compile(rf"(?<!\S)[(\[]((?:{_LETTER}|[ '-])+|-?[0-9]+(?:\.[0-9]+)?)[)\]](?=[\s.,;:!?]|$)", re.DOTALL)
"""Brackets around plain words or one number; those of f(x), [0, 1) and Ca(OH)2 say something and stay."""
_THOUSANDS = re.compile(r"(?<![0-9.,])[1-9][0-9]{0,2}(?:,[0-9]{3})+(?![0-9]|,[0-9])")
_SPACED_OPERATOR = re.compile(r"(?<=[0-9])\s+([-+/*:<>×÷≤≥])\s+(?=[0-9])")
_SPACED_DASH = re.compile(rf"(?:^|(?<={_LETTER}{{2}})\s*)[-*\u2022]\s+(?={_LETTER}{{2}})")
"""A dash between plain words, or the mark of a list before them."""
_ENDING = re.compile(rf"(?<=.)[.,;…。、]+$|(?<={_LETTER})[?:]+$|(?<={_LETTER}{{2}})[!'\")\]]+$")
_INSIDE = re.compile(
    rf"(?<={_LETTER})[.'](?={_LETTER})|(?<={_LETTER}{{2}})-(?={_LETTER})|(?<={_LETTER})-(?={_LETTER}{{2}})"
)
"""What joins letters without saying more: U.S.A, don't, well-known; but not x-y."""
_MARKS = frozenset(".,;:!?…。、'\"")

# A minus belongs to the number unless something that it could be subtracted from stands right before it.
_NUMBER = re.compile(r"((?<![\w.)%])-)?\s?\$?\s?((?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
_MARKER = "####"


def normalize(text: str) -> str:
    """The text as answers are compared: without what says nothing, as in SQuAD (arXiv 1606.05250, section 6.1).

    Left out are case, surplus white space, an article before another word, quotation marks, emphasis and brackets
    around whole words, thousands' commas, what ends a sentence, and between letters the points, apostrophes and hyphens
    of U.S.A., don't and well-known. Unlike in SQuAD everything else stays, since it can be all that tells two answers
    apart: signs, symbols (C++, O-, 5%, $5) and what stands between digits (3/4, 10:30, 1-2, 3.5). Text that would
    vanish whole is kept in lower case.
    """
    plain = unicodedata.normalize("NFKC", text).translate(_QUOTES | _DASHES).lower().strip()
    for _ in range(2):  # bold inside quotation marks
        plain = _BRACKETED.sub(r"\1", _WRAPPED.sub(r"\2", plain))
    plain = _THOUSANDS.sub(lambda number: number[0].replace(",", ""), plain).replace("$-", "-$")
    plain = _SPACED_DASH.sub(" ", _SPACED_OPERATOR.sub(r"\1", plain))
    words = [word for part in plain.split() if (word := _word(part))]
    kept = [word for word, after in zip(words, [*words[1:], ""], strict=False) if not _is_article(word, after)]
    return " ".join(kept or plain.split())


def _word(text: str) -> str:
    """A text without white space, without what ends or quotes it; empty where it is nothing else."""
    text = text.removeprefix('"') if text[1:2].isalnum() else text
    text = text.removeprefix("'") if text[1:2].isalnum() else text
    while (shorter := _ENDING.sub("", text)) != text:
        text = shorter
    return "" if set(text) <= _MARKS else _INSIDE.sub("", text)


def _is_article(word: str, after: str) -> bool:
    """Whether the word is an article of what follows; the last word is a name, as in `vitamin A`."""
    return word in _ARTICLES and after[:1].isalnum()


def exact_match(prediction: str, answers: Iterable[str]) -> bool:
    """Whether the prediction equals any answer after `normalize` (SQuAD, arXiv 1606.05250, section 6.1)."""
    found = normalize(prediction)
    return any(found == normalize(answer) for answer in answers)


def token_f1(prediction: str, answers: Iterable[str]) -> float:
    """The largest F1 over the answers, in [0, 1] (SQuAD, arXiv 1606.05250, section 6.1).

    2 p r / (p + r), with precision p and recall r of the normalised words, each counted as often as it stands in both.
    """
    found = Counter(normalize(prediction).split())
    best = 0.0
    for answer in answers:
        wanted = Counter(normalize(answer).split())
        shared = (found & wanted).total()
        if shared:
            best = max(best, 2 * shared / (found.total() + wanted.total()))
    return best


def final_number(text: str) -> Decimal | None:
    """The number after the first `####` that has one on its line, else the text's last number; None without a number.

    `####` marks the answer in GSM8K (arXiv 2110.14168). Thousands commas, $ and % are ignored; a minus before a number
    (or its $) counts unless it stands directly behind a word, a number or a closing bracket.
    """
    text = text.replace("\u2212", "-")
    for part in text.split(_MARKER)[1:]:
        if match := _NUMBER.search(part.split("\n", 1)[0]):
            return _decimal(match)
    matches = list(_NUMBER.finditer(text))
    return _decimal(matches[-1]) if matches else None


def _decimal(match: re.Match[str]) -> Decimal:
    value = Decimal(match[2].replace(",", ""))
    return -value if match[1] else value


def number_match(prediction: str, answers: Iterable[str]) -> bool:
    """Whether the prediction's final number equals that of any answer, as decimals (18.0 is 18).

    An answer without a number is compared by exact match instead.
    """
    found = final_number(prediction)
    for answer in answers:
        wanted = final_number(answer)
        if wanted is None:
            if exact_match(prediction, [answer]):
                return True
        elif found == wanted:
            return True
    return False
