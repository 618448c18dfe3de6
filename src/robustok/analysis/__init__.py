"""Why generation differs from reconstruction (Qiu et al. 2025, arXiv 2509.12474, sec. 3).

A decoder learns from tokens of real images and is then given tokens that a generator drew. Where those leave the
real ones (`prediction`, `departures`), how the two sets of tokens differ as distributions (`code_usage`, `imitation`,
`projection`), and what that does to images (`manifold`, `color`, `spectrum`, together in `effects`), for any tokenizer
with a codebook; `analyze` does it all.
"""
