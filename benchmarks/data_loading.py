"""Images a second that one core reads, decodes and crops: from a folder, tar shards, parquet files and Arrow files.

    python benchmarks/data_loading.py                   512 JPEGs of 500 x 375 pixels and some 110 kB, as ImageNet's
    python benchmarks/data_loading.py --needs 300       beside what a GPU takes that trains on 300 images/s
    python benchmarks/data_loading.py --list 100000     also how long a folder of so many files takes to list

The pictures are gradients under noise, made in a temporary folder that is removed at the end; files are in the system's
cache when they are read, so what is measured is the processor and not the disk. Images per core-second are counted by
the time that the process spent on all cores, which other work on the machine disturbs little.
"""

import argparse
import io
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from robustok.data import ImageFolder, open_images
from robustok.data.folder import FolderFiles
from robustok.data.image_files import ImageFiles
from robustok.data.loading import training_batch
from robustok.runtime.threads import cores

WIDTH, HEIGHT, SIZE, BATCH = 500, 375, 256, 64
QUALITY, NOISE = 90, 26  # of which JPEGs have some 110 kB


def jpeg(seed: int, width: int = WIDTH, height: int = HEIGHT) -> bytes:
    """A picture of waves under noise."""
    noise = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / (40 + 20 * c) + y / (60 - 10 * c) + seed) for c in range(3)], axis=-1)
    grain = noise.normal(0, NOISE, (height, width, 1)) + noise.normal(0, NOISE / 3, (height, width, 3))
    data = io.BytesIO()
    Image.fromarray((127 + 90 * waves + grain).clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=QUALITY)
    return data.getvalue()


def written(files: list[bytes], root: Path) -> dict[str, Callable[[int], ImageFiles]]:
    """The same files in every kind of set; each opens with a number of threads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (root / "folder").mkdir()
    with tarfile.open(root / "set.tar", "w") as tar:
        for number, data in enumerate(files):
            (root / "folder" / f"{number:05d}.jpg").write_bytes(data)
            entry = tarfile.TarInfo(f"{number:05d}.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    table = pa.table({"image": files, "label": [0] * len(files)})
    pq.write_table(table, root / "set.parquet", row_group_size=100)
    (root / "arrow").mkdir()
    with pa.OSFile(str(root / "arrow" / "data.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    (root / "arrow" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (root / "arrow" / "dataset_info.json").write_text("{}")
    return {
        "folder": lambda workers: ImageFolder(root / "folder", SIZE, errors="defer", workers=workers),
        "tar": lambda workers: open_images(root / "set.tar", SIZE, workers=workers),
        "parquet": lambda workers: open_images(root / "set.parquet", SIZE, workers=workers),
        "arrow (hf)": lambda workers: open_images(root / "arrow", SIZE, workers=workers),
    }


def pace(images: ImageFiles, seconds: float) -> tuple[float, float]:
    """Training images per second, and per second of one core, over about so many seconds."""
    batch = min(BATCH, len(images))
    training_batch(images, batch, 0, 0)  # files into the cache, row groups into memory
    began, busy, step = time.perf_counter(), time.process_time(), 0
    while step == 0 or time.perf_counter() - began < seconds:
        step += 1
        training_batch(images, batch, 0, step)
    return step * batch / (time.perf_counter() - began), step * batch / (time.process_time() - busy)


def listed(count: int, root: Path) -> tuple[float, float]:
    """Seconds to list a folder of so many tiny files in 1,000 classes, and again when nothing changed."""
    for number in range(count):
        file = root / f"{number % 1000:04d}" / f"{number}.jpg"
        if number < 1000:
            file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    time.sleep(2.1)  # until the folders count as settled
    times = []
    for _ in range(2):
        began = time.perf_counter()
        assert len(FolderFiles(root)) == count
        times.append(time.perf_counter() - began)
    return times[0], times[1]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=512, help="pictures")
    parser.add_argument("--seconds", type=float, default=5, help="spent on each cell")
    parser.add_argument("--needs", type=float, default=300, help="images/s that a GPU takes")
    parser.add_argument("--list", type=int, default=0, help="files of the folder that is listed; 0: none")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="robustok-") as place:
        files = [jpeg(seed) for seed in range(given.count)]
        kilobytes = sum(map(len, files)) / len(files) / 1000
        print(
            f"{given.count} JPEGs of {WIDTH} x {HEIGHT}, {kilobytes:.0f} kB on average, random crops of {SIZE} pixels"
        )
        print(f"{'':<16}{'threads':>8}{'images/s':>10}{'per core-second':>17}{'cores for a GPU':>17}")
        for name, opened in written(files, Path(place)).items():
            for workers in sorted({1, cores()}):
                wall, core = pace(opened(workers), given.seconds)
                print(f"{name:<16}{workers:>8}{wall:>10.0f}{core:>17.0f}{given.needs / core:>17.1f}")
        if given.list:
            first, again = listed(given.list, Path(place) / "listed")
            print(f"{given.list} files in 1,000 folders: listed in {first:.2f} s, again in {again:.2f} s")


if __name__ == "__main__":
    main()
