"""What an objective is and costs: its name, the unit of its loss, the positions that need logits. Pure.

How its loss is computed is in `train/objective.py`, under the same name; the plan and the report ask here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectiveFacts:
    """What is minimised, for whoever trains nothing.

    `loss_on`: the tokens of a row that have loss, for which logits are made. `reference_forwards`: passes of a frozen
    copy of the model over each row, without gradient, beside the trained forward and backward (one for a preference
    loss that compares with the base).
    """

    name: str
    loss_unit: str
    loss_on: str
    reference_forwards: float

    def logit_positions(self, row_tokens: float, completion_tokens: float) -> float:
        """Of rows with so many tokens, of which so many are completions: the positions whose logits are made."""
        return completion_tokens if self.loss_on == "completions" else row_tokens


SUPERVISED = ObjectiveFacts(
    name="supervised fine-tuning", loss_unit="nats per token", loss_on="completions", reference_forwards=0.0
)
"""Cross-entropy of completions, their end-of-sequence token included, given their prompts."""
