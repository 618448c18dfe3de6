"""What robustok's sampling is timed against: the plain loop of RAR's code, written anew, and that code itself."""

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustok.generators.autoregressive import AutoregressiveModel
from robustok.generators.sampling import guide
from robustok.layers import KVCache

GUIDANCE = 4.0


class GrowingCache(KVCache):
    """Keys and values that are put together anew at every step, for torch's fused attention."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool, scale: Any = None) -> Tensor:
        if self.filled:
            keys, values = torch.cat([self.held[0], keys], 2), torch.cat([self.held[1], values], 2)
        self.held, self.filled = (keys, values), keys.shape[2]
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=queries.shape[2] > 1)


@torch.no_grad()
def plain_loop(model: AutoregressiveModel, labels: Tensor) -> Tensor:
    """Tokens drawn as RAR's own code does: both halves throughout, modulations at every step for every image."""
    both = torch.cat([labels, torch.full_like(labels, model.null_class)])
    caches, tokens = [GrowingCache(0) for _ in model.layers], labels.new_empty(len(labels), 0)
    places = model._places(model._raster(labels.device))
    assert model.steps is not None, "a RAR is modulated"
    for i in range(model.tokens_per_image):
        x = torch.cat([model._prefix(both), model.token_embedding(tokens.repeat(2, 1))], dim=1)
        x = x + places[:, : x.shape[1]]
        condition = model.label_embedding(both).unsqueeze(1) + model.steps[: x.shape[1]]
        if i > 0:
            x, condition = x[:, -1:], condition[:, -1:]
        x = model._transform(x, lambda modulation, condition=condition: modulation(condition), caches)
        logits = guide(*model.head(x[:, -1]).float().chunk(2), GUIDANCE)
        tokens = torch.cat([tokens, torch.multinomial(logits.softmax(1), 1)], dim=1)
    return tokens


def peer_loop(folder: str, model: AutoregressiveModel, labels: Tensor) -> Callable[[], Any]:
    """RAR's own code at the same size."""
    sys.path.insert(0, folder)
    from modeling.rar import RAR  # type: ignore[import-not-found]

    class Part(SimpleNamespace):
        def get(self, name: str, default: Any = None) -> Any:
            return getattr(self, name, default)

    c = model.config
    sizes = {"hidden_size": c.width, "num_hidden_layers": c.depth, "num_attention_heads": c.heads}
    rest = {"intermediate_size": 4 * c.width, "image_seq_len": c.tokens, "condition_num_classes": c.classes}
    generator = Part(**sizes, **rest, dropout=0.0, attn_drop=0.0)
    theirs = RAR(Part(model=Part(generator=generator, vq_model=Part(codebook_size=c.codebook_size)))).eval()
    theirs.enable_kv_cache()
    return lambda: theirs.generate(labels.clone(), GUIDANCE, 1.0, 0.0, kv_cache=True)
