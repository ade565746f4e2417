"""Full fine-tuning, of the whole model or of a part: which of the base's own weights are trained.

Nothing is put on: the model that is handed in is changed for good, so it must be a copy of its own.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from rankscope.model.decoder_parts import blocks, vocabulary_parameters
from rankscope.model.methods.installed import Installed, MethodModules, never_put_on
from rankscope.model.model_source import no_progress_bars
from rankscope.model.sharding.shard import compute_dtype, is_sharded, whole_state
from rankscope.study.methods import Arm


def _train_all(model: PreTrainedModel, arm: Arm) -> Installed:
    model.requires_grad_(True)
    return _whole(model)


def _train_all_but_the_vocabulary(model: PreTrainedModel, arm: Arm) -> Installed:
    """Without the embeddings of tokens and positions and the output head, tied or not."""
    model.requires_grad_(True)
    for parameter in vocabulary_parameters(model):
        parameter.requires_grad_(False)
    return _whole(model)


def _train_last_blocks(model: PreTrainedModel, arm: Arm) -> Installed:
    """The last blocks and nothing else: the final norm and the head stay."""
    model.requires_grad_(False)
    for block in list(blocks(model))[-arm.setting("layers") :]:
        block.requires_grad_(True)
    return _whole(model)


def _whole(model: PreTrainedModel) -> Installed:
    trained: dict[str, nn.Parameter] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return Installed(trained, partial(_save, model))  # a tied weight stands once


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Of a sharded model all processes must call this, and the first one writes."""
    if not is_sharded(model):
        with no_progress_bars():
            model.save_pretrained(str(folder), safe_serialization=True)
        return
    first = torch.distributed.get_rank() == 0
    state = whole_state(model, compute_dtype(model), keep=first)
    if first:
        with no_progress_bars():
            model.save_pretrained(str(folder), safe_serialization=True, state_dict=state)


MODULES = {
    "full": MethodModules(_train_all),
    "full-frozen-embeddings": MethodModules(_train_all_but_the_vocabulary),
    "last-k-layers": MethodModules(_train_last_blocks),
    "given-models": MethodModules(never_put_on),
}
