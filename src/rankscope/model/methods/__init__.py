"""How each fine-tuning method is put on a model, taken off, saved and loaded again."""
