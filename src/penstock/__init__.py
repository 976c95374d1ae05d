"""penstock: background jobs, event streams and notifications over the brokers that people already run."""
