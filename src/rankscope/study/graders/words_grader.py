"""Graders that compare the words of an answer with those of the accepted ones; the best over these counts."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, ClassVar

from rankscope.study.graders.answer_text import exact_match, normalize, token_f1
from rankscope.study.graders.grader import Asked, Grader

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer


class ExactGrader(Grader):
    """1 where the answer equals an accepted one after normalisation (SQuAD, arXiv 1606.05250, section 6.1), else 0."""

    name: ClassVar[str] = "exact"
    title: ClassVar[str] = "exact match"
    one_line: ClassVar[bool] = True

    def score(self, asked: Asked) -> float:
        return float(exact_match(asked.answer, asked.references))


class ContainsGrader(Grader):
    """1 where the words of an accepted answer stand in the answer, one after another, after normalisation; else 0."""

    name: ClassVar[str] = "contains"
    title: ClassVar[str] = "whether they contain an accepted answer"

    def score(self, asked: Asked) -> float:
        found = f" {normalize(asked.answer)} "
        return float(any(f" {normalize(reference)} " in found for reference in asked.references))


class F1Grader(Grader):
    """The F1 of the answer's words and an accepted one's after normalisation (SQuAD, arXiv 1606.05250, section 6.1)."""

    name: ClassVar[str] = "f1"
    title: ClassVar[str] = "the F1 of their words"
    one_line: ClassVar[bool] = True

    def score(self, asked: Asked) -> float:
        return token_f1(asked.answer, asked.references)


class RougeGrader(Grader):
    """ROUGE-L: the F-measure of the longest common subsequence of words (Lin, 2004, section 3), by rouge-score.

    Without stemming. rouge-score reads letters from a to z and digits, and nothing else.
    """

    name: ClassVar[str] = "rouge_l"
    title: ClassVar[str] = "ROUGE-L"
    one_line: ClassVar[bool] = True

    def score(self, asked: Asked) -> float:
        found = [_rouge().score(reference, asked.answer)["rougeL"].fmeasure for reference in asked.references]
        return float(max(found))

    def refuse_reference(self, reference: str) -> tuple[str, str] | None:
        if any(c.isascii() and c.isalnum() for c in reference.lower()):
            return None
        found = "an answer without a letter from a to z or a digit, which rouge-score does not read"
        return found, "another grader, such as f1, or `metric: loss`"


@cache
def _rouge() -> RougeScorer:
    from rouge_score.rouge_scorer import RougeScorer  # imported where it is used: it takes a second

    return RougeScorer(["rougeL"], use_stemmer=False)


GRADERS = (ExactGrader, ContainsGrader, F1Grader, RougeGrader)
