"""The parts of the Ray executor: the connection, what nodes are, the workers, and what a worker does."""
