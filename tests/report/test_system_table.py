"""Systems from files, the table of them, and its four formats."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

from robustok.evaluation.scores.difference import seeds_difference
from robustok.evaluation.scores.intervals import seeds_interval
from robustok.evaluation.scores.score import Score
from robustok.report.system_table import FORMATS, in_three_digits, system_table
from robustok.report.systems import ScoreColumn, read_systems

LITE0 = {"features": "lite0", "reference": {"name": "photos", "count": 500, "hash": "a"}}
GFID = ScoreColumn("gfid", "lite0")


def score(metric="gfid", value=10.0, half=0.5, seed=0, images=500, system=None, **protocol):
    interval = None if half is None else (value - half, value + half)
    seeds = () if seed is None else (seed,)
    protocol = LITE0 | protocol
    return Score(
        metric=metric,
        value=value,
        interval=interval,
        images=images,
        seeds=seeds,
        protocol=protocol,
        system=system or {},
    )


@pytest.fixture
def write(tmp_path):
    """Writes scores into a file, and returns what `read_systems` takes."""

    def write_scores(file, *scores, name=""):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps([each.to_plain() for each in scores]))
        return name, path

    return write_scores


def table_of(*sources, **options):
    return system_table(read_systems(sources), **options)


def texts(table):
    """{system: what its row says of each score}."""
    return {
        row.name: [
            s and ("best " * s.best + "near " * s.near + s.value + " ± " * bool(s.spread) + s.spread)
            for s in row.scores
        ]
        for row in table.rows
    }


# Systems


def test_a_system_is_named_by_hand_by_its_record_or_by_its_place(write, tmp_path):
    systems = read_systems(
        [
            write("a.json", score()),
            write("run/scores.json", score()),
            write("b.json", score(system={"name": "ours"})),
            write("c.json", score(system={"name": "ours"}), name="theirs"),
            ("", write("folder/scores.json", score())[1].parent),
        ]
    )
    assert [s.name for s in systems] == [
        str(tmp_path / "a"),
        str(tmp_path / "run"),
        "ours",
        "theirs",
        str(tmp_path / "folder"),
    ]


def test_runs_of_one_name_are_one_system(write):
    values = [10.0, 12.0, 11.0]
    sources = [write(f"{seed}.json", score(value=value, seed=seed), name="ours") for seed, value in enumerate(values)]
    (system,) = read_systems(sources)
    estimate = system.estimate(GFID)
    mean, interval = seeds_interval(values)
    assert estimate == (mean, interval, 3, 500)
    assert system.estimate(ScoreColumn("rfid", "lite0")) is None
    (again,) = read_systems([*sources, sources[0]])
    assert again.estimate(GFID) == estimate, "a file that comes twice is one run"


def test_runs_that_were_sampled_differently_are_no_runs_of_one_system(write):
    sources = [write(f"{g}.json", score(sampling={"guidance": g}, seed=g), name="ours") for g in (1, 2)]
    with pytest.raises(ValueError, match="two runs of ours had sampling.guidance 1 once and 2 .* NAME=FILE"):
        read_systems(sources)


def test_the_decoders_of_a_demo_are_systems_compared_on_the_same_tokens(write):
    change = score("gfid_difference", -1.0, 0.1, **{"from": "before", "to": "after"})
    source = write(
        "scores.json", score("rfid", 5.0), score("gfid_before"), score("gfid_after", 9.0), change, name="demo"
    )
    before, after = systems = read_systems([source])
    assert [s.name for s in systems] == ["demo:before", "demo:after"]
    assert set(before.scores) == {GFID, ScoreColumn("rfid", "lite0")}
    difference = after.against(before, GFID)
    assert (difference.before, difference.after, difference.paired) == (10.0, 9.0, True)
    assert difference.interval == pytest.approx((-1.1, -0.9))
    assert before.against(after, GFID).interval == pytest.approx((0.9, 1.1))


def test_the_same_seeds_of_two_systems_are_paired(write):
    one, other = [10.0, 12.0, 11.0], [9.0, 10.9, 10.1]
    sources = [
        write(f"{name}{seed}.json", score(value=value, seed=seed), name=name)
        for name, values in (("one", one), ("other", other))
        for seed, value in enumerate(values)
    ]
    first, second = read_systems(sources)
    assert second.against(first, GFID) == seeds_difference(one, other, "gfid")
    table = table_of(*sources)
    assert "over seeds, pair by pair" in table.differences["other against one"][0]
    assert [fact.heading for fact in table.facts] == ["Seeds"]
    assert [row.facts for row in table.rows] == [[3], [3]]
    assert "over seeds for several" in table.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"metric": "rfid"}', "holds no list of scores; give what robustok evaluate --out"),
        ("[3]", "holds no list of scores"),
        ('[{"metric": "rfid"}]', "a.json: .* is no record of a score"),
        ('[{"metric": "fid", "value": 1' + "0" * 400 + ', "interval": null, "images": 2}]', "is no record of a score"),
        ("[", "is not JSON"),
        ("[]", "there is no score of rfid, .* in .*a.json"),
    ],
)
def test_refuses_what_is_no_file_of_scores(content, message, tmp_path):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_systems([("", tmp_path / "a.json")])
    with pytest.raises(ValueError, match="there is no file .*b.json"):
        read_systems([("", tmp_path / "b.json")])


def test_a_file_with_nothing_to_compare_is_told(write, tmp_path):
    """It was left out of the table without a word."""
    (tmp_path / "empty.json").write_text("[]")
    for nothing in (("", tmp_path / "empty.json"), write("psnr.json", score("psnr"))):
        with pytest.raises(ValueError, match=f"there is no score of rfid in .*{nothing[1].name}; leave it out, or ask"):
            read_systems([write("a.json", score("rfid")), nothing], ["rfid"])


def test_refuses_a_metric_with_many_values(write):
    source = write("a.json", score("pfid_cell", alpha=0.9), score("pfid_cell", alpha=0.8))
    with pytest.raises(ValueError, match="has several values of pfid_cell; --metrics takes those with one each"):
        read_systems([source], ["pfid_cell"])


# Table


def test_the_best_is_marked_and_what_cannot_be_told_from_it(write):
    scores = {"one": (10.0, 0.8), "two": (10.4, 0.7), "three": (12.0, 0.6)}
    sources = [
        write(f"{name}.json", score(value=fid), score("precision", p, None), name=name)
        for name, (fid, p) in scores.items()
    ]
    table = table_of(*sources)
    assert [(h.label, h.better, h.alike) for h in table.headings] == [
        ("gFID", "lower", True),
        ("Precision", "higher", True),
    ]
    assert texts(table) == {
        "one": ["best 10.00 ± 0.50", "best 0.800"],
        "two": ["near 10.40 ± 0.50", "0.700"],
        "three": ["12.00 ± 0.50", "0.600"],
    }
    assert list(table.differences) == ["two against one", "three against one"]
    fid, unknown = table.differences["two against one"]
    assert fid.startswith("gFID 10 to 10.4 (+4.0%): within the noise")
    assert unknown == "Precision: one run without an interval says nothing of the noise; run several seeds."
    assert "higher and so worse" in table.differences["three against one"][0]
    turned = table_of(*sources, baseline="three").differences
    assert turned["one against three"][0].startswith("gFID 12 to 10 (-16.7%)")


def test_equal_scores_have_no_best(write):
    table = table_of(*(write(f"{name}.json", score("recall", 0.0, None), name=name) for name in "ab"))
    assert texts(table) == {"a": ["0.0"], "b": ["0.0"]}


def test_a_table_says_what_its_systems_are(write):
    about = {"latent": "discrete", "tokens": 256, "codebook_size": 4096, "parameters": {"tokenizer": 86_400_000}}
    table = table_of(
        write("a.json", score(system=about), name="ours"),
        write("b.json", score(system={"latent": "continuous", "tokens": "many", "parameters": 3}), name="theirs"),
    )
    assert [fact.heading for fact in table.facts] == ["Tokenizer", "Latent", "Tokens", "Codes"]
    assert [row.facts for row in table.rows] == [[86_400_000, "disc.", 256, 4096], [None, "con.", None, None]]
    assert "| ours   |    86.4 M |  disc. |    256 | 4,096 |" in table.to_markdown()


def test_parameters_in_three_digits():
    assert list(map(in_three_digits, (3, 999, 4.65e6, 999_600, 343e6, 1.2e9))) == [
        "3",
        "999",
        "4.65 M",
        "1 M",
        "343 M",
        "1.2 B",
    ]


def test_scores_of_other_protocols_are_refused_unless_forced(write):
    other = LITE0 | {"reference": {"name": "photos", "count": 500, "hash": "b"}}
    sources = [write("a.json", score(), name="a"), write("b.json", score(value=5.0, **other), name="b")]
    with pytest.raises(
        ValueError, match="^gFID has reference.hash 'a' for a and 'b' for b; compute both alike, or force"
    ):
        table_of(*sources)
    table = table_of(*sources, force=True)
    assert table.notes[0] == "Not computed alike: gFID has reference.hash 'a' for a and 'b' for b."
    assert texts(table) == {"a": ["10.00 ± 0.50"], "b": ["5.00 ± 0.50"]}, (
        "nothing is the best of what is not comparable"
    )
    assert table.differences["b against a"][0].startswith("gFID (not computed alike) 10 to 5")
    for made in (FORMATS[name](table) for name in ("markdown", "latex", "html")):
        assert "Not computed alike: gFID has reference" in made
        assert "*" in made
    assert table.to_csv().splitlines()[1].endswith(",gfid")


def test_another_number_of_images_is_another_protocol(write):
    sources = [write("a.json", score(), name="a"), write("b.json", score(images=400), name="b")]
    with pytest.raises(ValueError, match="gFID has number of images 500 for a and 400 for b"):
        table_of(*sources)


def test_scores_in_other_spaces_only_are_refused_and_in_several_are_columns(write):
    sources = [write("a.json", score(), name="a"), write("b.json", score(features="dinov2"), name="b")]
    with pytest.raises(ValueError, match="gFID has features 'lite0' for a and 'dinov2' for b"):
        table_of(*sources)
    both = write("b.json", score(), score(value=90.0, features="dinov2"), name="b")
    table = table_of(sources[0], both)
    assert [(h.name, h.label) for h in table.headings] == [
        ("gfid_lite0", "gFID (lite0)"),
        ("gfid_dinov2", "gFID (dinov2)"),
    ]
    assert texts(table)["a"] == ["10.00 ± 0.50", None]


def test_systems_may_sample_in_their_own_ways_which_is_noted(write):
    sources = [write(f"{g}.json", score(sampling={"type": "S", "guidance": g}), name=f"g{g}") for g in (1.0, 2.0)]
    assert table_of(*sources).notes[-1] == "Sampling: g1.0: guidance 1.0; g2.0: guidance 2.0."


def test_refuses_a_metric_or_a_baseline_that_is_not_there(write):
    systems = read_systems([write("a.json", score(), name="a")], ["gfid", "rfid"])
    with pytest.raises(ValueError, match="no system has a score 'rfid'; there is gfid"):
        system_table(systems, ["gfid", "rfid"])
    with pytest.raises(ValueError, match="there is no system 'b' to compare against; choose one of a"):
        system_table(systems, baseline="b")


# Formats

HOSTILE = '50% <b>of</b> a|b & c_d_ {x} \\end $1 #2 ~^, "q"\n=1'


@pytest.fixture
def hostile(write):
    return table_of(write("a.json", score(), name=HOSTILE), write("b.json", score(value=5.0), name="=cmd()"))


def test_markdown(hostile):
    lines = hostile.to_markdown().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, "as many cells in every row"
    assert len({len(row) for row in rows}) == 1, "aligned"
    assert "<b>" not in re.sub(r"\\<", "", "\n".join(lines))
    assert r"c_d\_" in lines[2]
    assert "**5.00** ± 0.50" in lines[3]
    assert lines[-3].startswith("=cmd() against 50% ")
    assert lines[-1].startswith("- gFID 10 to 5 (-50.0%): lower and so better")


def test_latex(hostile):
    made = hostile.to_latex()
    tabular = made[made.index("\\begin{tabular}") :]
    body = tabular.split("\\midrule")[1].split("\\bottomrule")[0]
    columns = len(re.search(r"begin\{tabular\}\{(\w+)\}", made)[1])
    for line in body.strip().splitlines():
        assert line.endswith("\\\\")
        assert len(re.split(r"(?<!\\)&", line)) == columns
    for character in "%#":
        assert not re.search(rf"(?<!\\){character}", tabular)
    plain = re.sub(r"\\[{}$]", "", tabular)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert made.count("\\begin{") == made.count("\\end{") == 1
    assert r"\textbf{5.00} $\pm$ 0.50" in body
    assert r"gFID $\downarrow$" in tabular
    assert r"\textbackslash{}end \$1 \#2 \textasciitilde{}\textasciicircum{}" in body
    assert made.startswith("% \\usepackage{booktabs}\n% =cmd() against 50% <b>of")
    assert all(ord(character) < 128 for character in tabular)


def test_csv(hostile):
    header, *rows = csv.reader(io.StringIO(hostile.to_csv()))
    assert header == ["system", *(f"gfid{part}" for part in ("", "_low", "_high", "_images", "_seeds")), "not_alike"]
    assert rows[0] == [HOSTILE, "10.0", "9.5", "10.5", "500", "1", ""]
    assert rows[1][0] == "'=cmd()", "a spreadsheet takes no name for a formula"


class Reader(HTMLParser):
    """Checks that elements nest, and collects them with their text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link"):
            self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html(hostile):
    reader = Reader(hostile.to_html())
    assert HOSTILE in reader.text
    assert "b" not in reader.seen
    assert "script" not in reader.seen
    assert (reader.seen.count("tr"), reader.seen.count("strong")) == (3, 1)
