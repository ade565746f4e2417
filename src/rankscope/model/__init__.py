"""Base models: loading them, running tokens through them without padding or unread logits."""
