"""The replaceable outside: storage, executors, the machine, trackers. Each a small protocol with one file a kind."""
