"""What may be asked: the typed form of a study file, how it is read with every problem at once, and the methods."""
