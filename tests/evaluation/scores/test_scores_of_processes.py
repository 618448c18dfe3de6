"""Scores of several processes are those of one."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tests.evaluation.scored import CODES, Blocks, Classes, Grays, Noise, shades
from torch.multiprocessing.spawn import start_processes

from robustok.evaluation.decoding import decoded
from robustok.evaluation.metrics.pfid import BLOCK
from robustok.evaluation.scores.generator_scores import score_generator
from robustok.evaluation.scores.image_scores import score_image_set, score_images, score_pixels
from robustok.evaluation.scores.reference import Reference
from robustok.evaluation.scores.score import Score
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.generators.flow import FlowSampling
from robustok.runtime import distributed
from robustok.runtime.checkpoint import read_json, write_json


class Still:
    """A generator of latents that the noise becomes unchanged."""

    latent_shape, null_class, device = (4, 1), 2, torch.device("cpu")

    def velocity(self, latents, t, labels):
        return 0 * latents

    def fingerprint(self):
        return "still"


def apart(real, output):
    return (real - output).abs().mean(dim=(1, 2, 3))


def everything() -> list[Score]:
    """All kinds of scores; samples are thinned, and the last share is smaller than the others."""
    images = Noise(2 * BLOCK + 120)
    reference = Reference.of(images, Classes(), keep=100)
    tokens = torch.randint(CODES, (333, 4), generator=torch.Generator().manual_seed(0))
    return [
        *score_tokenizer(Blocks(), images, [shades, Classes()], pfid_images=BLOCK + 20, lpips=apart, batch_size=100),
        *score_tokenizer(Grays(), images, shades, pfid_images=BLOCK + 20),
        *score_image_set(Noise(700, seed=1), reference, Classes(), keep=200),
        score_images(Noise(300, seed=2), reference, Classes()),
        *score_generator(
            Still(), Grays(), reference, torch.arange(170) % 2, Classes(), sampling=FlowSampling(steps=1), batch_size=40
        ),
        *score_pixels(decoded(Blocks(), tokens, 45), reference, Classes(), keep=50),
    ]


def refuse() -> None:
    raise ValueError("only the main process found out")


def work(rank: int, folder: str, processes: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    store = f"file://{folder}/store{processes}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=processes)
    with distributed.processes():  # already together, so this does nothing
        write_json(Path(folder) / f"{processes}-{rank}.json", [score.to_plain() for score in everything()])
        gathered = distributed.gather_objects({"rank": rank})
        assert gathered == ([{"rank": r} for r in range(processes)] if rank == 0 else [])
        with pytest.raises(ValueError, match="only the main process found out"):
            distributed.from_main(refuse)
    dist.destroy_process_group()


def test_processes_share_the_images_and_all_have_the_scores_of_one(tmp_path: Path):
    processes = 2
    start_processes(work, (str(tmp_path), processes), nprocs=processes, start_method="forkserver")
    alone = [score.to_plain() for score in everything()]
    for rank in range(processes):
        shared = read_json(tmp_path / f"{processes}-{rank}.json")
        for one, other in zip(alone, shared, strict=True):
            for name in ("metric", "images", "seeds"):
                assert one[name] == other[name]
            # Statistics are added up in another order: float64, so 1e-14 of the traces that a distance is made of.
            assert other["value"] == pytest.approx(one["value"], rel=1e-9), one["metric"]
            if one["interval"]:
                assert other["interval"] == pytest.approx(one["interval"], rel=1e-6)
