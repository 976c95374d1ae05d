"""Notifications: channels that patterns subscribe to."""
