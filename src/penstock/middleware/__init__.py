"""Middleware that comes with the library, one file each."""
