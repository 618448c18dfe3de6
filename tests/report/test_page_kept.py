"""The page of a run whose post-training kept the original decoder."""

import html
import json
import re
from pathlib import Path

from robustok.report.page import page
from robustok.report.run import read_run


def text_with(folder: Path, stages: tuple[str, ...]) -> str:
    """The page's text where every check of these stages after the first is worse than it."""
    for stage in stages:
        log = folder / stage / "metrics.jsonl"
        held = [json.loads(line) for line in log.read_text().splitlines()]
        worse = [row | ({"heldout_fd": 170.0 + row["step"]} if "heldout_fd" in row else {}) for row in held]
        log.write_text("".join(json.dumps(row) + "\n" for row in worse))
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page(read_run(folder)))).split())


def test_the_page_says_that_the_original_decoder_was_kept(run_copy: Path):
    said = text_with(run_copy, ("post_training",))
    assert "the original decoder was kept" in said
    assert "same tokens, original decoder, which post-training kept" in said
    assert "post-training kept the original decoder; the control" in said
    assert "by the decoder of main training, which post-training kept: before and after are the same." in said
    assert "a decoder post-trained for it" not in said
    assert "same tokens, decoder trained on clean latents" in said  # of the control, which changed


def test_a_control_that_was_kept_is_called_so(run_copy: Path):
    said = text_with(run_copy, ("control",))
    assert said.count("same tokens, original decoder, which post-training kept") == 1
    assert "same tokens, decoder trained on clean latents" not in said
    assert "same tokens, post-trained decoder" in said
