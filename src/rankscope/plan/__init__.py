"""From a study and facts to every run with its id, cost, memory and time. Pure arithmetic: loads no weights, opens no rows."""
