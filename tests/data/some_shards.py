"""The same pictures as a folder, tar shards, parquet files and a saved Hugging Face dataset."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "emu")
COUNT, SIDE = 30, 24


def pictures(count: int = COUNT) -> list[bytes]:
    """PNG files of noise, alternately wide and high."""
    noise = np.random.default_rng(0)
    files = []
    for number in range(count):
        shape = (SIDE, SIDE + 8, 3) if number % 2 else (SIDE + 8, SIDE, 3)
        data = io.BytesIO()
        Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(data, "PNG")
        files.append(data.getvalue())
    return files


def label(number: int) -> int:
    return 3 * number // COUNT


def write_folder(folder: Path) -> Path:
    for number, data in enumerate(pictures()):
        file = folder / CLASSES[label(number)] / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def write_tars(folder: Path, per_shard: int = 6) -> str:
    """WebDataset shards with .cls, .json and captions; returns their pattern."""
    data = pictures()
    for shard in range(COUNT // per_shard):
        members = {}
        for number in range(shard * per_shard, (shard + 1) * per_shard):
            about = {"label": label(number), "name": CLASSES[label(number)], "size": [1, 2]}
            members[f"{number:02d}.png"] = data[number]
            members[f"{number:02d}.cls"] = str(label(number)).encode()
            members[f"{number:02d}.json"] = json.dumps(about).encode()
            members[f"{number:02d}.txt"] = b"a caption"
        write_tar(folder / f"train-{shard:03d}.tar", members)
    return f"{folder}/train-{{000..{COUNT // per_shard - 1:03d}}}.tar"


def write_parquet(folder: Path, per_group: int = 4) -> Path:
    """Two files as datasets writes them, without it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    data = pictures()
    about = {"image": {"_type": "Image"}, "label": {"names": list(CLASSES), "_type": "ClassLabel"}}
    for file, numbers in enumerate((range(18), range(18, COUNT))):
        images = [{"bytes": data[number], "path": f"{number}.png"} for number in numbers]
        table = pa.table({"image": images, "label": [label(number) for number in numbers]})
        told = {"huggingface": json.dumps({"info": {"features": about}})}
        pq.write_table(
            table.replace_schema_metadata(told), folder / f"train-0000{file}-of-00002.parquet", row_group_size=per_group
        )
    return folder
