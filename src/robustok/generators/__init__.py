"""Models that produce tokens, and how they are sampled."""
