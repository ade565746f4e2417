"""Default ranks and learning rates pooled over studies: the file that `rankscope defaults` writes and `init` reads."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from rankscope.study.methods import METHODS, Frozen, MethodName
from rankscope.study.problems import InputProblems, Problem


class PooledInterval(Frozen):
    """A mean over `studies` studies with its two-sided interval; `tau`: its spread over studies."""

    mean: float
    low: float
    high: float
    tau: float = Field(ge=0)
    studies: int = Field(gt=0)


class DefaultArm(Frozen):
    """One kind of arm. `gain_difference`: to the reference of each study (full, else its largest arm; None for the
    reference itself); `learning_rate`: of those that were searched, on its own scale; `recommended_in`: verdicts."""

    method: MethodName
    rank: int | None
    alpha_per_rank: float | None
    targets: list[str] | str | None
    studies: int = Field(gt=0)
    recommended_in: int = Field(ge=0)
    gain_difference: PooledInterval | None
    forgetting: PooledInterval | None
    learning_rate: PooledInterval | None


class Defaults(Frozen):
    """defaults.yaml. `default` is the place of the arm in `arms`, None where the studies cannot tell, for `reason`."""

    format_version: Literal[1] = 1
    studies: list[str]
    confidence: float
    task_margin: float
    retention_margin: float
    default: int | None
    reason: str
    arms: list[DefaultArm] = Field(min_length=1)


def dump_defaults(defaults: Defaults) -> str:
    """YAML, its first lines in words."""
    text = yaml.safe_dump(defaults.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return f"# Pooled by rankscope defaults over {len(defaults.studies)} studies. {defaults.reason}\n{text}"


def read_defaults(path: Path) -> Defaults:
    """What `dump_defaults` wrote. Raises InputProblems."""
    expected = "a file that `rankscope defaults` wrote"
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Defaults.model_validate(found)
    except FileNotFoundError:
        raise InputProblems([Problem(str(path), "--from", "no such file", expected)]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputProblems([Problem(str(path), "--from", f"a file that cannot be read ({error})", expected)]) from None
    except yaml.YAMLError:
        raise InputProblems([Problem(str(path), "--from", "no valid YAML", expected)]) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "--from"
        raise InputProblems([Problem(str(path), place, first["msg"], expected)]) from None


def arms_lines(defaults: Defaults) -> str:
    """The `arms` section of a study that starts from these defaults: the default rank with its neighbours, and the
    methods that have one size only, such as full.

    Where the studies cannot tell, every rank that they had. A rate stands where it is known to within a decade.
    """
    ranked = sorted((arm for arm in defaults.arms if arm.rank), key=lambda arm: (arm.method, arm.rank or 0))
    chosen = defaults.arms[defaults.default] if defaults.default is not None else None
    if chosen in ranked:
        ranked = [arm for arm in ranked if arm.method == chosen.method]
        at = ranked.index(chosen)
        ranked = ranked[max(0, at - 1) : at + 2]
    plain = {arm.method: arm for arm in defaults.arms if METHODS[arm.method].size is None}
    lines = [f"# From {len(defaults.studies)} studies: {defaults.reason}"]
    lines += [f"  {method}: {{learning_rate: {_rate(arm)}}}" for method, arm in plain.items()]
    for arm in ranked:
        alpha = f"{arm.alpha_per_rank or 2:g}r"
        targets = arm.targets if isinstance(arm.targets, str) else f"[{', '.join(arm.targets or ['all-linear'])}]"
        settings = f"ranks: [{arm.rank}], alpha: {alpha}, targets: {targets}, learning_rate: {_rate(arm)}"
        same = [other for other in ranked if (other.method, other.rank) == (arm.method, arm.rank)]
        label = f"{arm.method}-r{arm.rank}" + (f"-{ranked.index(arm)}" if len(same) > 1 else "")
        lines.append(f"  {label}: {{method: {arm.method}, {settings}}}")
    if chosen is not None and chosen not in ranked and chosen.method not in plain:
        lines.append(f"  # the studies' default is {chosen.method}: see docs/models.md for its settings")
    return "\n".join(lines)


def _rate(arm: DefaultArm) -> str:
    """The pooled rate on the half-decade grid, or auto."""
    known = arm.learning_rate
    if known is None or known.studies < 2 or known.low <= 0 or known.high > 10 * known.low:
        return "auto"
    halves = round(2 * math.log10(known.mean))
    return f"{3 if halves % 2 else 1}e{halves // 2}"
