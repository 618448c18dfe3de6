"""A run's needs around the maths: ranks, seeds, files, logs. Imports nothing else of robustok."""
