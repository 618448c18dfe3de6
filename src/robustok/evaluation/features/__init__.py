"""Feature spaces: what an extractor is, which there are by name, and each of them in a file under `spaces`."""
