"""The parts of a study folder in an object store: the store itself, its errors in words, an index, leases, a mirror."""
