"""Jobs as seed of a queue manager: ``App`` with named connections, pushes, pops, and the workers that run them."""
