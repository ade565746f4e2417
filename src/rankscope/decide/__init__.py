"""From tables to the answer: paired statistics, the rule of the verdict, what would decide. Frames and records only."""
