"""Attention as rankscope runs it: unpadded rows, shared prefixes, a KV cache; registered with transformers once."""
