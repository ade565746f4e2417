"""Rows of a study -> what is trained on and what is scored, by the rules on lengths, duplicates and overlap."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rankscope.data.encoder import Encoder, form_of
from rankscope.data.overlap import GRAM_WORDS, NEAR_SHARE, find_overlap
from rankscope.data.row_shapes import content_id
from rankscope.data.sources import Rows, seeded_sample
from rankscope.evaluate.lm_eval.load_task import HarnessRows
from rankscope.evaluate.lm_eval.task_items import harness_items
from rankscope.records import Example, Form, HarnessFacts, Item, Row, Suite, SuiteFacts, TrainFacts
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import SuiteSource, TrainSource, Validation


@dataclass(frozen=True)
class TrainingSet:
    """Examples to train on and, disjoint from them, to validate on: the same for every arm and seed."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    facts: TrainFacts


def build_training(
    name: str,
    source: TrainSource,
    rows: Rows,
    encoder: Encoder,
    *,
    validation: Validation,
    max_sequence_tokens: int,
    suites: Mapping[str, Rows],
) -> TrainingSet:
    """Encode a training set. `suites` are all suites of the study: rows that they ask are not trained on.

    Dropped and counted, in this order: rows that repeat another under a different id, rows that a suite asks, rows of
    more than `max_sequence_tokens` tokens or than the model's context. Of the rest the validation rows are a seeded
    sample of `fraction` (rounded, at least one, at most `max_items`). `facts` counts the rows that are left to train
    on; its hash is of the tokens of both parts in order. Raises InputProblems if either part would be empty.
    """
    kept, repeated_count = _without_repeats(rows.rows)
    overlap = find_overlap(kept, {suite: suite_rows.rows for suite, suite_rows in suites.items()})
    dropped = Counter({f"also in suite {suite}": count for suite, count in Counter(overlap.exact.values()).items()})
    dropped["repeats another row"] = repeated_count + rows.repeated_count
    dropped["cannot be read"] = rows.bad_count
    allowed = [row for i, row in enumerate(kept) if i not in overlap.exact]
    examples = []
    for example in encoder.training(allowed, source, rows.file):
        if example.token_count > max_sequence_tokens:
            dropped["longer than max_sequence_tokens"] += 1
        elif example.token_count > encoder.context_tokens:
            dropped["longer than the model's context"] += 1
        else:
            examples.append(example)
    train, held_out = _split(examples, validation)
    if not train or not held_out:
        why = ", ".join(f"{count} dropped: {reason}" for reason, count in dropped.items() if count)
        found = f"{len(examples)} usable rows" + (f" ({why})" if why else "")
        raise InputProblems([Problem(rows.file, f"train.{name}", found, "at least 2, to train and to validate on")])
    facts = TrainFacts(
        name=name,
        domain=source.domain,
        content_sha256=_sha256(_example_parts(train), _example_parts(held_out)),
        row_count=len(train),
        validation_count=len(held_out),
        token_count=sum(example.token_count for example in train),
        completion_token_count=sum(example.target_count for example in train),
        dropped={reason: count for reason, count in dropped.items() if count},
        warnings=[*_near_warnings(overlap.near, suites), *_joining_warnings(allowed, source, encoder)],
        revision=rows.revision,
    )
    return TrainingSet(tuple(train), tuple(held_out), facts)


def build_suite(name: str, source: SuiteSource, rows: Rows, encoder: Encoder) -> tuple[Suite, SuiteFacts]:
    """Encode a suite; what does not fit into the model's context is left out whole, and counted.

    What must fit: of choices the prompt with the longest choice; of an open answer the prompt with the reference
    answer as it would be trained, and the end token (the room that is left then limits what may be generated); of a
    text the prefix token and the text. `facts.token_count` counts prompts and choices once each.

    Raises InputProblems for a suite that nobody can score: rows of several forms, no `kind` though it is no plain
    text, or no item that fits.
    """
    grading, harness, max_new_tokens = None, None, source.max_new_tokens
    if isinstance(rows, HarnessRows):
        item_ids = [row.item_id for row in rows.rows]
        given, needed, grading, max_new_tokens, harness = harness_items(rows.task, source, item_ids, encoder)
        form = given[0].form
        _check_kind(name, source, rows, form)
    else:
        form = _form(name, source, rows)
        given, needed = _with_lengths(source, rows, form, encoder)
    items, left_out = _fitting(given, needed, encoder.context_tokens)
    if rows.bad_count:
        left_out["cannot be read"] = rows.bad_count
    if not items:
        why = ", ".join(f"{count} items: {reason}" for reason, count in left_out.items())
        raise InputProblems(
            [Problem(rows.file, f"suites.{name}", f"no item that can be scored ({why})", "at least one")]
        )
    suite = Suite(name, source.domain, source.kind, tuple(items), max_new_tokens, dict(left_out), grading)
    facts = SuiteFacts(
        name=name,
        domain=source.domain,
        kind=source.kind,
        form=form,
        content_sha256=_sha256(_item_parts(items, max_new_tokens, harness)),
        item_count=len(items),
        token_count=sum(_token_count(part) for item in items for part in item.parts or (item,)),
        max_new_tokens=max_new_tokens,
        left_out=dict(left_out),
        revision=rows.revision,
        harness=harness,
    )
    return suite, facts


def _token_count(item: Item) -> int:
    return len(item.prompt_ids) + sum(map(len, item.choices_ids))


def _fitting(given: Sequence[Item], needed: Sequence[int], context_tokens: int) -> tuple[list[Item], Counter[str]]:
    """The items that can be scored, and how many cannot, by the reason."""
    items: list[Item] = []
    left_out: Counter[str] = Counter()
    for item, count in zip(given, needed, strict=True):
        parts = item.parts or (item,)
        if item.form in ("choices", "text") and not all(part.choices_ids and all(part.choices_ids) for part in parts):
            left_out["has no token to score"] += 1
        elif count > context_tokens:
            left_out[f"longer than the context of {context_tokens} tokens"] += 1
        else:
            items.append(item)
    return items, left_out


def check_relations(train_sets: Iterable[TrainFacts], suites: Sequence[SuiteFacts], file: str) -> None:
    """Raise InputProblems for each training set whose gain cannot be measured (no suite of its domain that has right
    and wrong answers), and for each suite of a single item, which says nothing of others."""
    problems = [
        Problem(file, f"suites.{suite.name}", "a single item", "at least two: one says nothing of others")
        for suite in suites
        if suite.form != "text" and suite.item_count == 1
    ]
    for facts in train_sets:
        forms = {suite.form for suite in suites if suite.domain is not None and suite.domain == facts.domain}
        if not forms - {"text"}:
            found = "only plain text" if forms else "no suite"
            expected = "at least one suite with answers"
            problems.append(Problem(file, f"suites of domain {facts.domain}, for train.{facts.name}", found, expected))
    if problems:
        raise InputProblems(problems)


def _form(name: str, source: SuiteSource, rows: Rows) -> Form:
    first: dict[Form, Row] = {}
    counts: Counter[Form] = Counter()
    for row in rows.rows:
        form = form_of(row, reasoning=source.kind == "reasoning")
        first.setdefault(form, row)
        counts[form] += 1
    if len(counts) > 1:
        found = " and ".join(f"{count} of form {form} ({first[form].place})" for form, count in counts.most_common())
        expected = "one form in all rows"
        if set(counts) == {"open", "number"}:
            expected = "only numbers as answers, or `kind: recall` to grade them as words"
        raise InputProblems([Problem(rows.file, f"suites.{name}", found, expected)])
    form = next(iter(counts))
    _check_kind(name, source, rows, form)
    return form


def _check_kind(name: str, source: SuiteSource, rows: Rows, form: Form) -> None:
    if source.kind is None and form != "text":
        raise InputProblems([Problem(rows.file, f"suites.{name}.kind", "nothing", "recall or reasoning")])


def _with_lengths(source: SuiteSource, rows: Rows, form: Form, encoder: Encoder) -> tuple[list[Item], list[int]]:
    """The items, and the tokens that each needs in the context."""
    encoded = encoder.items(rows.rows, source, rows.file)
    items = [replace(item, cluster=row.cluster) for item, row in zip(encoded, rows.rows, strict=True)]
    if form in ("open", "number"):
        return items, [example.token_count for example in encoder.training(rows.rows, source, rows.file)]
    longest = [max(map(len, item.choices_ids), default=0) for item in items]
    return items, [len(item.prompt_ids) + length for item, length in zip(items, longest, strict=True)]


def _without_repeats(rows: Sequence[Row]) -> tuple[list[Row], int]:
    """Rows that say something new: a row that stood in both parts would be validated on after it was trained."""
    kept = list({content_id(row): row for row in reversed(rows)}.values())[::-1]
    return kept, len(rows) - len(kept)


def _split(examples: Sequence[Example], validation: Validation) -> tuple[list[Example], list[Example]]:
    count = min(max(1, round(validation.fraction * len(examples))), validation.max_items)
    held_out = set(seeded_sample([example.item_id for example in examples], count, "validation"))
    train = [example for i, example in enumerate(examples) if i not in held_out]
    return train, [example for i, example in enumerate(examples) if i in held_out]


def _near_warnings(near: Mapping[str, Sequence[str]], suites: Mapping[str, Rows]) -> list[str]:
    return [
        f"{len(ids)} of {len(suites[suite].rows)} items of suite {suite} nearly stand in training"
        f" ({GRAM_WORDS}-gram overlap of {NEAR_SHARE} or more), the first is {ids[0]}"
        for suite, ids in near.items()
        if ids
    ]


def _joining_warnings(rows: Sequence[Row], source: TrainSource, encoder: Encoder) -> list[str]:
    if encoder.chat or source.template is not None:
        return []
    pairs = [(row.prompt, row.completion) for row in rows if row.prompt and row.completion]
    count = sum(prompt[-1].isalnum() and completion[0].isalnum() for prompt, completion in pairs)
    if not count:
        return []
    return [f"in {count} rows no space stands between prompt and completion; they are joined exactly as given"]


def _example_parts(examples: Sequence[Example]) -> Iterable[Sequence[int] | str]:
    for example in examples:
        yield from (example.prompt_ids, example.completion_ids)
        if example.loss_mask is not None:
            yield example.loss_mask


def _item_parts(
    items: Sequence[Item], max_new_tokens: int, harness: HarnessFacts | None
) -> Iterable[Sequence[int] | str]:
    yield str(max_new_tokens)
    for item in items:
        yield f"{item.item_id}\0{item.form}\0{item.answer_index}\0{item.text_bytes}"
        yield from item.answers
        yield from (item.prompt_ids, *item.choices_ids, item.choice_characters)
        for part in item.parts:
            yield from (part.prompt_ids, *part.choices_ids)
        if item.cluster is not None:
            yield f"cluster {item.cluster}"
    if harness is not None:  # what decides a score beside the prompts
        yield json.dumps(harness.model_dump(mode="json"), sort_keys=True)


def _sha256(*groups: Iterable[Sequence[int] | str]) -> str:
    """Of tokens and texts in order; every part's length goes in, so that nothing can move between parts."""
    digest = hashlib.sha256()
    for group in groups:
        for part in group:
            data = part.encode() if isinstance(part, str) else np.asarray(part, dtype="<i8").tobytes()
            digest.update(len(data).to_bytes(8, "little") + data)
        digest.update(b"end of group")
    return digest.hexdigest()
