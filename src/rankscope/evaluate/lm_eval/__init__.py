"""Everything that touches lm-eval: its tasks as suites, its requests answered by our scorers."""
