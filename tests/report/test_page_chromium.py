"""The page in a real browser: no sideways scrolling, nothing blank, nothing in the console, a printable PDF."""

import io
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from robustok.report.page import write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--no-pdf-header-footer",
]
WIDTHS = (1440, 768, 390)  # a laptop, a tablet, a phone
MEASURE = """<!DOCTYPE html><meta charset="utf-8"><title>measure</title>
<style>body { margin: 0 } iframe { display: block; border: 0; height: 900px }</style>
FRAMES
<pre id="measured"></pre>
<script>
onload = () => {
  const measured = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const outside = [...page.querySelectorAll("body *")].filter(e =>
      e.getBoundingClientRect().right > root.clientWidth + 1 && !e.closest(".scroll"));
    return {
      width: root.clientWidth,
      scroll: root.scrollWidth,
      height: root.scrollHeight,
      outside: outside.map(e => e.tagName + "." + e.getAttribute("class")),
      images: [...page.images].map(image => image.complete && image.naturalWidth > 0),
      sections: [...page.querySelectorAll("section")].map(s => [s.id, s.getBoundingClientRect().height]),
    };
  });
  document.getElementById("measured").textContent = JSON.stringify(measured);
  console.log("measuring is done");
};
</script>
"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: install Debian's package chromium to check the page in it"
)


class Rendered(NamedTuple):
    """What Chromium made of the page."""

    measured: dict[int, dict[str, Any]]  # by width of the screen
    screen: Image.Image  # the page on a laptop, scrolled to the top
    console: list[str]
    pdf: bytes


@pytest.fixture(scope="module")
def rendered(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Rendered:
    """Two starts of Chromium at once: one measures the page in frames of several widths, one prints it."""
    home = tmp_path_factory.mktemp("chromium")
    page = write_report(run_folder)
    frames = "".join(f'<iframe src="{page.as_uri()}" style="width: {width}px"></iframe>' for width in WIDTHS)
    (home / "measure.html").write_text(MEASURE.replace("FRAMES", frames))

    def start(name: str, address: Path, *flags: str) -> subprocess.Popen[str]:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={home / name}", *flags, address.as_uri()]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    screenshot = ("--window-size=1440,900", "--dump-dom", f"--screenshot={home / 'screen.png'}")
    jobs = [
        start("measure", home / "measure.html", *screenshot),
        start("print", page, f"--print-to-pdf={home / 'page.pdf'}"),
    ]
    try:
        outputs = [job.communicate(timeout=60) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    (dom, errors), (_, more_errors) = outputs
    found = re.search(r'<pre id="measured">(.*?)</pre>', dom, re.S)
    assert found, errors
    return Rendered(
        measured=dict(zip(WIDTHS, json.loads(unescape(found[1])), strict=True)),
        screen=Image.open(io.BytesIO((home / "screen.png").read_bytes())).convert("RGB"),
        console=[line for line in (errors + more_errors).splitlines() if "CONSOLE" in line],
        pdf=(home / "page.pdf").read_bytes(),
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_sideways(rendered: Rendered, width: int):
    measured = rendered.measured[width]
    assert measured["width"] == width
    assert measured["scroll"] == width, measured["outside"]
    assert measured["outside"] == []


def test_every_image_is_decoded_and_every_section_has_room(rendered: Rendered):
    for measured in rendered.measured.values():
        assert len(measured["images"]) == 9
        assert all(measured["images"])
        assert all(height > 40 for _, height in measured["sections"])


def test_the_console_is_quiet(rendered: Rendered):
    ours, *others = rendered.console
    assert "measuring is done" in ours  # so a message would have been seen
    assert others == []


def test_the_first_screen_shows_something(rendered: Rendered):
    screen = rendered.screen
    assert screen.size == (1440, 900)
    colors = screen.getcolors(1440 * 900)
    assert colors is not None
    paper = max(count for count, _ in colors)
    assert 0.7 < paper / (1440 * 900) < 0.99  # text, lines and bars on paper
    assert len(colors) > 100
    inked = screen.crop((60, 0, 1380, 900)).convert("L").point(lambda value: 255 * (value < 128)).getbbox()
    assert inked is not None
    assert inked[1] < 100  # from the top
    assert inked[3] > 800  # to the bottom


def test_it_prints_on_a_few_sheets_of_a4(rendered: Rendered):
    assert rendered.pdf.startswith(b"%PDF")
    sheets = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", rendered.pdf)
    assert 5 <= len(sheets) <= 10
    for width, height in sheets:  # 210 mm x 297 mm in points
        assert float(width) == pytest.approx(595.3, abs=1)
        assert float(height) == pytest.approx(841.9, abs=1)
