"""The rows that a study trained and validated on, as tokens that other tools read: nothing is rendered or cut anew."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from rankscope.data.token_files import Examples, open_training
from rankscope.records import Example

NO_LOSS = -100
"""The label of a token without loss, as torch's cross-entropy ignores it."""


def write_trained_rows(tokens: Path, places: Sequence[Path], as_folder: bool) -> None:
    """Write the rows of a training set's token file: those that were trained on to the first of `places`, those that
    were validated on to the second, where there is one. A file of lines each, or `as_folder` a saved data set."""
    rows = open_training(tokens)
    for place, part in zip(places, (rows.train, rows.validation), strict=False):
        if as_folder:
            _save(part, place)
            continue
        with place.open("w", encoding="utf-8") as stream:
            stream.writelines(f"{json.dumps(row)}\n" for row in map(token_row, part))


def token_row(example: Example) -> dict[str, list[int]]:
    """A row with one number a token: `input_ids`, `attention_mask`, `labels` and `completion_mask` (1 where there is
    loss)."""
    ids = [*example.prompt_ids, *example.completion_ids]
    mask = [0] * len(example.prompt_ids) + [1] * len(example.completion_ids)
    if example.loss_mask is not None:
        mask = list(map(int, example.loss_mask))
    labels = [token if lossy else NO_LOSS for token, lossy in zip(ids, mask, strict=True)]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels, "completion_mask": mask}


def _save(examples: Examples, folder: Path) -> None:
    from datasets import Dataset

    def rows() -> Iterator[dict[str, list[int]]]:
        for example in examples:
            row = token_row(example)
            yield {key: row[key] for key in ("input_ids", "attention_mask", "labels")}

    with TemporaryDirectory(prefix="rankscope-rows-") as cache:
        Dataset.from_generator(rows, cache_dir=cache).save_to_disk(str(folder))
