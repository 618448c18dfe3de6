"""One table in five forms: what is written can be read back, and text stays text."""

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from markupsafe import Markup

from robustok.report.html import part
from robustok.report.table import BLANK, Column, Table, TableCell, csv_text, latex_text, markdown_list, markdown_text

HOSTILE = [
    "[1em] first in its row",
    "*",
    'a "quoted", text',
    "50% & $1 #2 ~^ {x} \\end",
    "<script>alert(1)</script>",
    "a|b\\|c",
    "_emphasis_ of snake_case",
    "`code`",
    "two\nlines\r\nmore",
    "an old\rline",
    "",
    " padded ",
    "a\N{NO-BREAK SPACE}b",
]
TABLE = Table(
    columns=["name", Column("words", "small print", left=True), Column("gFID ↓")],
    rows=[["ours", "short", TableCell(1.5, "± 0.1", strong=True)], ["theirs", TableCell("long words", span=1), None]],
    notes=["One of them."],
    caption="Scores",
)


def of(text):
    return Table(columns=["name", "value"], rows=[[text, 1.0], ["plain", text]])


def test_a_table_as_it_is_read():
    assert TABLE.to_markdown() == (
        "| name   | words      |        gFID ↓ |\n"
        "| ------ | ---------- | ------------: |\n"
        "| ours   | short      | **1.5** ± 0.1 |\n"
        f"| theirs | long words |             {BLANK} |\n"
        "\n- One of them.\n"
    )
    assert TABLE.to_text() == (
        f"  name    words          gFID ↓\n  ours    short       1.5 ± 0.1\n  theirs  long words          {BLANK}"
    )
    assert TABLE.to_csv() == "name,words,gFID ↓\nours,short,1.5\ntheirs,long words,\n"
    body = TABLE.to_latex(comments=["a\nb"])
    assert body == (
        "% \\usepackage{booktabs}\n% a b\n\\begin{tabular}{llr}\n\\toprule\nname & words & gFID $\\downarrow$ \\\\\n"
        "\\midrule\nours & short & \\textbf{1.5} $\\pm$ 0.1 \\\\\ntheirs & long words & -- \\\\\n\\bottomrule\n"
        "\\multicolumn{3}{p{0.95\\linewidth}}{\\footnotesize One of them.} \\\\\n\\end{tabular}\n"
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_csv_is_read_back(text):
    head, *rows = csv.reader(io.StringIO(of(text).to_csv(), newline=""))
    assert head == ["name", "value"]
    assert rows == [[text, "1.0"], ["plain", text]]


@pytest.mark.parametrize("text", ["=cmd()", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_spreadsheet_takes_a_text_for_a_formula(text):
    assert csv_text(text) == f"'{text}"
    rows = list(csv.reader(io.StringIO(Table(columns=[text, "n"], rows=[["x", -1.5]]).to_csv(), newline="")))
    assert rows == [[f"'{text}", "n"], ["x", "-1.5"]]  # a number is none


def test_numbers_in_csv_are_read_back_exactly():
    values = [1 / 3, -2e-12, 1e300, 7]
    rows = list(csv.reader(io.StringIO(Table(columns=["n"], rows=[[v] for v in values]).to_csv())))
    assert [float(row[0]) for row in rows[1:]] == values


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_as_many_cells_in_every_row_and_no_markup(text):
    made = of(text).to_markdown()
    lines = made.splitlines()
    assert len(lines) == 4
    unescaped = [re.sub(r"\\[\\`*\[\]<|_]", "", line) for line in lines]
    assert {line.count("|") for line in unescaped} == {3}
    assert not re.search(r"[`*<\[\]]|(?<!\w)_|_(?!\w)", "".join(unescaped))


def test_markdown_shows_the_text_itself():
    """Without the backslashes before punctuation (CommonMark 2.4), and with the line put on one line."""
    for text in HOSTILE:
        assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown_text(text)) == re.sub(r"[ \r\n]+", " ", text).strip(" ")


@pytest.mark.parametrize("text", ["# no heading", "> no quotation", "- no list", "+ no list", "1. no list", "2) none"])
def test_nothing_else_begins_in_a_list(text):
    (line,) = markdown_list([text]).splitlines()
    assert re.fullmatch(r"- ([#>+-]|\d+[.)]) .*", line) is None
    assert line.replace("\\", "") == f"- {text}"


@pytest.mark.parametrize("text", HOSTILE)
def test_latex_has_no_command_of_the_text(text):
    tabular = of(text).to_latex()
    body = tabular.split("\\midrule\n")[1].split("\\bottomrule")[0]
    first, second = body.splitlines()
    for line in (first, second):
        assert line.endswith(r" \\")
        assert len(re.split(r"(?<!\\)&", line)) == 2
    plain = re.sub(r"\\[{}$&%#_]", "", body)
    assert (plain.count("{"), plain.count("$") % 2) == (plain.count("}"), 0)
    assert not re.search(r"(?<!\\)[%#]", body)
    assert not re.match(r"[\[*]", first)  # \\ [1em] and \\* are commands
    commands = set(re.findall(r"\\[a-z]+", body)) - {r"\textless", r"\textgreater", r"\textbackslash"}
    assert commands <= {r"\textasciitilde", r"\textasciicircum"}


def test_latex_knows_the_signs_of_the_tables():
    assert latex_text("≈ 1 ± 2 ↓ ↑ \N{MULTIPLICATION SIGN} \N{MINUS SIGN}3\N{NO-BREAK SPACE}% αδ \N{EN DASH}") == (
        r"$\approx$ 1 $\pm$ 2 $\downarrow$ $\uparrow$ $\times$ $-$3~\% $\alpha$$\delta$ --"
    )


class Reader(HTMLParser):
    """Checks that elements nest, and collects the text of every cell."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.seen = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.seen.append((tag, dict(attributes)))
        if tag in ("th", "td"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"th", "td"} & set(self.open):
            self.cells[-1] += data


@pytest.mark.parametrize("text", HOSTILE)
def test_html_is_read_back(text):
    read = Reader(of(text).to_html())
    assert "script" not in [tag for tag, _ in read.seen]
    assert read.cells == ["name", "value", text, "1.0", "plain", text]


def test_html_names_its_rows_and_columns():
    table = Table(
        columns=["", Column("a", "in seconds", kind="quiet"), Column("chart", kind="wide", chart=True)],
        rows=[
            [TableCell("row", "of it"), TableCell(2, shade=1.0, kind="x"), Markup("<svg></svg>")],
            ["all", TableCell("3", span=2)],
        ],
        groups=[("", 1), ("both", 2)],
        caption="5 < 6",
        kind="dense",
    )
    html = str(table.to_html())
    read = Reader(html)
    assert [a["scope"] for tag, a in read.seen if tag == "th"] == ["colgroup", "col", "col", "row", "row"]
    assert "<caption>5 &lt; 6</caption>" in html
    assert '<td class="n quiet heat x" style="background:#e8924a">2</td>' in html
    assert '<td class="wide"><svg></svg></td>' in html
    assert '<td class="n" colspan="2">3</td>' in html
    assert part("box", "beside", [table]) == f'<div class="beside">{html}</div>', "in a template it is written as it is"
    assert table.to_text().splitlines()[0].split() == ["both:", "a"], (
        "a chart is left out, a group named with its column"
    )
    assert table.to_csv() == '"",a\nrow,2\nall,3\n'.replace('""', "")


def test_long_texts_are_broken_and_long_names_stand_alone():
    table = Table(
        columns=("", Column("", left=True)), rows=[("--a", "one two three four five"), ("--a-long-name", "x")]
    )
    assert table.to_text(width=32, widest=6).splitlines() == [
        "  --a     one two three four",
        "          five",
        "  --a-long-name",
        "          x",
    ]


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="row 1 of the table has 1 cells where there are 2 columns"):
        Table(columns=["a", "b"], rows=[["x", "y"], ["x"]])
    with pytest.raises(ValueError, match=r"groups of \[1, 2\] columns do not make 2"):
        Table(columns=["a", "b"], rows=[], groups=[("", 1), ("x", 2)])


def test_a_table_without_rows_has_a_head():
    table = Table(columns=["a", "b"], rows=[])
    assert table.to_markdown().splitlines()[0] == "| a   |   b |"
    assert table.to_csv() == "a,b\n"
    assert Table(columns=["", ""], rows=[]).to_text() == ""
