"""Commands on models, adapters and machines that a user already has; no study needed."""
