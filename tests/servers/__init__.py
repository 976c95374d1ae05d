"""Real servers for tests: found, started on loopback in a directory of their own, stopped by pid."""
