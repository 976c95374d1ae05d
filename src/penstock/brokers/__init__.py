"""Drivers: one file per message system, all behind ``penstock.broker.Broker``."""
