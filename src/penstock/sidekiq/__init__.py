"""Sidekiq's programming model over penstock: jobs, client, processor, runner, data."""
