"""Grades of generated answers: exact match, token F1, and the final number."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_NUMBER_SIGN = re.compile(r"(?<=[0-9])\.(?=[0-9])|(?<![^\s$(])-(?=\$?\.?[0-9])|(?<![^\s$(-])\.(?=[0-9])")
# A minus belongs to the number unless something that it could be subtracted from stands right before it.
_NUMBER = re.compile(r"((?<![\w.)%])-)?\s?\$?\s?((?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)")
_MARKER = "####"


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and surplus white space (SQuAD, arXiv 1606.05250, section 6.1).

    Unlike there, numbers keep their decimal point and minus sign and lose only thousands commas, so that 3.5 is not 35,
    and typographic punctuation is dropped like ASCII punctuation. Text that would vanish whole is kept in lower case.
    """
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-").lower()
    plain = _THOUSANDS.sub("", plain)
    kept = {match.start() for match in _NUMBER_SIGN.finditer(plain)}
    letters = (char for place, char in enumerate(plain) if place in kept or not _is_punctuation(char))
    words = _ARTICLE.sub(" ", "".join(letters)).split()
    return " ".join(words or plain.split())


def _is_punctuation(char: str) -> bool:
    """ASCII punctuation (which holds symbols such as $ and +) and Unicode's categories P."""
    return unicodedata.category(char).startswith("P") or (char.isascii() and unicodedata.category(char).startswith("S"))


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
