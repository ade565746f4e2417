"""Scoring models and adapters that a user already has, without a study."""
