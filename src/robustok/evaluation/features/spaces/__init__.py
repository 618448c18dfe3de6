"""Feature spaces, one a file: which network, which of its features, and how pixels are resized and scaled for it."""
