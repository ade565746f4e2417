"""Proposes which columns of a file hold the fields of a row, where the file has other names for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher

from rankscope.data.row_shapes import FIELDS, SHAPES
from rankscope.study.problems import Problem, did_you_mean, show

_NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "q", "query", "problem", "ask", "question_text", "input_text"),
    "answer": ("answer", "a", "solution", "target", "label", "gold", "reference", "final_answer", "answer_text"),
    "choices": ("choices", "options", "candidates", "endings"),
    "answer_index": ("answer_index", "answer_idx", "label", "correct", "gold", "answer_key", "answerkey", "cop"),
    "context": ("context", "passage", "article", "background"),
    "prompt": ("prompt", "source", "input", "prefix"),
    "completion": ("completion", "response", "reply", "target", "output", "continuation"),
    "messages": ("messages", "dialog", "dialogue", "chat", "turns"),
    "conversations": ("conversations", "conversation"),
    "instruction": ("instruction", "instructions", "task"),
    "output": ("output", "response", "reply", "answer"),
    "text": ("text", "content", "document", "body", "sentence"),
}
"""How data sets name what our fields hold."""

_SHAPES: tuple[tuple[str, ...], ...] = (
    ("question", "choices", "answer_index"),
    ("question", "answer"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("messages",),
    ("conversations",),
    ("text",),
)
_ALIKE = 0.7
_SHOWN = 20


def proposed_columns(columns: Sequence[str], wanted: Iterable[str] = ()) -> str:
    """`columns: {question: problem, answer: solution}` for the best shape of row that these columns can hold, or for
    the `wanted` fields; empty where there is none."""
    best = best_columns(columns, wanted)
    return shown_columns(best) if best else ""


def best_columns(columns: Sequence[str], wanted: Iterable[str] = ()) -> dict[str, str]:
    """Our fields and the columns that hold them, of the shape that these columns fit best; empty where none fits."""
    shapes = [tuple(wanted)] if wanted else list(_SHAPES)
    best, most = {}, 0.0
    for shape in shapes:
        found = _assigned(shape, columns)
        alike = sum(score for _, score in found.values())
        if len(found) == len(shape) and alike > most:
            best, most = {field: column for field, (column, _) in found.items()}, alike
    return best


def shown_columns(columns: Mapping[str, str | Sequence[str]]) -> str:
    """The map as it stands in a study."""
    pairs = ", ".join(
        f"{field}: {column if isinstance(column, str) else '[' + ', '.join(column) + ']'}"
        for field, column in columns.items()
    )
    return f"`columns: {{{pairs}}}`"


def nearest_column(field: str, columns: Sequence[str], known_as: str = "") -> str | None:
    """The column that is most likely the field (or was misspelt as `known_as`), None where none is alike."""
    scored = [(max(_likeness(field, column), _ratio(known_as, column)), column) for column in columns]
    score, column = max(scored, default=(0.0, ""))
    return column if score >= _ALIKE else None


def _assigned(shape: Sequence[str], columns: Sequence[str]) -> dict[str, tuple[str, float]]:
    """For each field of the shape the most alike column that no field before it took, and how alike."""
    found: dict[str, tuple[str, float]] = {}
    for field in shape:
        taken = {column for column, _ in found.values()}
        scored = [(_likeness(field, column), column) for column in columns if column not in taken]
        score, column = max(scored, default=(0.0, ""))
        if score >= _ALIKE:
            found[field] = column, score
    return found


def _likeness(field: str, column: str) -> float:
    """From 0 to 1: our own name counts a little more than other names."""
    own = _ratio(field, column)
    others = max((_ratio(name, column) for name in _NAMES.get(field, ())), default=0.0)
    return max(own, 0.95 * others)


def _ratio(name: str, column: str) -> float:
    """How alike two names are; a name that is one of the words of the other is much like it."""
    if not name or len(column) > 64:
        return 0.0
    plain = column.strip().lower().replace("-", "_").replace(" ", "_")
    if name in plain.split("_"):
        return 1.0 if plain == name else 0.8
    return SequenceMatcher(None, name, plain).ratio()


# ---- what is said of wrong names ------------------------------------------------------------------------------------


def column_problems(
    given: Mapping[str, str | tuple[str, ...]], known: Sequence[str], file: str, name: str
) -> list[Problem]:
    """What is wrong with the `columns:` of the source `name`: a line for fields that nobody reads, and one for columns
    that no row of the file has. `known`: the columns that there are, where rows were read."""
    problems = []
    if unread := [field for field in given if field not in FIELDS]:
        expected = f"one of {', '.join(FIELDS)}{did_you_mean(unread[0], FIELDS)}"
        problems.append(Problem(name, "columns", " and ".join(map(show, unread)), expected))
    listed = [field for field, column in given.items() if not isinstance(column, str) and field != "choices"]
    problems += [
        Problem(name, f"columns.{field}", show(given[field]), "the name of one column (only choices may have a list)")
        for field in listed
    ]
    missing = {
        field: column
        for field, names in given.items()
        for column in ([names] if isinstance(names, str) else names)
        if known and column not in known and column.split(".")[0] not in known
    }
    if missing:
        corrected: dict[str, str | tuple[str, ...]] = {
            field: column if field not in missing else nearest_column(field, known, missing[field]) or "?"
            for field, column in given.items()
        }
        places = f"columns.{next(iter(missing))}" if len(missing) == 1 else "columns"
        found = f"no column{'s' if len(missing) > 1 else ''} {' and '.join(map(show, missing.values()))}"
        maybe = "" if "?" in corrected.values() else f", such as {shown_columns(corrected)}"
        problems.append(Problem(file, places, found, f"one of the columns {_shown(known)}{maybe}"))
    return problems


def wrong_columns(known: Sequence[str], file: str, count: int) -> Problem:
    """What is said once where none of a file's `count` rows has a shape that is read."""
    found = f"only the columns {_shown(known)}" + (f" in all {count} rows" if count > 1 else "")
    proposed = proposed_columns(known)
    expected = f"{proposed} in the study (or {SHAPES})" if proposed else f"`columns:` in the study, for {SHAPES}"
    return Problem(file, "columns", found, expected)


def _shown(columns: Sequence[str]) -> str:
    shown = ", ".join(column if len(column) <= 40 else f"{column[:37]}..." for column in columns[:_SHOWN])
    return shown if len(columns) <= _SHOWN else f"{shown} and {len(columns) - _SHOWN} more"
