"""Scores: Pixels -> Features -> statistics -> one number that says how it was computed."""
