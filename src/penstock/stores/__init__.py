"""Stores: small state beside a broker, behind ``penstock.store.Store``."""
