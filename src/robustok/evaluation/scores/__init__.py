"""Scores: metrics of images, tokenizers and generators, with their protocols, intervals and references."""
