"""Every verb: its name, its options, what it reads and what it writes. `robustok --help` is made of nothing else."""

import argparse
import re
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from robustok.cli.options import Option, Verb, bold, table

MOST = 10**6  # numbers that a range stands for, at most


def numbers(text: str) -> tuple[int, ...]:
    """`0,3` or `0-9` or both, as numbers in that order; a number may be negative."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(-?\d{1,40})(?:-(-?\d{1,40}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not 0 <= last - first < MOST:
            raise argparse.ArgumentTypeError(f"{_short(text)} are no numbers; write them like 0,3 or 0-9")
        found += range(first, last + 1)
    return tuple(found)


def seed(text: str) -> int:
    """A seed: any whole number, as Python and the settings of training take it."""
    if not re.fullmatch(r"-?\d{1,1000}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{_short(text)} is no seed; give a whole number")
    return int(text)


def at_least_one(text: str) -> int:
    """A count."""
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{_short(text)} is no count; give a whole number from 1 up")
    return int(text)


def _short(text: str) -> str:
    """What was typed, in quotation marks, not more than a line of it."""
    return repr(text if len(text) <= 60 else text[:57] + "...")


PRESETS = ("demo", "smoke", "continuous", "continuous-smoke")
TOKENIZERS = (
    "robustok_imagenet256",
    "robustok_unperturbed",
    "robustok_unannealed",
    "robustok_beta_half",
    "robustok_annealed_to_zero",
    "robustok_reference_code",
    "continuous_imagenet256",
)
GENERATORS = ("rar_b", "rar_l", "llamagen_b", "llamagen_l", "sit_xl", "lightningdit_xl")
DECODERS = ("post_robustok", "post_off_the_shelf", "post_reference_code")
SIZES = ("", "-one_gpu", "-smoke")  # of each of these: the paper's, and two others


def which(name: str, *recipes: str) -> Option:
    """The preset of a stage: one of the demo's, or a recipe on ImageNet in one of three sizes."""
    return Option(
        name,
        "demo (for two CPU cores; change what you like of it) or smoke (a few steps, to try a path); continuous and "
        "continuous-smoke are the same without a codebook. On ImageNet (docs/recipes.md), each also with -one_gpu (the "
        f"same batch in parts, for 24 GB) or -smoke behind it: {', '.join(recipes)}",
        "NAME",
        choices=(*PRESETS, *(f"{recipe}{size}" for recipe in recipes for size in SIZES)),
        default=None if name.isupper() else "demo",
    )


IMAGES = Option(
    "images",
    "a folder of images, one sub-folder per class or all in one place; tar shards ('train-{000..127}.tar', also at an "
    "http address); parquet files; hf:OWNER/NAME[:SPLIT] of the Hugging Face hub, or a folder of its save_to_disk; or "
    "fashion-mnist, which is embedded",
    "FOLDER|TAR|PARQUET|hf:NAME|fashion-mnist",
    required=True,
)
VIEW = (
    Option("upscale", "enlarge images that are smaller than the crop, rather than refuse them"),
    Option("no-flip", "mirrored images do not belong to the set (not for fashion-mnist; text, left and right shoes)"),
    Option(
        "labels",
        "what tells the classes, where it is not found: a file such as LOC_val_solution.csv (for a folder), a field as "
        "cls or json:label (tar), a column (parquet, hf); or none",
        "FILE|NAME",
    ),
    Option(
        "window", "tar shards, or row groups of parquet files, that an epoch mixes, for slow disks", "N", at_least_one
    ),
    Option(
        "broken",
        "images that cannot be read: skip (found in advance, as is usual for folders of up to 20,000), fail (when met, "
        "as is usual otherwise), replace (by the next one of the class)",
        choices=("skip", "fail", "replace"),
    ),
    Option("workers", "threads that decode images; as many as there are cores unless given", "N", at_least_one),
)
LABELS = next(option for option in VIEW if option.name == "labels")
SCORED_VIEW = tuple(  # of images that are scored, which need no classes and are not mirrored
    replace(option, help=f"{option.help} (scores need no classes)") if option is LABELS else option for option in VIEW
)
CACHE_IMAGES = Option(IMAGES.name, IMAGES.help, IMAGES.value)
OTHERS = "or another family's file, folder, or owner/repository[:file][@revision] on the hub"
TOKENIZER = Option(
    "tokenizer", f"a folder that train-tokenizer or post-train wrote, {OTHERS}", "NAME", Path, required=True
)
GENERATOR = Option("generator", f"a folder that train-generator wrote, {OTHERS}", "NAME", Path, required=True)
FIELDS = Option(
    "fields",
    "what the tokenizer's file does not tell, such as image_size=384; may come several times",
    "NAME=VALUE",
    default=[],
)
CACHE = Option("cache", "instead of images: a folder that encode wrote for this tokenizer", "DIR", Path)
OUT = Option("out", "folder to write to", "DIR", Path, required=True, writes="folder")
CONFIG = Option("config", "a JSON or YAML file of settings; may come several times", "FILE", Path, default=[])
DEVICE = Option("device", "cpu, cuda, cuda:1 ...; without it, cuda if there is one", "NAME")
SEED = Option("seed", "everything random derives from it: any whole number", "N", seed, default=0)
OWN_SEED = Option(SEED.name, f"{SEED.help}; else that of the settings, 0", "N", seed)
SIZE = Option(
    "size",
    "side of the images in pixels, where no tokenizer decides it: 32 for fashion-mnist, else 256",
    "N",
    at_least_one,
)
QUIET = Option("quiet", "say nothing on the way")
TRACKER = Option(
    "tracker",
    "where metrics also go, beside metrics.jsonl; may come several times",
    default=[],
    choices=("tensorboard", "wandb", "trackio"),
)


def looks(option: Option, count: int) -> tuple[Option, ...]:
    """What is looked at while a model trains, on so many images, and where it is told."""
    return (
        option,
        Option("check-every", "steps between two looks; a tenth of them all unless given", "N", at_least_one),
        Option("check-images", "images of a look", "N", at_least_one, default=count),
        Option("check-features", "feature space of its distances; lite0, or that of a file of statistics", "NAME"),
        TRACKER,
    )


RUN, TRAIN, USE, MEASURE, LOOK = "Start here", "Train", "Use", "Measure", "Look"

VERBS = (
    Verb(
        "demo",
        RUN,
        "the whole method on embedded images, from nothing to a page of results",
        "Trains a tokenizer with latent perturbation, a generator on its tokens or continuous latents, and the decoder "
        "for the generator; scores each step. Reads only what is embedded in the package: Fashion-MNIST and "
        "EfficientNet-Lite0.\n"
        "Writes report.html, scores.json, config.json, images/ and one folder per stage into --out.\n"
        "Not all is as in the paper: beta is 0.5 and delta 3.9 % of the codes (paper: 0.1 and 2.4 %), post-training "
        "has a tenth of main training's learning rate (paper: half), losses an L1 and a Frechet term (paper: none).",
        "robustok.cli.whole:demo",
        (
            Option("latent", "what the generator models", choices=("discrete", "continuous"), default="discrete"),
            Option("preset", "which run", choices=("default", "short", "smoke"), default="default"),
            Option("out", "folder to write to; runs/demo, runs/continuous or runs/corners unless given", "DIR", Path),
            OWN_SEED,
            Option("no-control", "leave out the control: the decoder tuned as long on clean latents"),
            Option("ablate", "also train without perturbation, once per seed, and compare"),
            Option("corners", "discrete and continuous, without and with perturbation, once per seed: a table"),
            Option("seeds", "of --ablate and --corners, 0,1,2 unless given", "N,N,N", numbers),
            CONFIG,
            QUIET,
        ),
        preset="robustok.cli.whole:demo_preset",
        chosen_by=("preset", "latent"),
        resumes=True,
    ),
    Verb(
        "train-tokenizer",
        TRAIN,
        "stage 1: a tokenizer, with latent perturbation",
        "Main training. Reads images; with --tokenizer, a tokenizer of any family with a codebook, which is trained "
        "further.\n"
        "Writes model.safetensors, config.json, metrics.jsonl, previews/, discriminator/ and best/ into --out.\n"
        "Folders are taken in color: tokenizer.channels is 3 for them unless it is set.\n"
        "The preset demo leaves the paper in some points, see robustok demo --help; robustok_imagenet256 does not.",
        "robustok.cli.stages:train_tokenizer",
        (
            which("PRESET", *TOKENIZERS),
            Option("tokenizer", f"train this one further: a folder of a tokenizer, {OTHERS}", "NAME", Path),
            FIELDS,
            IMAGES,
            OUT,
            *VIEW,
            *looks(
                Option(
                    "validation",
                    "other images, whose rFID, pFID and PSNR are watched, and by whose pFID best/ is chosen",
                    IMAGES.value,
                ),
                2000,
            ),
            Option("pfid-images", "of --check-images, those of pFID, each decoded 15 times", "N", at_least_one, 500),
            OWN_SEED,
            CONFIG,
            DEVICE,
            QUIET,
        ),
        preset="robustok.cli.stages:tokenizer_preset",
        resumes=True,
        shared=True,
    ),
    Verb(
        "train-generator",
        TRAIN,
        "stage 2: a generator of a tokenizer's tokens or latents",
        "Reads a tokenizer, and images or a cache of them; encodes images once into OUT/tokens or OUT/latents, then "
        "trains on those: an "
        "autoregressive transformer on tokens, a diffusion transformer on latents where there is no codebook.\n"
        "Writes model.safetensors, config.json, metrics.jsonl, previews/ and best/ into --out.\n"
        "generator.codebook_size, .tokens and .channels follow from the tokenizer, generator.classes from the images.",
        "robustok.cli.stages:train_generator",
        (
            which("PRESET", *GENERATORS),
            TOKENIZER,
            FIELDS,
            CACHE_IMAGES,
            CACHE,
            OUT,
            *VIEW,
            *looks(
                Option(
                    "reference",
                    "real images, or statistics of such as for evaluate, to which gFID is watched, by which best/ is "
                    "chosen",
                    "IMAGES|FILE",
                ),
                1000,
            ),
            OWN_SEED,
            CONFIG,
            DEVICE,
            QUIET,
        ),
        preset="robustok.cli.stages:generator_preset",
        resumes=True,
        shared=True,
    ),
    Verb(
        "post-train",
        TRAIN,
        "stage 3: a tokenizer's decoder, tuned for one generator",
        "Reads a tokenizer, a generator trained on its tokens, and the images both were trained on. The generator "
        "draws all but a share sigma of each image's tokens anew; the decoder learns to give the image back. Some of "
        "the images, of every class alike, are left out and decide which decoder is kept, which may be the original.\n"
        "Writes the tuned tokenizer, metrics.jsonl, tokens/ and pairs/ into --out, and with --control a second one, "
        "tuned as long on clean latents, into OUT/control.\n"
        "pairs and held_out, unless set, are as many as the images allow; sigma is 0.7, or 0.9 for tokenizers of other "
        "families; other families are sampled as published, where that is known.\n"
        "The usual presets have a tenth of main training's learning rate, an L1 and a Frechet term; the paper has half "
        "of that rate and neither term. post_robustok is as the paper.",
        "robustok.cli.stages:post_train",
        (
            which("preset", *DECODERS),
            TOKENIZER,
            FIELDS,
            GENERATOR,
            IMAGES,
            OUT,
            Option("control", "also tune as long on clean latents, to see what the generator's latents bought"),
            Option(
                "features",
                "feature space in which held-out images decide; lite0 at the images' own size, 64 to 224 pixels, "
                "unless given",
                "NAME",
            ),
            *VIEW,
            TRACKER,
            OWN_SEED,
            CONFIG,
            DEVICE,
            QUIET,
        ),
        preset="robustok.cli.stages:decoder_preset",
        resumes=True,
        shared=True,
    ),
    Verb(
        "encode",
        USE,
        "the tokens or latents of images, for generators to be trained on",
        "Reads a tokenizer and images. Says how much it will write, and writes shards of tokens (2 bytes each) or of "
        "latents (float16) into --out, which train-generator takes as --cache.\n"
        "Any number of processes may share the work: start it under torchrun, or the same command several times, also "
        "on several machines that share the folder.",
        "robustok.cli.encode:encode",
        (
            TOKENIZER,
            FIELDS,
            IMAGES,
            OUT,
            Option("ten-crop", "five crops of each image and their mirror images, as LlamaGen trains on"),
            *VIEW,
            Option("batch-size", "images that the tokenizer encodes at once", "N", at_least_one, default=256),
            DEVICE,
            QUIET,
        ),
        resumes=True,
    ),
    Verb(
        "sample",
        USE,
        "images from a generator and a tokenizer",
        "Reads a generator and a tokenizer.\n"
        "Writes grid.png and samples.npz (arr_0: uint8, images x height x width x 3, as ADM's; arr_1: labels) into "
        "--out. Image i depends on the seed and i alone.\n"
        "Settings say how tokens are drawn: --temperature, --top-k, --top-p, --guidance, --schedule, --power; or how "
        "latents are: --steps, --method, --guidance, --guided-to, --shift. Unless set, as published if that is known.",
        "robustok.cli.results:sample",
        (
            GENERATOR,
            TOKENIZER,
            FIELDS,
            OUT,
            Option("labels", "classes by number, taken in turn; all unless given", "0-9|0,3", numbers),
            Option("count", "how many images", "N", at_least_one, default=100),
            Option("png", "also write every image as a PNG of its own, into OUT/images"),
            SEED,
            CONFIG,
            DEVICE,
            QUIET,
        ),
        preset="robustok.cli.results:sampling_preset",
        shared=True,
    ),
    Verb(
        "export",
        USE,
        "a model of another family, as its authors' code loads it",
        "Reads a tokenizer or a generator that is not robustok's own, such as one whose decoder was tuned.\n"
        "Writes one file in the original layout, or for models of diffusers a folder; nothing is overwritten.",
        "robustok.cli.export:export",
        (
            Option("tokenizer", TOKENIZER.help, "NAME", Path),
            FIELDS,
            Option("generator", GENERATOR.help, "NAME", Path),
            Option("out", "file to write (.safetensors, or a torch file), or folder", "PATH", Path, required=True),
            QUIET,
        ),
    ),
    Verb(
        "push",
        USE,
        "a model to the Hugging Face hub, with a model card",
        "Reads the folder of a model: one that a train verb, post-train or save_pretrained wrote, or best/ in it. "
        "Writes README.md into it, unless there is one, and uploads that, the weights, config.json, scores.json, "
        "run.json and the discriminator; never the state that a run resumes from. load_tokenizer and load_generator "
        "then take the name.\n"
        "The card tells recipe, scores and data; keep scores with evaluate --out FOLDER/scores.json.",
        "robustok.cli.push:push",
        (
            Option("FOLDER", "the folder of the model", kind=Path),
            Option("NAME", "owner/name on the hub; made if it is not there"),
            Option("private", "a new repository is yours alone"),
            Option("license", "of the weights: an identifier of the hub, such as apache-2.0", "NAME"),
            Option("data-license", "of the images it was trained on, where it is not known", "NAME"),
            Option("card", "only write README.md, to read it or change it first"),
        ),
    ),
    Verb(
        "evaluate",
        MEASURE,
        "scores of a tokenizer, of a generator, or of images",
        "--tokenizer and --images: rFID, pFID and its cells, PSNR, SSIM; codebook use, or iFID without a codebook.\n"
        "--generator, --tokenizer and --reference: gFID, precision, recall, density, coverage, KID, MIND; in the space "
        "inception also sFID and the Inception Score. Settings say how the generator is sampled, as for sample.\n"
        "--generated and --reference: the same of any two sets of images.\n"
        "Reads those. Writes a table, or JSON records with --json; --out keeps the records in a file. "
        "Under torchrun the processes share the work; the scores are those of one.",
        "robustok.cli.evaluate:evaluate",
        (
            Option("tokenizer", TOKENIZER.help, "NAME", Path),
            FIELDS,
            Option("generator", GENERATOR.help, "NAME", Path),
            Option(
                "images",
                "real images for the tokenizer to reconstruct: a folder, an npz of its size, or fashion-mnist (the "
                "validation part)",
                "FOLDER|NPZ|TAR|fashion-mnist",
            ),
            Option(
                "generated",
                "images to score: a folder, or an npz (arr_0: uint8, images x height x width x 3)",
                "FOLDER|NPZ|TAR",
            ),
            Option(
                "reference",
                "what they are scored against: real images (folder, npz, fashion-mnist), or statistics of such, which "
                "`robustok reference`, ADM, clean-fid, pytorch-fid or torch-fidelity wrote (.safetensors, .npz, .pt)",
                "IMAGES|FILE",
            ),
            Option(
                "against", "another tokenizer of the same tokens: compare both decoders, image by image", "DIR", Path
            ),
            Option(
                "features",
                "spaces to score in, one or several of lite0, lite2, vgg-hed, inception, dinov2, clip, siglip2, mae "
                "and convnextv2; unless given that of a file of statistics, else lite0",
                "NAME,...",
            ),
            Option("fdr", "also the mean of the distances in several spaces, each over that of ImageNet at 256 pixels"),
            Option("lpips", "also the LPIPS of reconstructions"),
            Option("count", "images to generate, all classes equally often", "N", at_least_one, default=5000),
            Option(
                "pfid-images",
                "images that each cell of pFID perturbs, and of iFID; all unless given",
                "N",
                at_least_one,
            ),
            Option(
                "neighbours-in",
                "images among which iFID looks for neighbours, for example the training set, as its paper does; those "
                "of pFID unless given",
                "FOLDER|NPZ|TAR",
            ),
            Option(
                "sample-size",
                "images of each set, at most, for precision, recall, density, coverage, KID and MIND",
                "N",
                at_least_one,
                default=2000,
            ),
            Option(
                "size",
                "side in pixels at which the images of folders are scored, center crops as ADM's; that of the first "
                "image of --generated unless given",
                "N",
                at_least_one,
            ),
            *SCORED_VIEW,
            Option("batch-size", "images that the tokenizer decodes at once", "N", at_least_one, default=125),
            SEED,
            Option("name", "of the system, for compare; runs of one name are its seeds", "NAME"),
            Option("json", "print records rather than a table"),
            Option("out", "file to write the records to", "FILE", Path, writes="file"),
            CONFIG,
            DEVICE,
            QUIET,
        ),
        preset="robustok.cli.results:sampling_preset",
    ),
    Verb(
        "reference",
        MEASURE,
        "statistics of real images, to score others against",
        "Reads images. Writes one file with the mean and covariance of their features and a sample of them, and says "
        "what it is of. A file that holds another reference is left alone.",
        "robustok.cli.evaluate:reference",
        (
            Option(
                "images",
                "a folder of images, tar shards ('*.tar'), an npz (arr_0: uint8, images x height x width x 3), or "
                "fashion-mnist (the validation part)",
                "FOLDER|NPZ|TAR|fashion-mnist",
                required=True,
            ),
            Option("out", "file to write, .safetensors", "FILE", Path, required=True, writes="file"),
            Option(
                "features",
                "space to compute them in: lite0, lite2, vgg-hed, inception, dinov2, clip, siglip2, mae or convnextv2",
                "NAME",
                default="lite0",
            ),
            Option(
                "size",
                "side of the center crops of a folder in pixels: 256, and 32 for fashion-mnist, unless given",
                "N",
                at_least_one,
            ),
            *SCORED_VIEW,
            Option("sample-size", "images whose features are kept, at most", "N", at_least_one, default=2000),
            Option("overwrite", "replace a file that holds another reference"),
            DEVICE,
            QUIET,
        ),
    ),
    Verb(
        "compare",
        MEASURE,
        "a table of several systems, and what the gaps between them mean",
        "Reads files that evaluate --out wrote, and folders that demo wrote. A system is what a file is named by "
        "NAME=FILE, else by --name of evaluate, else where it lies; files of one name are its runs, and its scores the "
        "means over them. The decoders of one run are NAME:before, NAME:control and NAME:after.\n"
        "Scores that were not computed alike are refused, with the first thing that differs.\n"
        "Writes the table, and a sentence for each gap to the baseline: whether it is within the noise, over seeds "
        "(the same seeds are paired), else over images.",
        "robustok.cli.compare:compare",
        (
            Option("SCORES...", "files or folders, as FILE or NAME=FILE"),
            Option("metrics", "columns, in this order; all usual ones unless given", "rfid,gfid,..."),
            Option("baseline", "system that the others are compared with; the first unless given", "NAME"),
            Option("format", "of the table; else by the suffix of --out", choices=("markdown", "latex", "csv", "html")),
            Option("out", "file to write to: .md, .tex, .csv or .html", "FILE", Path, writes="file"),
            Option("force", "compare what was not computed alike, unranked, with a note on the table"),
            QUIET,
        ),
    ),
    Verb(
        "analyze",
        MEASURE,
        "why a generator's images differ from the tokenizer's reconstructions",
        "Reads a tokenizer, the generator of its tokens, real images, and if given the tokenizer that post-train made. "
        "Tells how often, where and how far generated tokens leave real ones, how the codes are used, which "
        "perturbation imitates the generator, and what that does to images: off the real ones, color, detail.\n"
        "Writes analysis.json and analysis.html, a page with charts that needs no other file, into --out.\n"
        "Without a codebook: how far latents that come back from noise are from real ones, which noise imitates the "
        "generator; numbers only.\n"
        "Settings say how tokens are drawn, as for sample: give those that the generator is used with.",
        "robustok.cli.analyze:analyze",
        (
            TOKENIZER,
            FIELDS,
            GENERATOR,
            Option("images", f"real images: {IMAGES.help} (its validation part here)", IMAGES.value, required=True),
            OUT,
            Option("tuned", "the tokenizer after post-train, to compare on the same tokens", "DIR", Path),
            Option(
                "count", "images to analyze; as many others are what they are compared with", "N", at_least_one, 1000
            ),
            Option("features", "feature space that images are compared in", "NAME", default="lite0"),
            *SCORED_VIEW,
            SEED,
            CONFIG,
            DEVICE,
            QUIET,
        ),
        preset="robustok.cli.results:sampling_preset",
    ),
    Verb(
        "report",
        LOOK,
        "one HTML page of a run",
        "Reads a run's folder, finished or not. Writes report.html into it, which needs no other file.",
        "robustok.cli.results:report",
        (Option("DIR", "the folder that `robustok demo` wrote to", kind=Path, writes="folder"),),
    ),
    Verb(
        "doctor",
        LOOK,
        "what this machine has, and what each extra would add",
        "Reads nothing but the machine, writes nothing but a page on the screen: versions, cores, memory, device, "
        "precision, the embedded data and weights, Chromium, extras.",
        "robustok.cli.doctor:doctor",
        (),
    ),
)


def overview() -> str:
    """What `robustok --help` says."""
    parts = [
        f"{bold('robustok')}  image tokenizers that generators can rely on: latent perturbation, pFID, decoder "
        "post-training",
        "usage: robustok <verb> [options]",
    ]
    for group, verbs in groupby(VERBS, key=lambda verb: verb.group):
        parts.append(f"{bold(group)}\n{table((f'{verb.name:<17}', verb.line) for verb in verbs)}")
    parts.append("robustok <verb> --help says what a verb reads and writes. robustok --version says which one this is.")
    return "\n\n".join(parts)
