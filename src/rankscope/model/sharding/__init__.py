"""One model over several processes: who they are, how its weights are shared out, and how it is loaded so."""
