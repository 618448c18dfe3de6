"""The study of pFID: its variants in closed form, its page and its picture, from invented measurements."""

import json
import math
from itertools import pairwise
from xml.etree import ElementTree

import pfid_report
import pfid_variants
import pytest
from pfid_study import KINDS, Notes, main_training, surface_cells

from robustok.runtime.logging import MetricsLog


def measured(k: int, rfid: float = 10.0, slope: float = 30.0) -> dict:
    """A tokenizer whose distance grows with the code distance, which is a root of delta's share of the codes."""

    def cell(alpha: float, delta: int) -> dict[str, float]:
        jump = (delta / k) ** 0.25
        change = alpha * jump**2
        return {
            "alpha": alpha,
            "delta": delta,
            "fd": rfid + slope * alpha * jump,
            "code_distance": jump,
            "image_change": change,
            "feature_change": 100 * change,
        }

    reconstruction = {"rfid": 0.7 * rfid, "code_spread": 1.0, "quantization_error": 0.5, "perplexity": k / 2}
    return {
        "name": f"invented {k}",
        "codebook_size": k,
        "reconstruction": reconstruction,
        "pfid": [cell(alpha, round(share * k)) for alpha in (0.9, 0.5) for share in (0.01, 0.02)],
        "surface": [cell(*of) for of in surface_cells(k)],
        "rfid_pfid_images": rfid,
        "gfid": 3 * rfid + slope,
        "gfid_guided": 2 * rfid + slope,
        "guidance": 1.5,
    }


def test_what_is_made_equal_no_longer_differs():
    """Two tokenizers that err alike at equal code distances, one with 16 times the codes."""
    small, large = measured(256), measured(4096)
    scores = pfid_variants.variants([small, large])
    for name in ("equal code distance / spread", "equal code distance / error", "equal image change"):
        assert scores[name][0] == pytest.approx(scores[name][1], rel=0.02), name
    assert (
        scores["equal delta"][0] > 1.2 * scores["equal delta"][1]
    )  # as many neighbors reach farther among fewer codes
    assert scores["pFID"] == [pytest.approx(pfid_variants.pfid(m)) for m in (small, large)]


def test_a_strength_between_two_cells_is_interpolated():
    surface = [{"delta": delta, "fd": 10 * delta} for delta in (8, 1, 3)]
    for wanted, distance in ((2.0, 20), (99.0, 80), (0.0, 10)):
        assert pfid_variants.at_strength(surface, lambda cell: cell["delta"], wanted) == pytest.approx(distance)


def test_the_surface_goes_from_one_neighbor_to_half_of_the_codes():
    deltas = [cell.delta for cell in surface_cells(4096)]
    assert (deltas[0], deltas[-1], len(deltas)) == (1, 2048, 8)
    ratios = [b / a for a, b in pairwise(deltas[3:])]
    assert max(ratios) < 1.1 * min(ratios)


def test_a_left_out_tokenizer_is_predicted_from_the_others():
    gfid = [1.0, 2.0, 4.0, 7.0]
    exact, useless = [2 * y + 1 for y in gfid], [1.0, -1.0, 1.0, -1.0]
    assert pfid_variants.left_out_error([exact], gfid) == pytest.approx(0, abs=1e-9)
    assert pfid_variants.left_out_error([useless, exact], gfid) == pytest.approx(0, abs=1e-9)
    by_mean = pfid_variants.joint_left_out_error([], gfid)
    rest = [sum(gfid) - y for y in gfid]
    assert by_mean == pytest.approx(math.sqrt(sum((r / 3 - y) ** 2 for r, y in zip(rest, gfid, strict=True)) / 4))
    parts = [2.0, 5.0, 1.0, 0.0], [7.0, -1.0, 2.0, 7.0]
    both = [3 * a - b + 1 for a, b in zip(*parts, strict=True)]
    assert pfid_variants.joint_left_out_error(parts, both) == pytest.approx(0, abs=1e-9)


def test_pearson_of_the_published_rows_is_the_known_one():
    page = pfid_report.published()
    rows = [" ".join(line.split()) for line in page.splitlines()]
    assert any(row.startswith("| pFID | 0.78 (") for row in rows)
    assert any(row.startswith("| rFID | 0.64 (") for row in rows)


def test_what_differs_between_sizes_does_not_count_within_them():
    sizes, noise = ["a", "a", "b", "b"], [0.0, 1.0, 0.0, 1.0]
    assert pfid_report.centered(sizes, [5.0, 7.0, 100.0, 102.0]) == [-1, 1, -1, 1]
    across = [10 * (size == "b") + v for size, v in zip(sizes, noise, strict=True)]
    against = [-10 * (size == "b") + v for size, v in zip(sizes, noise, strict=True)]
    assert pfid_report.within(sizes, across, against).value == pytest.approx(1)


def test_finished_measurements_are_never_made_again(tmp_path):
    Notes(tmp_path / "measured.json").once("a", lambda: 1)
    again = Notes(tmp_path / "measured.json")
    assert again.once("a", lambda: pytest.fail("measured twice")) == 1


def test_the_page_keeps_its_words_and_the_picture_shows_every_tokenizer(tmp_path):
    for i, k in enumerate((256, 1000, 1024, 1024, 4096)):
        folder = tmp_path / "runs" / str(i)
        folder.mkdir(parents=True)
        (folder / "measured.json").write_text(json.dumps(measured(k, rfid=10.0 + i, slope=30.0 - 3 * i * i)))
        MetricsLog(folder / "generator").write(500, {"loss": 3.0 + i})
    unfinished = tmp_path / "runs" / "unfinished"
    unfinished.mkdir()
    (unfinished / "measured.json").write_text('{"name": "unfinished"}')
    docs = tmp_path / "docs"
    (docs / "images").mkdir(parents=True)
    (docs / "pfid_study.md").write_text(f"before\n{pfid_report.BEGIN}\nold\n{pfid_report.END}\nafter\n")
    pfid_report.report(tmp_path / "runs", docs)
    page = (docs / "pfid_study.md").read_text()
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert "old" not in page
    assert "unfinished" not in page
    assert page.count("| invented") == 5
    svg = ElementTree.parse(docs / "images" / "pfid_study.svg")
    circles = [node for node in svg.iter() if node.tag.endswith("circle")]
    assert len(circles) == 3 * 5 + 3  # three panels and the legend


def test_the_study_varies_what_it_says():
    assert len(KINDS) >= 10
    sizes = {kind.quantizer.codebook_size for kind in KINDS.values()}
    assert {256, 1024, 4096} <= sizes
    assert len({type(kind.quantizer) for kind in KINDS.values()}) == 4
    assert len({kind.quantizer.width for kind in KINDS.values()}) > 3
    for kind in KINDS.values():
        main_training(kind)


def test_text_of_the_picture_is_escaped_and_markup_is_not():
    inner = pfid_report.element("b", "1 < 2 & 3")
    assert inner == "<b>1 &lt; 2 &amp; 3</b>"
    assert pfid_report.element("p", inner, "<script>") == "<p><b>1 &lt; 2 &amp; 3</b>&lt;script&gt;</p>"
    made = pfid_report.element("text", title='"5" < 6', class_="x", text_anchor="end", x=0)
    assert made == '<text title="&#34;5&#34; &lt; 6" class="x" text-anchor="end" x="0"></text>'
