"""How predictable tokens are, by counting them: entropies and mutual information in nats, less the bias of counting."""

import torch
from torch import Tensor

from robustok.shapes import Labels, Tokens


def entropy(counts: Tensor) -> Tensor:
    """Entropy of the distribution behind counts (..., k), in nats: (...).

    That of the counts' shares is too low by (m - 1) / 2n on average, to first order, n being their sum and m how many
    outcomes there are (Miller and Madow 1955); outcomes that never occurred do not count as such.
    """
    counts = counts.double()
    total = counts.sum(dim=-1)
    share = counts / total[..., None]
    return -torch.xlogy(share, share).sum(dim=-1) + ((counts > 0).sum(dim=-1) - 1) / (2 * total)


def mutual_information(one: Tokens, other: Tokens, codes: int) -> float:
    """What a token says of the one at its side, in nats; both of one shape."""
    joint = torch.bincount(one.flatten() * codes + other.flatten(), minlength=codes**2).view(codes, codes)
    return float(entropy(joint.sum(dim=1)) + entropy(joint.sum(dim=0)) - entropy(joint.flatten()))


def place_counts(tokens: Tokens, codes: int) -> Tensor:
    """Of (b n) tokens how often each place has each code: (n k)."""
    n = tokens.shape[1]
    return torch.bincount((tokens + torch.arange(n) * codes).flatten(), minlength=n * codes).view(n, codes)


def predictability(tokens: Tokens, labels: Labels, codes: int) -> dict[str, float]:
    """Every candidate that counts tokens (b n) of square images."""
    everywhere = place_counts(tokens, codes)
    classes = labels.unique().tolist()
    within = torch.stack([place_counts(tokens[labels == label], codes) for label in classes])
    frequency = torch.stack([(labels == label).double().mean() for label in classes])

    pooled, placed = float(entropy(everywhere.sum(dim=0))), float(entropy(everywhere).mean())
    pooled_within = float(frequency @ entropy(within.sum(dim=1)))
    placed_within = float(frequency @ entropy(within).mean(dim=1))
    side = round(tokens.shape[1] ** 0.5)
    grid = tokens.view(-1, side, side)
    return {
        "H": pooled,
        "H, place by place": placed,
        "H given class": pooled_within,
        "H given class, place by place": placed_within,
        "class information": pooled - pooled_within,
        "class information, place by place": placed - placed_within,
        "left neighbor": mutual_information(grid[:, :, :-1], grid[:, :, 1:], codes),
        "upper neighbor": mutual_information(grid[:, :-1], grid[:, 1:], codes),
    }
