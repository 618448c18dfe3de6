"""Names of scores in papers, and which way is better."""

from typing import Literal, NamedTuple

VARIANTS = ("before", "control", "after")  # decoders of the same tokens: gfid_before is the gfid of the first


class Metric(NamedTuple):
    """Label and direction of a score."""

    label: str  # as papers write it
    better: Literal["lower", "higher", ""]  # "" where neither is
    frechet: bool = False  # whether it is a Frechet distance, or a mean of such


METRICS = {  # in the order of a system table's columns
    "rfid": Metric("rFID", "lower", True),
    "rfid_pfid_images": Metric("rFID of pFID's images", "lower", True),
    "pfid": Metric("pFID", "lower", True),
    "ifid": Metric("iFID", "lower", True),
    "pilot_fd": Metric("Pilot FD", "lower", True),
    "gfid": Metric("gFID", "lower", True),
    "fid": Metric("FID", "lower", True),
    "fd": Metric("FD", "lower", True),
    **{f"fdr{spaces}": Metric(f"FDr{spaces}", "lower", True) for spaces in range(6, 0, -1)},
    "sfid": Metric("sFID", "lower", True),
    "inception_score": Metric("IS", "higher"),
    "precision": Metric("Precision", "higher"),
    "recall": Metric("Recall", "higher"),
    "density": Metric("Density", "higher"),
    "coverage": Metric("Coverage", "higher"),
    "kid": Metric("KID", "lower"),
    "mind": Metric("MIND", "lower"),
    "vendi": Metric("Vendi", "higher"),
    "authpct": Metric("AuthPct", "higher"),
    "authpct_held_out": Metric("AuthPct of held-out images", ""),
    "c_t": Metric("C_T", ""),
    "steps_to_gfid": Metric("Steps to gFID", "lower"),
    "epochs_to_gfid": Metric("Epochs to gFID", "lower"),
    "lpips": Metric("LPIPS", "lower"),
    "psnr": Metric("PSNR", "higher"),
    "ssim": Metric("SSIM", "higher"),
    "off_manifold": Metric("Off the manifold", "lower"),
    "color": Metric("Color", "lower"),
    "contrast": Metric("Contrast", "lower"),
    "detail": Metric("Detail", "lower"),
    "fine_detail": Metric("Finest detail", ""),
    "codebook_use": Metric("Codebook use", "higher"),
    "codebook_perplexity": Metric("Perplexity", "higher"),
}

EFFECTS = {  # numbers of `scores.effects` that become scores: name there, metric
    "outside": "off_manifold",
    "color": "color",
    "contrast": "contrast",
    "detail": "detail",
    "fine_db": "fine_detail",
}


def metric_named(name: str) -> Metric:
    """The metric of that name, with its variant or without; of an unknown one neither way is better."""
    return METRICS.get(variant_of(name)[0], Metric(name, ""))


def variant_of(name: str) -> tuple[str, str]:
    """`gfid_before` as ("gfid", "before"); a name without a variant as it is, with ""."""
    metric, _, variant = name.rpartition("_")
    return (metric, variant) if metric in METRICS and variant in VARIANTS else (name, "")
