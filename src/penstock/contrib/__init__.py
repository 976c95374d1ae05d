"""Bridges to other people's systems. Each needs its own extra."""
