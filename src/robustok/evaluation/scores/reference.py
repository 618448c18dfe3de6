"""Reference: feature statistics of real images to score against, from images or from files, ADM's and others'.

A file that others published (ADM, torch-fidelity, pytorch-fid, clean-fid) does not say what its features are; it is
taken for the extractor's that is given, and refused where that cannot be: by the number of features, and by the file's
own images where it has some.
"""

import hashlib
import json
import operator
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from robustok.evaluation.features.extractor import PLAIN, Extractor, outputs
from robustok.evaluation.features.image_source import BLOCK, ImageSource, Progress
from robustok.evaluation.features.registry import FeatureSpace, extractor
from robustok.evaluation.metrics.fid import FeatureStats, check_moments
from robustok.evaluation.scores.feature_stream import KEPT, SAMPLES, SIDE, shared_stream, stream_of
from robustok.runtime.checkpoint import is_whole, parse_json, save_tensors, stored_tensors
from robustok.runtime.distributed import from_main
from robustok.runtime.npz import Array, array_names, center_square, checksum, map_array, read_array
from robustok.runtime.places import home
from robustok.runtime.tensor_files import read_tensor_file
from robustok.runtime.words import reason
from robustok.shapes import Features, Pixels

FAR = 100  # times the squared distance that two means of the same images' features have on average
ARRAYS: list[Any] = [  # what a pickled array calls, by numpy's own names before and since numpy 2
    *((np._core.multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Feature statistics of real images, with what a score's protocol says of them."""

    stats: FeatureStats
    sample: Features  # (some images, f), as if drawn, for precision, recall and kernel distances; may be none
    images: dict[str, Any]  # what the images are, their hash among it
    space: dict[str, Any]  # what the features are
    spatial: FeatureStats | None = None  # of the spatial features, for sFID, where the space has them
    train: "Reference | None" = None  # the images that a generator was trained on, see `with_train`; not saved

    @classmethod
    def of(
        cls,
        images: ImageSource,
        features: FeatureSpace = "lite0",
        *,
        keep: int = KEPT,
        batch_size: int = BLOCK,
        progress: Progress | None = None,
    ) -> "Reference":
        """The reference that `images` are, `keep` of them at most as a sample. Several processes share the work."""
        stream = stream_of(images, features, keep=keep, batch_size=batch_size, progress=progress)
        about: dict[str, Any] = {"space": stream.space, "spatial": stream.spatial}
        return from_main(lambda: cls(stats=stream.stats, sample=stream.sample, images=images.describe(), **about))

    def with_train(self, train: "Reference") -> "Reference":
        """The same, with the images that a generator was trained on: scores then tell of memorization, too.

        `train` holds the features of all of them: `Reference.of(images, features, keep=len(images))`. Raises ValueError
        for one that holds some only, since copies of the others would go unseen, and for one of another feature space.
        """
        self.check_space(train.space)
        if not train.stats.count or len(train.sample) < train.stats.count:
            raise ValueError(
                f"the training images are {train.stats.count or 'an unknown number'}, and features of "
                f"{len(train.sample)} are kept, so copies of the others would go unseen; give the images themselves, "
                "or a reference that keeps all of them (--sample-size)"
            )
        return replace(self, train=train)

    def check_space(self, space: dict[str, Any]) -> None:
        """Raises ValueError when features of another space, or of another side, are scored against this reference.

        The side of images is known once some were looked at; until then it is not compared.
        """
        for name in {**self.space, **space}:
            if name == SIDE:
                if name in self.space and name in space and self.space[name] != space[name]:
                    raise ValueError(
                        f"{space.get('features')} looks at images at their own size: those of the reference at "
                        f"{self.space[name]} pixels, those to score at {space[name]}; give both at one size"
                    )
                continue
            own, other = (about.get(name, PLAIN.get(name)) for about in (self.space, space))
            if own != other:
                raise ValueError(
                    f"the reference was computed with {name} {own!r}, the images to score "
                    f"with {other!r}; compute both with the same extractor"
                )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, whole or not at all."""
        tensors = {"mean": self.stats.mean, "scatter": self.stats.scatter, "sample": self.sample}
        if self.spatial:
            tensors |= {"spatial_mean": self.spatial.mean, "spatial_scatter": self.spatial.scatter}
        about = {"count": self.stats.count, "images": self.images, "space": self.space, "samples": SAMPLES}
        save_tensors(path, tensors, {"robustok": "reference", "about": json.dumps(about)})

    @classmethod
    def load(cls, path: str | Path) -> "Reference":
        """Read what `save` wrote. Raises ValueError for a file that is missing, damaged or no reference.

        A sample of every n-th image, as was once taken, may miss classes; it is left out, with a warning.
        """
        remedy = "give a file that Reference.save wrote, or make the reference again from its images"
        try:
            tensors, metadata = stored_tensors(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path} cannot be read ({error}); {remedy}") from error
        if metadata.get("robustok") != "reference":
            raise ValueError(f"{path} holds no reference statistics; {remedy}")
        if not is_whole(tensors, metadata):
            raise ValueError(f"{path} is damaged, or was edited: its contents do not fit the hash in it; {remedy}")
        try:
            reference, samples = cls._read(tensors, parse_json(metadata["about"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{path} is no whole reference ({reason(error)}); {remedy}") from error
        if samples != SAMPLES and len(reference.sample) < reference.stats.count:
            warnings.warn(
                f"the sample in {path} is of every n-th image, which may miss classes, and so is left out; make the "
                "reference again to have precision, recall and the like",
                stacklevel=2,
            )
            reference = replace(reference, sample=reference.sample[:0])
        return reference

    @classmethod
    def _read(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> tuple["Reference", str | None]:
        """The reference that a file holds, and how its sample was drawn. Raises nearly anything for what is none."""

        def stats(prefix: str) -> FeatureStats:
            mean, scatter = (tensors[f"{prefix}{name}"].double() for name in ("mean", "scatter"))
            check_moments(mean, scatter)
            return FeatureStats(operator.index(about["count"]), mean, scatter)

        sample, whole = tensors["sample"].float(), stats("")
        if sample.ndim != 2 or sample.shape[1] != len(whole.mean) or not sample.isfinite().all() or whole.count < 0:
            raise ValueError(f"a count of {whole.count} and a sample of shape {tuple(sample.shape)} are not its own")
        spatial = stats("spatial_") if "spatial_mean" in tensors else None
        own: dict[str, Any] = {"stats": whole, "spatial": spatial, "sample": sample}
        return cls(**own, images=dict(about["images"]), space=dict(about["space"])), about.get("samples")


class Statistics(NamedTuple):
    """Contents of a file of statistics."""

    stats: FeatureStats
    spatial: FeatureStats | None
    images: Array | None  # uint8, (count, h, w, 3)
    about: dict[str, Any]  # what a score's protocol says of the reference


def read_reference(
    path: str | Path,
    features: FeatureSpace = "lite0",
    *,
    keep: int = KEPT,
    progress: Progress | None = None,
) -> Reference:
    """The reference in any file of statistics, for features of this extractor.

    .safetensors  what `Reference.save` wrote
    .npz          mu and sigma, as clean-fid and pytorch-fid write them; ADM's also hold mu_s and sigma_s for sFID,
                  and images, arr_0, whose features become the sample (ADM's recall is of all 10,000: keep=10_000).
                  An npz of images alone has no statistics: score against `robustok.data.npz.NpzImages`
    .pt, .pth     mu and sigma, as torch-fidelity caches them

    A file without images has no sample, and so no precision and recall. `progress` is told of the file's images.
    Raises ValueError for a file that is missing, damaged or of another kind or feature space.
    """
    path, extract = home(path), extractor(features)
    if path.suffix == ".safetensors":
        reference = Reference.load(path)
        reference.check_space(extract.describe())
        return reference
    if path.suffix not in (".npz", ".pt", ".pth"):
        raise ValueError(f"{path} is no file of statistics; give a .safetensors, .npz, .pt or .pth file")
    found = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    _check_width(path, found.stats, extract)
    sample, space = found.stats.mean.new_empty(0, len(found.stats.mean), dtype=torch.float32), extract.describe()
    if found.images is not None:
        sample, space = _sample(path, found, extract, keep, progress)
    return Reference(stats=found.stats, sample=sample, images=found.about, space=space, spatial=found.spatial)


def _read_npz(path: Path) -> Statistics:
    names = array_names(path)
    if "mu" not in names:
        remedy = "these are images, so make a reference from them" if "arr_0" in names else "give one with mu and sigma"
        raise ValueError(f"{path} has no statistics, only {', '.join(names) or 'nothing'}; {remedy}")
    arrays = {name: read_array(path, name) for name in names if name in ("mu", "sigma", "mu_s", "sigma_s")}
    if "arr_0" not in names:
        return _statistics(path, arrays, None)
    found = _statistics(path, arrays, map_array(path, "arr_0"))
    return found._replace(about=found.about | {"sample_hash": checksum(path, "arr_0")})


def _read_torch(path: Path) -> Statistics:
    arrays = read_tensor_file(path, ARRAYS)
    if not isinstance(arrays, dict) or not {"mu", "sigma"} <= arrays.keys():
        raise ValueError(f"{path} has no mu and sigma; give the statistics that torch-fidelity cached")
    return _statistics(path, {name: np.asarray(arrays[name]) for name in ("mu", "sigma")}, None)


def _statistics(path: Path, arrays: dict[str, Array], images: Array | None) -> Statistics:
    """Raises ValueError where the arrays are not what their names say."""
    for name in arrays.keys() | {"mu", "sigma"}:
        if name not in arrays:
            raise ValueError(f"{path} has no {name}; give a file that holds mu and sigma")
        if arrays[name].dtype.kind != "f":
            raise ValueError(f"{name} in {path} is of type {arrays[name].dtype}; statistics are floating-point")
    if ("mu_s" in arrays) != ("sigma_s" in arrays):
        raise ValueError(f"{path} has only one of mu_s and sigma_s; give a file with both or neither")
    if images is not None and (
        images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size
    ):
        raise ValueError(
            f"arr_0 in {path} is {images.dtype} of shape {images.shape}; images are uint8, (count, height, width, 3)"
        )
    tensors = {name: torch.from_numpy(array.astype(np.float64)) for name, array in arrays.items()}  # of any byte order
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    try:
        stats = FeatureStats.published(tensors["mu"], tensors["sigma"])
        spatial = FeatureStats.published(tensors["mu_s"], tensors["sigma_s"]) if "mu_s" in tensors else None
        for found in (stats, spatial):
            if found is not None and found.factor is None:
                _ = found.root  # which asks whether the covariance is one
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Statistics(stats, spatial, images, {"name": path.name, "hash": digest.hexdigest()[:16]})


def is_reference(path: str | Path) -> bool:
    """True for a file that says it is what `Reference.save` wrote, damaged or of an older form though it may be."""
    try:
        with safe_open(home(path), framework="pt") as file:
            return (file.metadata() or {}).get("robustok") == "reference"
    except (OSError, SafetensorError):
        return False


def _check_width(path: Path, stats: FeatureStats, extract: Extractor) -> None:
    width = outputs(extract, torch.full((1, 3, 64, 64), 128, dtype=torch.uint8)).features.shape[1]
    if width != len(stats.mean):
        raise ValueError(
            f"{path} is of {len(stats.mean)} features and {extract.describe()['features']} makes {width}; choose the "
            "extractor that the file was made with (2048 features: inception), or make a reference from the images"
        )


def _sample(
    path: Path, found: Statistics, extract: Extractor, keep: int, progress: Progress | None
) -> tuple[Features, dict[str, Any]]:
    """Features of the file's images, thinned to `keep`, and their space.

    Raises ValueError where they cannot be what the statistics are of.
    """
    images = found.images
    assert images is not None

    def pixels(indices: Tensor) -> Pixels:
        some = torch.from_numpy(np.array(center_square(images[int(indices[0]) : int(indices[-1]) + 1])))
        return some.permute(0, 3, 1, 2).contiguous()

    stream = shared_stream(pixels, len(images), extract, keep=keep, progress=progress)

    def checked() -> tuple[Features, dict[str, Any]]:
        apart = float((stream.stats.mean - found.stats.mean).square().sum())
        usual = float(found.stats.covariance.trace()) / stream.count
        if apart > FAR * usual:
            raise ValueError(
                f"the images in {path} have other features than its statistics, by {apart / usual:.0f} times what "
                "chance would do; choose the extractor that the file was made with"
            )
        return stream.sample, stream.space

    return from_main(checked)
