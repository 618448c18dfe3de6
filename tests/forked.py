"""What processes that tests start by multiprocessing's forkserver begin with: it imports this once for all of them."""

import torch
import torch._dynamo  # every optimizer does, and nothing takes longer

from tests.training import parallel_cases, tiny

torch.set_num_threads(1)  # threads do not outlive a fork
tiny.images()  # Fashion-MNIST is unpacked

__all__ = ["parallel_cases", "tiny"]
