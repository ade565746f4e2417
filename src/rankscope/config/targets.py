"""Do the arms fit the model: target modules that exist, ranks that are of use."""

from __future__ import annotations

from difflib import get_close_matches

from rankscope.config.parameters import adapted_shapes, matches_target, trainable_parameters
from rankscope.config.problems import Problem
from rankscope.config.study import Arm, Study
from rankscope.records import ModelFacts


def check_ranks(study: Study, facts: ModelFacts, file: str) -> tuple[list[Problem], list[str]]:
    """Problems and warnings of the arms on one model.

    A target that names no linear module of the blocks is a problem, and so is a rank above every target's smaller side:
    it could add nothing. A rank above some matrix's smaller side is a warning (a problem for PiSSA, which starts with
    that many singular vectors). So are methods that find nothing to train in this model, or more blocks than it has.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    for key in study.arms:
        arms = study.arms_of(key)
        if arms[0].rank is None:
            problems += [problem for arm in arms for problem in _unfit(arm, key, facts, file)]
            continue
        missing = _missing_targets(arms[0].targets, facts)
        for target in missing:
            place = f"arms.{key}.targets"
            problems.append(
                Problem(file, place, f"{target}, which is no linear module of {facts.name}", _names(target, facts))
            )
        shapes = {} if missing else adapted_shapes(arms[0], facts)
        for arm in arms if shapes else ():
            assert arm.rank is not None
            sides = sorted({min(shape) for shape in shapes.values()})
            if arm.method == "pissa" and arm.rank > sides[0]:
                found = f"rank {arm.rank}, above the smaller side of a target of {facts.name}"
                problems.append(Problem(file, f"arms.{key}.ranks", found, f"at most {sides[0]}"))
            elif arm.rank > sides[-1]:
                found = f"rank {arm.rank}, above the smaller side of every target of {facts.name}"
                problems.append(Problem(file, f"arms.{key}.ranks", found, f"at most {sides[-1]}"))
            elif arm.rank > sides[0]:
                count = sum(arm.rank > min(shape) for shape in shapes.values())
                warnings.append(
                    f"{arm.label}: the rank is above the smaller side ({sides[0]}) of {count} of {len(shapes)} "
                    f"targets of {facts.name}; there it adds parameters but no rank"
                )
    return problems, warnings


def _unfit(arm: Arm, key: str, facts: ModelFacts, file: str) -> list[Problem]:
    """Why this model cannot have this arm, of a method without ranks."""
    if arm.layers is not None and arm.layers > facts.layer_count:
        expected = f"at most {facts.layer_count}, the blocks of {facts.name}"
        return [Problem(file, f"arms.{key}.layers", str(arm.layers), expected)]
    if arm.virtual_tokens is not None:
        if not facts.key_value_width:
            found = f"{arm.method} of {facts.name}, which keeps no keys and values"
            return [Problem(file, f"arms.{key}.method", found, "an arm of another method")]
        if arm.virtual_tokens >= facts.context_tokens:
            expected = f"less than the context of {facts.name}, {facts.context_tokens} tokens"
            return [Problem(file, f"arms.{key}.virtual_tokens", str(arm.virtual_tokens), expected)]
    if trainable_parameters(arm, facts) == 0:
        found = f"{arm.method} of {facts.name}, in which it knows nothing to train"
        return [Problem(file, f"arms.{key}.method", found, "an arm of another method")]
    return []


def _missing_targets(targets: str | tuple[str, ...] | None, facts: ModelFacts) -> list[str]:
    if targets is None or isinstance(targets, str):
        return []
    return [t for t in dict.fromkeys(targets) if not any(matches_target(m, t) for m in facts.linear_shapes)]


def _names(target: str, facts: ModelFacts) -> str:
    """The last parts of the linear modules' paths, and the nearest to what was asked for."""
    names = list(dict.fromkeys(module.rsplit(".", 1)[-1] for module in facts.linear_shapes))
    near = get_close_matches(target, names, n=1, cutoff=0.6)
    return f"all-linear or some of {', '.join(names)}" + (f"; did you mean `{near[0]}`?" if near else "")
