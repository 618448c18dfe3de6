"""The page of `robustok analyze`: where a generator leaves real images, and what that does to the pictures."""

from robustok.evaluation.analysis.analyze import Analysis, Result
from robustok.report.analysis_charts import far_chart, places_charts, plane_chart, spectrum_chart
from robustok.report.analysis_tables import (
    cells_table,
    changes_table,
    code_figures,
    colors_table,
    departures_table,
    effects_table,
    far_table,
    ranks_table,
    targets_table,
)
from robustok.report.document import document
from robustok.report.findings import VIEW, cell_name, findings
from robustok.report.images import gallery
from robustok.report.markup import ALPHA, DELTA, Markup, element, percent
from robustok.report.page import Section, rendered
from robustok.report.run import Grid
from robustok.report.tables import definitions

TITLE = "Why generation differs from reconstruction"


def page(result: Result, grids: list[Grid]) -> str:
    """The whole HTML document, which needs no other file. `grids` show some images of every set."""
    shown = [section for section in sections(result.analysis, grids) if section.content]
    top = element(
        "header",
        element("p", "robustok analyze", class_="eyebrow"),
        element("h1", TITLE),
        element("ol", *(element("li", text) for text in findings(result.analysis)), class_="summary found"),
        element("nav", *(element("a", s.short, href=f"#{s.name}") for s in shown), aria_label="Sections"),
    )
    return document("robustok analyze", top, element("main", *map(rendered, shown)))


def sections(analysis: Analysis, grids: list[Grid]) -> list[Section]:
    """All parts, in the order in which one asks."""
    return [
        Section(
            "images",
            "Images",
            "Images",
            "The same places of every set: real images, their reconstructions, these with perturbed tokens, and images "
            "generated for the same classes.",
            _kept(gallery(grids)),
        ),
        Section(
            "tokens",
            "Tokens",
            "Where tokens leave the real ones",
            f"{ALPHA}: share of places with another token than the real image. {DELTA}: a perturbation that draws from "
            "so many nearest codes has the same median neighbour rank. A real image is one of many that a label, or a "
            "prefix, allows, so a departure is no mistake by itself: compare with another real image of the class.",
            _kept(departures_table(analysis), places_charts(analysis), ranks_table(analysis)),
        ),
        Section(
            "codes",
            "Codes",
            "How the codebook is used",
            "Two samples differ even when their distributions do not; each floor is what other real images come to.",
            _kept(code_figures(analysis)),
        ),
        Section(
            "latents",
            "Latents",
            "Which perturbation imitates the generator",
            "Squared maximum mean discrepancy of latents, 0 where distributions are equal. Generated tokens are set "
            "beside real tokens perturbed by each strength; pFID's cells are outlined. An imitation is one that is "
            "nearer than the unperturbed tokens are.",
            _kept(
                targets_table(analysis),
                cells_table(analysis, analysis.imitation.target("generated", VIEW)),
                far_table(analysis, analysis.imitation.target("generated", VIEW)),
            ),
        ),
        Section(
            "plane",
            "Plane",
            "Latents in two dimensions",
            "The plane in which the latents of real images vary most, "
            f"{percent(sum(analysis.plane['share']))} of their variance. One point is one image. Beside it, how far "
            "perturbed latents get from real ones.",
            [element("div", plane_chart(analysis), far_chart(analysis), class_="beside")],
        ),
        Section(
            "effects",
            "Effects",
            "What it does to images",
            "Every set beside the same real images; the first row, other real images, shows what is left when nothing "
            "is wrong. Distance: to the nearest real image. Color and contrast: Wasserstein-1 distance of the images' "
            "mean L*, a*, b* and of their spreads. Detail: deviation of the power spectrum; coarse, middle, fine: the "
            "power of its octaves, below 0 where some is missing. In small print: 95 % intervals over images. "
            f"Perturbed as departing: with the {ALPHA} and {DELTA} of teacher forcing.",
            _kept(effects_table(analysis.effects), spectrum_chart(analysis), colors_table(analysis.effects)),
        ),
        Section(
            "changes",
            "Post-training",
            "Before and after post-training",
            "The tuned decoder less the original one on the same tokens, image by image.",
            _kept(changes_table(analysis.changes)),
        ),
        Section("protocol", "Protocol", "Protocol", "What to repeat to get these numbers.", _kept(protocol(analysis))),
    ]


def protocol(analysis: Analysis) -> Markup | None:
    p = analysis.protocol
    images, sampling = p["images"], p["sampling"]
    drawn = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sampling.items() if name != "type")
    resize = f", {p['resize']}" if "resize" in p else ""
    facts = {
        "Images": f"{p['count']} and as many others of {images.get('name', 'a set')} ({images['count']})",
        "Sampling": f"{drawn}; seed {p['seed']}",
        "Tokens": f"{p['tokens_per_image']} an image, of {p['codebook_size']} codes",
        "Features": f"{p['features']}{resize}",
        "Generator": f"fingerprint {p['generator']}",
        "Perturbed": f"{cell_name(p['perturbed'])}, the middle cell of pFID",
        "Perturbed as departing": f"{cell_name(p['perturbed as departing'])}, as teacher forcing",
    }
    return definitions("facts", *((name, fact, None) for name, fact in facts.items()))


def _kept(*content: Markup | None) -> list[Markup]:
    return [part for part in content if part is not None]
