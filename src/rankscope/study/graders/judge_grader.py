"""Grades by a judge: a language model behind an endpoint of OpenAI's form, which `evaluate/judge_grading.py` asks."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rankscope.study.graders.grader import Asked, Grader, Ungraded, mismatch
from rankscope.study.methods.method_types import Count, Frozen

DEFAULT_PROMPT = """\
Grade an answer. Judge whether it is right and helpful, compared with the reference answer; another wording is as good.

[Question]
{{ prompt }}

[Reference answer]
{{ reference }}

[Answer to grade]
{{ answer }}

Reply with one line and nothing else: `Score: N`, where N is a number from {{ low }} (useless or wrong) to {{ high }} \
(as good as the reference or better)."""

_VARIABLES = ("answer", "prompt", "reference", "references", "low", "high")
_PLACE = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_NUMBER = r"-?\d+(?:\.\d+)?"
_SCORE = re.compile(rf"score\W{{0,6}}?({_NUMBER})", re.IGNORECASE)
_ALONE = re.compile(rf"\W*({_NUMBER})(?:\s*/\s*\d+)?\W*")
_SHOWN = 60


class JudgeSettings(Frozen):
    """Which judge is asked, with which words, and how often."""

    url: str = Field(
        description="the URL of an endpoint of OpenAI's form, such as http://localhost:8000/v1. What is asked is "
        "/chat/completions of it."
    )
    model: str = Field(min_length=1, description="the model's name at the endpoint. It is part of the suite's hash.")
    prompt: str = Field(
        default=DEFAULT_PROMPT,
        description="a text with {{ answer }}. Also {{ prompt }}, {{ reference }}, {{ references }}, {{ low }} and "
        "{{ high }}; it asks for `Score: N`.",
    )
    scale: tuple[float, float] = Field(
        default=(0.0, 10.0),
        description="two numbers, such as [0, 10]. The worst and the best score of the judge, which become 0 and 1.",
    )
    api_key_env: str | None = Field(
        default=None, description="the name of an environment variable. It holds the API key, which is never written."
    )
    temperature: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="a number of 0 or more. That the judge answers with."
    )
    max_tokens: Count = Field(default=512, description="a whole number above 0. The longest reply of the judge.")
    max_requests: Count | None = Field(
        default=None,
        description="a whole number above 0. The suite's budget in this study; kept replies are free.",
    )
    requests_per_minute: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="a number above 0. Of one process; without, no limit.",
    )
    together: int = Field(default=4, gt=0, le=64, description="a whole number from 1 to 64. Requests at once.")
    retries: int = Field(
        default=5, ge=0, le=20, description="a whole number from 0 to 20. After busy, failing or absent answers."
    )
    seconds: float = Field(
        default=120, gt=0, allow_inf_nan=False, description="a number above 0. What one request may take."
    )
    asked_twice: int = Field(
        default=20, ge=0, description="a whole number of 0 or more. Answers of the base that the judge grades twice."
    )

    @field_validator("url")
    @classmethod
    def _http(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            sound = False
        if not sound:
            raise mismatch(f'"{url[:_SHOWN]}"', "a URL that begins with http:// or https://")
        if "@" in parts.netloc:
            raise mismatch("a URL with a name or password in it", "`api_key_env`, the variable that holds a key")
        return url.rstrip("/")

    @field_validator("prompt")
    @classmethod
    def _known_variables(cls, prompt: str) -> str:
        used = _PLACE.findall(prompt)
        unknown = [name for name in used if name not in _VARIABLES]
        if unknown:
            raise mismatch(f"{{{{ {unknown[0]} }}}}", f"some of {', '.join(_VARIABLES)}")
        if "answer" not in used:
            raise mismatch("no {{ answer }}", "a text with {{ answer }}, which is what is graded")
        return prompt

    @field_validator("scale")
    @classmethod
    def _ascends(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not -1e6 <= low < high <= 1e6:
            raise mismatch(f"[{low:g}, {high:g}]", "two numbers, the first below the second")
        return scale


class JudgeGrader(Grader):
    """By a language model that is asked for a score. Its replies are kept in the study folder by their content, so that
    nothing is asked twice but what measures the judge's own noise."""

    name: ClassVar[str] = "judge"
    title: ClassVar[str] = "a judge"
    driver: ClassVar[Literal["call", "worker", "endpoint"]] = "endpoint"

    judge: JudgeSettings = Field(description="a mapping with url and model. Which judge is asked, and how.")

    @property
    def extra_requests(self) -> int:
        return self.judge.asked_twice

    @property
    def most_requests(self) -> int | None:
        return self.judge.max_requests

    def deciding(self) -> dict[str, Any]:
        return self.judge.model_dump(mode="json", include={"model", "prompt", "scale", "temperature", "max_tokens"})

    def request(self, asked: Asked) -> dict[str, Any]:
        """What the endpoint is sent for one answer."""
        low, high = self.judge.scale
        values = {
            "answer": asked.answer, "prompt": asked.prompt, "reference": (*asked.references, "")[0],
            "references": "\n".join(asked.references), "low": f"{low:g}", "high": f"{high:g}",
        }  # fmt: skip
        # In one go: what stands in an answer is never taken for a variable.
        text = _PLACE.sub(lambda place: values[place[1]], self.judge.prompt)
        return {
            "model": self.judge.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": self.judge.temperature,
            "max_tokens": self.judge.max_tokens,
        }

    def score_in(self, reply: str) -> float:
        """The score from 0 to 1 that a judge's reply gives: what last follows the word score, or a number alone.

        Raises Ungraded for a reply without one, or with one off the scale.
        """
        found = _SCORE.findall(reply)
        alone = _ALONE.fullmatch(reply)
        if not found and alone is None:
            text = " ".join(reply.split())
            shown = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
            raise Ungraded(f'replied "{shown}", expected `Score: N`')
        value = float(found[-1] if found else alone[1])  # type: ignore[index]
        low, high = self.judge.scale
        if not low <= value <= high:
            raise Ungraded(f"gave the score {value:g}, expected {low:g} to {high:g}")
        return (value - low) / (high - low)


GRADERS = (JudgeGrader,)
