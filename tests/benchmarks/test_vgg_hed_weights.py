"""The conversion of the embedded VGG-16 weights."""

import numpy as np
import torch
import torch.nn.functional as F
from vgg_hed_weights import converted


def test_a_keras_kernel_of_bgr_becomes_a_torch_kernel_of_rgb():
    random = np.random.default_rng(0)
    file, before = {}, 3
    for block, count in ((1, 2), (2, 2), (3, 3)):
        for place in range(count):
            kernel = random.normal(size=(3, 3, before, 4)).astype(np.float32)
            name = f"block{block}/layers/conv2d{f'_{place}' if place else ''}/vars"
            file[name], before = {"0": kernel, "1": np.full(4, block + place, np.float32)}, 4
    tensors = converted(file)
    assert len(tensors) == 14
    image = random.normal(size=(1, 3, 5, 5)).astype(np.float32)  # RGB
    ours = F.conv2d(torch.tensor(image), torch.tensor(tensors["features.0.weight"]).float())[0, :, 0, 0].numpy()
    bgr = image[0, ::-1, :3, :3].transpose(1, 2, 0)  # (height, width, channel), as Keras has it
    wanted = np.tensordot(bgr, file["block1/layers/conv2d/vars"]["0"], axes=3)
    np.testing.assert_allclose(ours, wanted, rtol=2e-2, atol=2e-2)  # half precision
    assert tensors["features.14.bias"].tolist() == [5.0] * 4
