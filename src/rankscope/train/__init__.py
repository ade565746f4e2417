"""The one training loop for every arm: packed adapters in lockstep, an objective and an optimizer as values."""
