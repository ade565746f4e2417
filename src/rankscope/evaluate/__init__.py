"""Scores of a model on suites: log-likelihoods with shared prefixes, generated answers, graders."""
