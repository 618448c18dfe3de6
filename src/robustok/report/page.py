"""The page itself: what a run did, in the order in which one asks."""

from pathlib import Path
from typing import NamedTuple

from robustok.report.ablation import ablation
from robustok.report.curves import codebook_use, held_out, losses
from robustok.report.document import document
from robustok.report.images import gallery
from robustok.report.markup import ALPHA, DELTA, Markup, decimals, element, number
from robustok.report.protocol import configuration, costs, protocol, sources
from robustok.report.run import GROUPS, Run, read_run
from robustok.report.scores import distances, figures, generated, headline, heat_map
from robustok.report.spaces import spaces
from robustok.report.summary import summary
from robustok.runtime.checkpoint import write_bytes

TITLE = "A tokenizer, its generator, and a decoder post-trained for it"


class Section(NamedTuple):
    """A part of the page."""

    name: str  # its anchor
    short: str  # its link
    title: str
    note: str  # how to read it
    content: list[Markup]


def write_report(run_folder: Path) -> Path:
    """Write `report.html` into a run folder, all of it or none, and return its path.

    The page needs no other file: styles, charts and images are inside it, and it has no script. What the run has
    not made yet is named on the page. Raises ValueError for a folder that holds nothing of a run.
    """
    path = Path(run_folder) / "report.html"
    write_bytes(path, page(read_run(Path(run_folder))).encode())
    return path


def page(run: Run) -> str:
    """The whole HTML document."""
    shown = [section for section in sections(run) if section.content]
    top = element(
        "header",
        element("p", f"robustok · {run.name}", class_="eyebrow"),
        element("h1", TITLE),
        element("div", element("p", summary(run), class_="summary"), headline(run), class_="lead"),
        _notice(run),
        element("nav", *(element("a", s.short, href=f"#{s.name}") for s in shown), aria_label="Sections"),
    )
    return document(f"robustok · {run.name}", top, element("main", *map(rendered, shown)))


def sections(run: Run) -> list[Section]:
    """All parts in order; one without content is left out of the page."""
    grids = {group: [grid for grid in run.grids if grid.group == group] for group in GROUPS}

    def section(name: str, short: str, title: str, note: str, *content: Markup | None) -> Section:
        return Section(name, short, title, note, [part for part in content if part is not None])

    return [
        section(
            "scores",
            "Scores",
            "Scores",
            "How far apart two sets of images are, seen by a network: 0 for the same distribution. The numbers mean"
            " something only beside each other. The floor is how far apart two sets of real images are: nothing"
            " generated should be expected below it. Before, control and after decode the same generated"
            f" {run.latents}, so no sampling noise is in their difference.",
            distances(run),
            figures(run),
            generated(run),
            spaces(run),
        ),
        section(
            "images",
            "Images",
            "Images",
            "Real images, what the tokenizer makes of them, what it makes of them with perturbed"
            f" {run.latents}, and what the generator makes of nothing but a class.",
            gallery(grids["overview"]),
        ),
        section(
            "pairs",
            "Before and after",
            f"The same {run.latents}, before and after",
            "One generated image at a time, decoded by the decoder of main training and by the post-trained one."
            " Nothing else differs.",
            gallery(grids["pairs"]),
        ),
        section(
            "changed",
            "Most changed",
            "Where post-training changed most",
            "Of the scored images, those whose pixels moved furthest.",
            gallery(grids["changed"]),
        ),
        section(
            "pfid",
            "pFID",
            "pFID, cell by cell",
            f"In every image a share {ALPHA} of the {run.latents} is {_perturbed(run)},"
            " and the distance of what is decoded to the real images is measured. pFID is the mean of all cells."
            f" The nearer they stay to rFID{_known(run, 'rfid')}, the less the errors of a generator will show.",
            heat_map(run),
        ),
        section(
            "ablation",
            "Ablation",
            "With and without perturbation",
            "The same training twice for each seed, once without latent perturbation.",
            *ablation(run),
        ),
        section(
            "losses",
            "Losses",
            "Losses",
            "Faint: every logged value. Strong: their running mean; the number beside a title is where it ended."
            " The axis is logarithmic where values span more than a factor of 30.",
            *losses(run),
        ),
        section(
            "codebook",
            "Codebook",
            "Codebook use",
            "How many codes main training keeps in use, and how evenly: a perplexity as large as the codebook would be"
            " perfectly even.",
            codebook_use(run),
        ),
        section(
            "heldout",
            "Held-out check",
            "Held-out check",
            f"Post-training can hurt. So images that no decoder learnt from, and {run.latents} generated afresh, decide"
            " which decoder is kept: the one with the lowest distance, ringed. Dashed: the original decoder.",
            held_out(run),
        ),
        section("cost", "Time", "Time and memory", "As measured in this run, on its machine.", costs(run)),
        section(
            "protocol",
            "Protocol",
            "Protocol",
            "A score can be compared only with one that was computed in the same way.",
            *protocol(run),
        ),
        section(
            "configuration",
            "Configuration",
            "Configuration",
            "Every setting, to make the run again.",
            *configuration(run),
        ),
        section("sources", "Sources", "Licences and sources", "", sources(run)),
    ]


def rendered(section: Section) -> Markup:
    """A section as the page shows it: what it is on the left, the thing itself on the right."""
    note = element("p", section.note) if section.note else None
    return element(
        "section",
        element("div", element("h2", section.title), note, class_="about"),
        element("div", *section.content, class_="body"),
        id=section.name,
    )


def _perturbed(run: Run) -> str:
    """What pFID does to tokens or latents."""
    if run.latents == "latents":
        return "brought to the noise level s, by noise around each channel's mean and as wide as it"
    return f"replaced, each by one of the {DELTA} codes nearest to it"


def _known(run: Run, metric: str) -> str:
    """The metric's value in brackets, if there is one."""
    value = run.value(metric)
    return f" ({number(value, decimals(value))})" if value is not None else ""


def _notice(run: Run) -> Markup | None:
    """What could not be shown."""
    if not run.missing:
        return None
    lines = [element("li", line) for line in run.missing]
    return element(
        "aside", element("p", "This run is not complete, so parts of the page are left out:"), element("ul", *lines)
    )
