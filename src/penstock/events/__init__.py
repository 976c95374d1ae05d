"""Events: services that tell each other what happened. Thin over the engine: it has no loop, retry or dead letter of its own."""
