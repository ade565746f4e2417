"""Weight matrices, their changes, their decompositions, and adapter files read without a model."""
