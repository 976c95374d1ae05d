"""Sidekiq's model of jobs, on any broker; on ``sidekiq+redis://`` beside Ruby's own processes."""
