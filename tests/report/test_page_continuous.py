"""The page of a run without a codebook."""

import html
import re
from itertools import product
from pathlib import Path

import pytest

from robustok.report.page import page, summary
from robustok.report.run import read_run
from robustok.report.scores import distances_table, heat_map
from robustok.runtime.checkpoint import read_json, write_json
from robustok.runtime.configs import to_plain
from robustok.tokenizer.latent_perturbation import AddedNoise


@pytest.fixture
def continuous(run_copy: Path) -> Path:
    """The synthetic run as if its tokenizer made latents."""
    config = read_json(run_copy / "config.json")
    config["main"]["perturbation"] = {"alpha": 1.0, "beta": 0.5, "strength": 0.4, "gamma": 1.0}
    del config["main"]["tokenizer"]["quantizer"]
    write_json(run_copy / "config.json", config)
    write_json(run_copy / "tokenizer" / "config.json", {"kind": "autoencoder", "config": {}})
    records = [r for r in read_json(run_copy / "scores.json") if not r["metric"].startswith(("pfid", "codebook"))]
    how = {"features": "lite0", "kind": "latent noise"}

    def record(metric: str, value: float, **protocol: object) -> dict[str, object]:
        return {"metric": metric, "value": value, "interval": None, "images": 9, "seeds": [0], "protocol": protocol}

    records += [
        record("pfid_cell", 100 * alpha + 1000 * s, alpha=alpha, strength=s, **how)
        for alpha, s in product((0.9, 0.8, 0.7, 0.6, 0.5), (0.1, 0.2, 0.3))
    ]
    records += [record("pfid", 270.0, **how), record("ifid", 333.0, neighbors_among=2000)]
    write_json(run_copy / "scores.json", records)
    return run_copy


def text(markup: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>\s*", "|", markup))


def test_distances_say_latents_and_have_an_ifid(continuous):
    said = text(distances_table(read_run(continuous)).to_html())
    assert "reconstructions from perturbed latents" in said
    assert "same latents, post-trained decoder" in said
    assert re.search(r"iFID\|+midpoints of neighboring latents\|+333", said)
    assert "{" not in said


def test_heat_map_has_a_column_for_each_strength(continuous):
    said = text(heat_map(read_run(continuous)).to_html())
    assert all(f"s = {s}" in said for s in ("0.1", "0.2", "0.3"))
    values = [float(v) for v in re.findall(r"\d+\.\d", said.split("= 0.9")[1].split("= 0.8")[0])]
    assert values == [190.0, 290.0, 390.0, 290.0]


def test_summary_says_that_noise_was_added(continuous):
    config = read_json(continuous / "config.json")
    config["main"]["perturbation"] = to_plain(AddedNoise())
    write_json(continuous / "config.json", config)
    said = summary(read_run(continuous)).replace("\N{NO-BREAK SPACE}", " ")
    assert "100 % of the latents were given noise, of standard deviations drawn from |N(0, 0.8²)|" in said


def test_summary_says_what_was_done_to_latents(continuous):
    said = summary(read_run(continuous)).replace("\N{NO-BREAK SPACE}", " ")
    assert "in 50 % of the images of a batch, 100 % of the latents gave up to 40 % of their place to noise" in said
    assert "A generator learned its latents" in said
    assert "from latents that the generator had sampled back from noise level 0.3" in said
    assert "On the same generated latents gFID fell" in said
    config = read_json(continuous / "config.json")
    config["main"]["perturbation"] = {"alpha": 0.8, "beta": 0.5, "strength": 0.4, "neighbors": 8}
    write_json(continuous / "config.json", config)
    said = summary(read_run(continuous)).replace("\N{NO-BREAK SPACE}", " ")
    assert "80 % of the latents were moved up to 40 % of the way to one of the 8 nearest" in said


def test_the_page_does_not_speak_of_tokens(continuous):
    write_json(continuous / "images" / "images.json", {"grids": []})  # whose captions the run writes
    said = text(page(read_run(continuous)))
    assert "tokens" not in said.split("Every setting")[0]  # what follows are the run's own settings
    assert "brought to the noise level s" in said
    assert "arXiv 2603.05630" in said


def test_before_there_are_scores_the_kind_of_the_model_tells(continuous):
    (continuous / "scores.json").unlink()
    assert read_run(continuous).latents == "latents"
    (continuous / "tokenizer" / "config.json").unlink()
    assert read_run(continuous).latents == "tokens"
