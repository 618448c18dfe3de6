"""`robustok analyze`."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from robustok.cli.arguments import OF_IMAGES, Count, Folder, GeneratorName, OutFolder, TokenizerName, View
from robustok.cli.kinds import Sampled
from robustok.cli.options import Verbose


@dataclass(frozen=True, kw_only=True)
class Analyze(Sampled, View, Verbose):
    """Why a generator's images differ from the tokenizer's reconstructions.

    Reads a tokenizer, the generator of its tokens, real images, and if given the tokenizer that post-train made. Tells
    how often, where and how far generated tokens leave real ones, how the codes are used, which perturbation imitates
    the generator, and what that does to images: off the real ones, color, detail.

    Writes analysis.json and analysis.html, a page with charts that needs no other file, into --out.

    Without a codebook: how far latents that come back from noise are from real ones, which noise imitates the
    generator; numbers only.

    Settings say how tokens are drawn, as for sample: give those that the generator is used with.
    """

    group = "Measure"

    tokenizer: TokenizerName
    generator: GeneratorName
    images: Annotated[str, replace(OF_IMAGES, help=f"real images: {OF_IMAGES.help} (its validation part here)")]
    out: OutFolder
    tuned: Folder | None = None  # the tokenizer after post-train, to compare on the same tokens
    count: Count = 1000  # images to analyze; as many others are what they are compared with
    features: str = "lite0"  # feature space that images are compared in

    def run(self) -> None:
        """Numbers in `analysis.json`, the main ones printed; of tokens also `analysis.html`, with charts and images."""
        from robustok.analysis.latents import analyze_latents
        from robustok.analysis.page import page
        from robustok.analysis.tokens import analyze
        from robustok.cli.images import check_reading
        from robustok.cli.models import tokenizer_named
        from robustok.evaluation.features.registry import extractor
        from robustok.generators.protocol import makes

        check_reading(self, self.images)
        device, tokenizer, generator = self.opened()
        tuned = tokenizer_named(self.tuned, device, self.fields) if self.tuned else None
        images = self._images(tokenizer.image_size, generator.null_class)
        how: dict[str, Any] = {"count": self.count, "seed": self.seed, "progress": self._progress()}
        how["sampling"] = self.sampling(generator)
        if makes(generator) == "latents":
            if tuned is not None:
                raise ValueError(
                    "of latents the decoder changes nothing; compare decoders by robustok evaluate --against"
                )
            analysis = analyze_latents(tokenizer, generator, images, **how)
            self._finish(analysis)
        else:
            space = extractor(self.features, device)
            result = analyze(tokenizer, generator, images, tuned=tuned, features=space, **how)
            self._finish(result.analysis, lambda: page(result))

    def _images(self, size: int, null_class: int) -> Any:
        """The real images. Those without classes get the label that stands for none, and a warning says so.

        Raises ValueError for images of more classes than the generator knows.
        """
        from robustok.cli.images import images_of

        view = replace(self, window=None)  # an analysis has no epochs
        try:
            images, why = images_of(self.images, size, view, split="validation"), "they are of one class"
        except ValueError as error:
            if view.labels is not None:
                raise
            images, why = images_of(self.images, size, view.scored(), split="validation"), str(error)
        if len(images.classes) == 1 < null_class:
            warnings.warn(f"the generator is asked for images of no class: {why}", stacklevel=2)
            images.labels.fill_(null_class)
        elif len(images.classes) > null_class:
            raise ValueError(
                f"the generator knows {null_class} classes, and the images in {self.images} have "
                f"{len(images.classes)}; give images of the classes that it was trained on, or add --labels none"
            )
        return images

    def _progress(self) -> Callable[[str, int, int], None]:
        """Progress of one step after the other."""
        from robustok.runtime.logging import Progress

        bar: Progress | None = None

        def tell(name: str, done: int, total: int) -> None:
            nonlocal bar
            if bar is None or bar.name != name:
                bar = Progress(name, total, quiet=self.quiet).__enter__()
            bar.update(done)
            if done == total:
                bar.__exit__(None, None, None)

        return tell

    def _finish(self, analysis: Any, page: Callable[[], str] | None = None) -> None:
        """Print the tables, then write the files; without a page, that of an earlier analysis goes away.

        Where a file cannot be written, the tables are printed in any case.
        """
        from robustok.analysis.page import text
        from robustok.runtime.checkpoint import write_bytes, write_json

        said = text(analysis)
        self.say(said)
        html = self.out / "analysis.html"
        try:
            write_json(self.out / "analysis.json", asdict(analysis))
            if page is None:
                html.unlink(missing_ok=True)
            else:
                write_bytes(html, page().encode())
        except OSError:
            if self.quiet:
                print(said, flush=True)
            raise
        self.say(f"\nnumbers: {self.out / 'analysis.json'}" + (f"\npage: {html}" if page else ""))
