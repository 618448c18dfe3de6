"""The page of a run: complete, cut short, and damaged."""

import json
import re
import struct
import zlib
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from robustok.evaluation.scores.intervals import seeds_interval
from robustok.report.images import gallery
from robustok.report.page import write_report
from robustok.report.run import GROUPS, Grid, Run, read_run
from robustok.report.scores import spaces_table
from robustok.report.text import BLANK, MINUS
from robustok.training.validation import STEPS_FILE

SECTIONS = [
    "scores",
    "images",
    "pairs",
    "changed",
    "nearest",
    "pfid",
    "ablation",
    "losses",
    "codebook",
    "heldout",
    "cost",
    "protocol",
    "configuration",
    "sources",
]
VOID = {"meta", "link", "img", "br"}
NB = "\N{NO-BREAK SPACE}"


class Page(HTMLParser):
    """The elements of a page in order, which must be balanced, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def sections(self) -> list[str | None]:
        return [attributes["id"] for attributes in self.all("section")]


def read(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def rows(html: str, caption: str) -> list[list[str]]:
    """The text of each cell of each row of the table with that caption."""
    body = html.split(f"<caption>{caption}", 1)[1].split("</table>", 1)[0]
    cells = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?</tr>", body, re.S))
    return [[unescape(re.sub(r"<[^>]+>", " ", cell)).strip() for cell in row] for row in cells]


@pytest.fixture(scope="module")
def html(run_folder: Path) -> str:
    return write_report(run_folder).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_every_section_is_there_in_order_and_linked(page: Page):
    assert page.sections == SECTIONS
    assert [link["href"] for link in page.all("a")] == [f"#{name}" for name in SECTIONS]


def test_nothing_comes_from_outside_and_nothing_runs(html: str, page: Page):
    for tag, attributes in page.elements:
        assert tag not in {"script", "iframe", "object", "embed"}
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#")), (tag, attributes)
    assert "http://" not in html
    assert "https://" not in html
    assert not re.search(r"@import|url\(", html)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_text_of_a_run_cannot_become_markup(html: str, page: Page):
    assert "<script>alert" not in html
    assert "<script>alert('no')</script>" in page.text


def test_a_reader_who_cannot_see_it_is_told(page: Page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("img")) == 9
    assert all(img["alt"] for img in page.all("img"))
    assert all(svg.get("role") == "img" or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all(cell.get("scope") for cell in page.all("th"))
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))


def test_the_summary_tells_what_was_done_in_this_run(page: Page):
    for said in (
        "512 codes and 64 tokens an image was trained for 1,500 steps on 55,000 images",
        f"in 30{NB}% of the images of a batch, 100{NB}% of the tokens were replaced".replace(NB, " "),
        "one of their 12 nearest codes",
        "in 1,600 steps",
        "had resampled 30 %",
        "gFID fell from 172.1 to 149.9 (\N{MINUS SIGN}12.9 %); the control reached 165.3.",
        "14 min 25 s and 2.9 GiB",
    ):
        assert said in page.text


def test_distances_stand_beside_the_floor_and_the_change(html: str):
    table = rows(html, "Fr\N{LATIN SMALL LETTER E WITH ACUTE}chet distances")
    names = ["Floor", "rFID", "rFID, as pFID", "pFID", "gFID before", "gFID control", "gFID after"]
    assert [row[0].startswith(name) for row, name in zip(table[1:], names, strict=True)] == [True] * 7
    values = {name: row[1:5] for row, name in zip(table[1:], names, strict=True)}
    assert values["Floor"] == ["38.7", "36.9 to 40.8", "1.0", ""]
    assert values["rFID"][2] == "2.6"
    assert values["pFID"][2] == values["rFID, as pFID"][2] == BLANK  # of other numbers of images than the floor
    assert values["gFID before"] == ["172.1", "168.0 to 176.4", "4.4", ""]
    assert values["gFID control"][3] == f"\N{MINUS SIGN}4.0{NB}%"  # 165.3 / 172.1 - 1
    # 149.9 / 172.1 - 1, and the paired interval: -24.0 and -20.4 of 172.1
    bounds = f"\N{MINUS SIGN}13.9{NB}% to \N{MINUS SIGN}11.9{NB}%"
    assert values["gFID after"][3].replace(" ", "") == f"\N{MINUS SIGN}12.9{NB}%{bounds}".replace(" ", "")


def test_other_scores_of_generated_images_stand_in_one_table(html: str):
    table = rows(html, "Beside gFID")
    assert table[0][1:] == ["before", "control", "after"]
    assert [(row[0].split()[0], *row[1:]) for row in table[1:]] == [
        ("Precision", "0.402", "0.431", "0.517"),
        ("Recall", "0.331", "0.338", "0.352"),
        ("KID", "0.0912", "0.0871", "0.0744"),
    ]


def test_what_changed_in_a_space_is_written_with_one_kind_of_minus():
    found = {"lite0": {"recall": (0.114, 0.112), "precision": (0.4, 0.5)}, "lite2": {"gfid": (20.0, 15.0)}}
    scores = [
        {"metric": f"{name}_{decoder}", "value": value, "interval": None, "protocol": {"features": space}}
        for space, of in found.items()
        for name, values in ({"gfid": (30.0, 27.0)} | of).items()
        for decoder, value in zip(("before", "after"), values, strict=True)
    ]
    table = spaces_table(Run(name="x", scores=scores))
    assert table is not None
    last = {(row[0].text, row[-1].text) for row in table.cells}
    assert last >= {("Recall", f"{MINUS}0.002"), ("Precision", "+0.100"), ("gFID", f"{MINUS}25.0{NB}%")}


def test_what_an_eye_would_say_is_measured_and_told_in_words(html: str):
    typed = str.maketrans({"\N{NO-BREAK SPACE}": " ", "\N{MINUS SIGN}": "-"})
    table = [[cell.translate(typed) for cell in row] for row in rows(html, "What an eye would say")]
    off, color, contrast, detail, finest = table[1:]
    assert [row[0].split()[0] for row in table[1:]] == ["Off", "Color", "Contrast", "Detail", "Finest"]
    assert off[1:5] == ["29.8 %", "25.7 %", "22.6 %", "6.1 %"]
    assert off[5] == "fewer such images -9.0 % to -5.0 %"
    assert color[5].startswith("colors farther")
    assert contrast[5].startswith("within the noise")
    assert detail[5] == "detail nearer to real images' -1.30 to -0.90"
    assert finest[1:] == ["-2.74", "-2.07", "-1.88", "0.02", "more of it +0.70 to +1.00"]


def test_authentic_images_are_counted_among_generated_and_among_real_ones(html: str, page: Page):
    assert rows(html, "Does it copy?")[1:] == [
        ["Generated", "96.4", "95.1 to 97.4", "1,000"],
        ["Real, never trained on", "82.2", "79.8 to 84.5", "1,000"],
    ]
    assert "(AuthPct, arXiv 2102.08921), measured in codes of the tokenizer. Fewer than among real" in page.text


def test_heat_map_holds_15_cells_and_their_means(html: str, run_folder: Path):
    table = rows(html, "Fr\N{LATIN SMALL LETTER E WITH ACUTE}chet distance in each of the 15 cells")
    numbers = [[float(cell) for cell in row[1:]] for row in table[1:]]
    cells = [row[:3] for row in numbers[:5]]
    assert [len(row) for row in numbers] == [4] * 6
    values = [r["value"] for r in json.loads((run_folder / "scores.json").read_text()) if r["metric"] == "pfid_cell"]
    assert sorted(v for row in cells for v in row) == pytest.approx(sorted(values), abs=0.05)
    assert numbers[5][3] == pytest.approx(sum(values) / 15, abs=0.05)
    assert [row[3] for row in numbers[:5]] == pytest.approx([sum(row) / 3 for row in cells], abs=0.1)
    assert [row[0] for row in table[1:6]] == [f"\N{GREEK SMALL LETTER ALPHA} = {a}" for a in (0.9, 0.8, 0.7, 0.6, 0.5)]
    shades = re.findall(r"background:(#\w{6})", html)
    assert (shades[values.index(max(values))], shades[values.index(min(values))]) == ("#e8924a", "#fdf7ec")


def test_steps_until_a_gfid_are_told_where_they_were_asked_for(page: Page, run_copy: Path):
    assert "Steps to gFID" not in page.text
    about = {"features": "lite0", "at_or_below": 40.0, "validated_every": 100}
    record = {"metric": "steps_to_gfid", "value": 1200.0, "images": 1000, "seeds": [0], "protocol": about}
    (run_copy / "generator" / STEPS_FILE).write_text(json.dumps([record]))
    told = read(run_copy).text
    assert "Steps to gFID" in told
    assert "1,200" in told
    assert "until a validation found 40 or less" in told


def test_ablation_is_told_by_seed_and_by_fraction_of_the_generator_steps(html: str, run_folder: Path):
    table = rows(html, "The same budget with and without")
    shares = [f"gFID after {share} of the generator steps" for share in ("a quarter", "half", "all")]
    assert [row[0] for row in table[2:]] == ["rFID", "rFID of pFID's images", "pFID", *shares]
    records = json.loads((run_folder / "ablation.json").read_text())
    arms = [
        [r["value"] for r in records if r["metric"] == "pfid" and r["protocol"]["arm"] == arm]
        for arm in ("unperturbed", "perturbed")
    ]
    shown = [float(cell) for cell in table[4][1:9]]
    expected = [v for values in arms for v in (*values, sum(values) / 3)]
    assert shown == pytest.approx(expected, abs=0.05)
    changes = [b / a - 1 for a, b in zip(*arms, strict=True)]
    mean, (low, high) = seeds_interval(changes)
    assert re.findall(r"[\d.]+", table[4][9]) == [f"{abs(100 * v):.1f}" for v in (mean, low, high)]
    gains = rows(html, "What post-training gains")
    assert len(gains) == 1 + 6


def test_the_kept_decoder_is_the_one_that_the_check_chose(html: str):
    table = rows(html, "Held-out Fr")
    kept = [(row[0], column) for row in table[1:] for column in (1, 2) if "\N{BLACK CIRCLE}" in row[column]]
    assert kept == [("300", 2), ("400", 1)]  # the lowest points of the two synthetic curves


def test_small_images_are_magnified_by_whole_pixels(page: Page):
    for img in page.all("img"):
        assert img["class"] == "pixels"
        assert int(str(img["width"])) % 32 == 0
    real = page.all("img")[0]
    assert (real["width"], real["height"]) == ("960", "384")  # 10 x 4 images of 32 pixels, three times
    assert real["alt"] == (
        "Real: 4 rows of 10 images. T-shirt, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
    )


def test_an_unfinished_run_has_a_page_that_says_what_is_missing(run_folder: Path, tmp_path: Path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "metrics.jsonl").write_bytes((run_folder / "tokenizer" / "metrics.jsonl").read_bytes())
    page = read(tmp_path)
    assert page.sections == ["losses", "codebook", "sources"]
    for name in ("config.json", "scores.json", "images/images.json", "generator/metrics.jsonl"):
        assert f"{name} is not there" in page.text
    assert "A tokenizer was trained for 1,500 steps." in page.text


def test_a_complete_run_misses_nothing(page: Page):
    assert "not complete" not in page.text


def test_damage_is_named_and_the_rest_is_shown(run_copy: Path):
    folder = run_copy
    (folder / "ablation.json").unlink()
    (folder / "scores.json").write_text('[{"metric": "rfid", "va')
    (folder / "config.json").write_text("[]")
    (folder / "images" / "real.png").unlink()
    (folder / "images" / "perturbed.png").write_bytes(b"GIF89a")
    with (folder / "tokenizer" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 1510, "l1": 0.0')
    with pytest.warns(UserWarning, match=r"leaves out what is damaged: .*scores.json is damaged: it is not JSON\."):
        page = read(folder)
    assert "scores.json is damaged: it is not JSON." in page.text
    assert "config.json holds a list where a dict belongs." in page.text
    assert "The image real.png is not there." in page.text
    assert "The image perturbed.png is not a PNG file." in page.text
    assert page.sections == ["images", "pairs", "changed", "nearest", *SECTIONS[7:10], *SECTIONS[12:]]
    assert len(page.all("img")) == 7


def test_a_score_that_is_none_is_named(tmp_path: Path):
    whole = {"metric": "rfid", "value": 101.25}
    wrong = {"interval": [3.0, 1.0]}, {"value": True}, {"images": 24.7}, {"seeds": [None]}, {"protocol": []}
    scores = [{"metric": "rfid", "value": None}, {"value": 1.0}, 3, whole, *({**whole, **one} for one in wrong)]
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    with pytest.warns(UserWarning, match="Record 0 of scores.json is no score: its value is None; wanted a finite num"):
        page = read(tmp_path)
    assert "Record 0 of scores.json is no score: its value is None; wanted a finite number." in page.text
    assert "Record 1 of scores.json is no score: it has no metric; wanted metric, value" in page.text
    assert "Record 2 of scores.json is no score: it has no metric, no value" in page.text
    for number, field in enumerate(("interval", "value", "images", "seeds", "protocol"), 4):
        assert f"Record {number} of scores.json is no score: its {field} is" in page.text
    assert "101.2" in page.text


def test_when_the_original_decoder_was_kept_the_page_says_so(run_copy: Path):
    log = run_copy / "post_training" / "metrics.jsonl"
    held = [json.loads(line) for line in log.read_text().splitlines()]
    worse = [row | ({"heldout_fd": 170.0 + row["step"]} if "heldout_fd" in row else {}) for row in held]
    log.write_text("".join(json.dumps(row) + "\n" for row in worse))
    assert "No step of it passed the held-out check, so the original decoder was kept" in read(run_copy).text


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"holds no run: there is none of config\.json, .*; give the folder"):
        write_report(tmp_path)
    assert not list(tmp_path.iterdir())


def test_writing_again_replaces_the_page_and_leaves_nothing_else(run_copy: Path):
    path = run_copy / "report.html"
    path.write_text("an older page")
    before = sorted(p.name for p in run_copy.iterdir())
    assert write_report(run_copy) == path
    first = path.read_bytes()
    assert write_report(run_copy).read_bytes() == first
    assert sorted(p.name for p in run_copy.iterdir()) == before


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(width) for _ in range(height)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_grid_knows_its_size_and_refuses_what_it_cannot_show():
    grid = Grid(png=png(96, 64), title="x", columns=3, cell=32)
    assert (grid.size, grid.rows) == ((96, 64), 2)
    with pytest.raises(ValueError, match="is not a PNG file"):
        Grid(png=b"", title="x")
    with pytest.raises(ValueError, match=f"the group 'other', which is none of {', '.join(GROUPS)}"):
        Grid(png=png(1, 1), title="x", group="other")


@pytest.mark.parametrize(
    ("columns", "group", "abreast", "width"),
    [
        (10, "overview", 1, 960),  # three times 320
        (5, "pairs", 2, 480),  # two figures of three times 160
        (10, "pairs", 1, 960),  # side by side they would be too small to see
        (6, "changed", 1, 960),  # five times 192: one image after the other
    ],
)
def test_figures_share_a_line_while_they_stay_readable(columns: int, group: str, abreast: int, width: int):
    grids = [Grid(png=png(32 * columns, 64), title="x", columns=columns, cell=32, group=group)] * 3
    html = gallery(grids)
    assert html is not None
    assert f'class="gallery abreast-{abreast}"' in html
    assert html.count(f'width="{width}"') == 3
    assert html.count(f"width:{width}px") == 3


def test_pairs_are_as_large_as_the_room_is_wide():
    html = gallery([Grid(png=png(256, 256), title="x", columns=4, cell=64, group="pairs")])
    assert html is not None
    assert 'width="768" height="768"' in html  # three times 256


def test_large_images_keep_their_size_and_are_smoothed():
    html = gallery([Grid(png=png(1024, 256), title="x", columns=4, cell=256)])
    assert html is not None
    assert 'width="1024"' in html
    assert "width:1000px" in html  # what does not fit is shrunk
    assert 'class="pixels"' not in html


def test_settings_are_found_by_the_end_of_their_name(run_folder: Path):
    run = read_run(run_folder)
    assert run.setting("perturbation.delta") == 12
    assert run.setting("no_such_setting", "codebook_size") == 512
    assert run.setting("size") is None  # a whole name, not the end of one
