"""From a study and facts to every run with its id, cost, memory and time. Arithmetic only: no weights, no rows."""
