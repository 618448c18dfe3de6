"""Cases of the fuzzer: random command lines, files damaged at random, and what was done before each."""

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from tests.fuzz import world

from robustok.cli.options import LISTING, Command, Configurable, Option, name_of, options_of
from robustok.cli.settings import to_plain
from robustok.cli.verbs import VERBS

ODD = ("", " ", "-1", "0", "1", "2", "1e3", "nan", "inf", "-inf", "null", "true", "[]", "[1", "{}", "{a: 1}", "x" * 300)
ODD += ("é", "a b", "0,1", "1-0", "..", "/dev/null", "/dev/null/x", "~", "*", "{a,b}", "[0-9]", "'", '"', "%s", "\t")
ODD += (
    "9" * 40,
    "9" * 400,
    "0x10",
    "1_0",
    "--",
    "-",
    "a=b",
    "=",
    "a:b",
    "hf:",
    "hf:x",
    "hf:x/y:z",
    "none",
    "None",
    "&a",
)
ODD += ("!!python/none x", "[" * 9999)
IMAGES = ("photos", "flat", "photos.tar", "photos.parquet", "flat.tar", "photos")
NO_IMAGES = ("empty", "broken", "nowhere", "photos/a", "*.tar", "labels.csv", "unlabelled.parquet", "photos.tar/x")
NO_IMAGES += ("http://127.0.0.1:9/x.tar", "flat.npz", "reference.safetensors", "case", "fashion-mnist")
NO_MODELS = ("generator", "tokenizer", "tokenizer/model.safetensors", "photos", "nowhere", "a/b@c", "empty", "run")
NO_FILES = ("photos", "nowhere.json", "photos.tar", "case/file")
Values = tuple[str, ...]
USUAL: dict[str, tuple[Values, Values]] = {  # what is typically typed, and what now and then, by option
    "images": (IMAGES, NO_IMAGES),
    "generated": ((*IMAGES, "flat.npz"), NO_IMAGES),
    "validation": (IMAGES, NO_IMAGES),
    "neighbors-in": (IMAGES, NO_IMAGES),
    "reference": ((*IMAGES, "flat.npz", "reference.safetensors"), (*NO_IMAGES, "published.npz", "published.pt")),
    "tokenizer": (("tokenizer",), ("continuous", *NO_MODELS)),
    "against": (("tokenizer",), NO_MODELS),
    "tuned": (("tokenizer",), NO_MODELS),
    "generator": (("generator",), ("flow", *NO_MODELS)),
    "cache": (("cache",), ("tokenizer", "nowhere", "case")),
    "out": (("case/new", "case/a/b", "case/there"), ("case/file", "case/file/x", "case/lost/x", "case")),
    "config": (("config.json", "config.yaml", "run.json"), NO_FILES),
    "labels": (("none",), ("labels.csv", "labels.txt", "label", "cls", "folder", "nowhere", "0-1", "0,5", "1")),
    "features": (("lite0", "lite0,lite0"), ("none", "")),
    "validate-features": (("lite0",), ("none",)),
    "fields": (("image_size=16",), ("image_size=x", "a=1", "image_size")),
    "seed": (("0", "-1", str(2**64)), ("7.0",)),
    "seeds": (("0", "0,1", "-3"), ("3-0",)),
    "count": (("1", "2", "8"), ("0", "120")),
    "size": (("8", "16"), ("1", "17", "0")),
    "batch-size": (("1", "3"), ("0",)),
    "validate-images": (("6", "8"), ("2", "1")),
    "validate-every": (("1", "2"), ("0",)),
    "pfid-images": (("2", "4"), ("1",)),
    "sample-size": (("5", "20"), ("1",)),
    "workers": (("1", "2"), ("0",)),
    "window": (("1", "2"), ("0",)),
    "device": (("cpu",), ("cuda", "meta", "cpu:1")),
    "name": (("ours",), ("",)),
    "metrics": (("gfid", "gfid,rfid"), ("x", "fid")),
    "baseline": (("scores",), ("x",)),
    "gpus": (("8", "1,64"), ("0", "1-4")),
    "gpu": (("H100", "A100"), ("x",)),
    "tracker": (("tensorboard",), ("wandb",)),
    "preset": (("smoke",), ("continuous-smoke", "x")),
    "PRESET": (("smoke",), ("continuous-smoke", "rar_b-smoke", "x")),
    "SCORES...": (("scores.json", "a=scores.json", "b=other.json"), ("run.json", "photos", "nowhere", "case")),
    "DIR": (("run", "case/there"), ("photos", "nowhere")),
    "FOLDER": (("tokenizer", "case/there"), ("nowhere", "photos")),
    "NAME": (("me/mine",), ("x",)),
}
EVALUATED = (("tokenizer", "images"), ("generator", "tokenizer", "reference"), ("generated", "reference"))
FILES: dict[str, Values] = {  # where verbs write that write no folder
    "evaluate": ("case/x.json",),
    "reference": ("case/x.safetensors",),
    "compare": ("case/x.md", "case/x.csv"),
    "export": ("case/x.safetensors",),
}
NUMBERS = (
    "-1",
    "0",
    "1",
    "2",
    "3",
    "8",
    "16",
    "0.5",
    "1.5",
    "1e-3",
    "null",
    "nan",
    "x",
    "[1]",
    "[]",
    "true",
    "{}",
    "''",
)
TINY = ("loop.steps", "1"), ("loop.batch_size", "2"), ("loop.log_every", "1"), ("loop.preview_every", "0")
PLAIN = (("objective.perceptual", "0"), ("objective.adversarial", "0"), ("objective.frechet", "0"))
SMALL: dict[str, tuple[tuple[str, str], ...]] = {  # settings without which a case would take seconds
    "train-tokenizer": (*TINY, *PLAIN, ("tokenizer.image_size", "16"), *world.NARROW),
    "train-generator": (*TINY, ("generator.width", "32"), ("generator.heads", "1"), ("generator.depth", "1")),
    "post-train": (*TINY, *PLAIN, ("pairs", "2")),
}
SELDOM = {
    "doctor": 0.0,
    "cost": 0.1,
    "push": 0.5,
    "report": 0.5,
    "analyze": 0.4,
}  # of verbs, for they take seconds or little to try
ALWAYS = {"push": ("--card",), "cost": ("--json",)}
OFTEN: dict[str, Values] = {  # options without which little happens
    "evaluate": ("pfid-images", "count"),
    "export": ("tokenizer",),
    "reference": ("size",),
    "train-generator": ("images",),
}


class Case(NamedTuple):
    """A command line, and what was done to files before it."""

    name: str  # "commands/17"
    argv: list[str]
    note: str = ""


def command(random: Random) -> list[str]:
    """A random command line: a verb, most of what it needs, some of what it takes, a little of anything."""
    verb = random.choices(VERBS, [SELDOM.get(name_of(verb), 1.0) for verb in VERBS])[0]
    name, settable = name_of(verb), issubclass(verb, Configurable)
    words = [name]
    for option in options_of(verb):
        if random.random() < chance(name, option):
            words += typed(name, option, random)
    words += ALWAYS.get(name, ())
    if settable and name in SMALL and random.random() < 0.9:
        words += [word for setting, value in SMALL[name] for word in (f"--{setting}", value)]
    if name == "evaluate" and random.random() < 0.9:
        words += [word for part in random.choice(EVALUATED) for word in (f"--{part}", random.choice(USUAL[part][0]))]
    for _ in range(random.choice((0, 0, 0, 0, 1, 2)) if settable else 0):
        words += a_setting(verb, random)
    if settable and random.random() < 0.03:
        words.append(f"--{LISTING}")
    return spoiled(words, random) if random.random() < 0.06 else words


def chance(verb: str, option: Option) -> float:
    """How often an option is given."""
    if option.required or option.positional:
        return 0.98
    return 0.9 if option.name in OFTEN.get(verb, ()) else 0.1


def typed(verb: str, option: Option, random: Random) -> list[str]:
    """An option with a value of its kind, or now and then with an odd one."""
    if option.positional:
        count = random.choice((1, 1, 2, 3)) if option.name.endswith("...") else 1
        return [value(verb, option, random) for _ in range(count)]
    if option.switch:
        return [f"--{option.name}"]
    chosen = value(verb, option, random)
    return [f"--{option.name}={chosen}"] if random.random() < 0.2 else [f"--{option.name}", chosen]


def value(verb: str, option: Option, random: Random) -> str:
    """What is typed as an option's value, or in an option's place."""
    usual, seldom = USUAL.get(option.name, (option.choices or NUMBERS, ODD))
    if option.name == "out" and random.random() < 0.9:
        usual = FILES.get(verb, usual)
    if verb == "analyze" and option.name == "images":
        usual = ("many.tar", "alike.tar")
    if verb == "cost" and option.positional:
        usual = ("rar_b-smoke", "robustok_imagenet256-smoke")
    return random.choice(random.choices((usual, seldom, ODD), (0.97, 0.02, 0.01))[0])


def a_setting(verb: type[Command], random: Random) -> list[str]:
    """A setting of the verb's preset, by its right or a nearly right name, with any value."""
    name = random.choice(settings_of(verb))
    if random.random() < 0.1:
        name = name[: random.randrange(len(name))] + random.choice(("", "x", ".", ".x"))
    return [f"--{name}", random.choice(NUMBERS if random.random() < 0.8 else ODD)]


@cache
def settings_of(verb: Any) -> list[str]:
    """The names of a preset's settings, but for those that only say how long it takes or need a GPU's compiler."""
    slow = ("steps", "batch_size", "compile", "image_size", "pairs", "depth", "width", "channels", "micro_batches")
    found = list(paths(to_plain(verb.start()), ""))
    return [name for name in found if name.rpartition(".")[2] not in slow]


def paths(plain: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in plain.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from paths(value, f"{prefix}{name}.")


def spoiled(words: list[str], random: Random) -> list[str]:
    """The words with one of them lost, twice, misspelt, or out of place."""
    place, words = random.randrange(len(words)), list(words)
    match random.randrange(5):
        case 0:
            del words[place]
        case 1:
            words.insert(place, words[place])
        case 2 if words[place]:
            cut = random.randrange(len(words[place]))
            words[place] = words[place][:cut] + random.choice("-=.x\\é,") + words[place][cut + 1 :]
        case 3:
            random.shuffle(words)
        case _:
            words.insert(place, random.choice(ODD))
    return words


def file_case(random: Random, root: Path) -> tuple[list[str], str]:
    """A command that reads a file, and what was done to that file, which is a copy in `case/`."""
    source, use = random.choice(world.READ)
    target = root / "case" / "in" / source.removeprefix("photos/")
    for part in world.needed(source):
        copy = root / "case" / "in" / part.removeprefix("photos/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / part, copy)
    data, note = target.read_bytes(), []
    for _ in range(random.choice((1, 1, 2, 4))):
        data, how = damaged(data, random)
        note.append(how)
    target.write_bytes(data)
    return [word.replace("IN", "case/in") for word in use], f"{source}: {', '.join(note)}"


def damaged(data: bytes, random: Random) -> tuple[bytes, str]:
    """The bytes, damaged as disks, networks, editors and other programs do, and how in words."""
    where, length = random.randrange(len(data) + 1), random.choice((1, 2, 8, 100))
    where = random.choice((where, random.randrange(min(64, len(data)) + 1), len(data) - where % (len(data) // 8 + 1)))
    match random.randrange(9):
        case 0:
            return data[:where], f"cut at {where}"
        case 1:
            return data[:where] + random.randbytes(length) + data[where + length :], f"{length} at {where} random"
        case 2:
            return data[:where] + bytes(length) + data[where + length :], f"{length} at {where} zero"
        case 3:
            return data[:where] + b"\xff" * length + data[where + length :], f"{length} at {where} 255"
        case 4:
            return data[:where] + data[where + length :], f"{length} at {where} lost"
        case 5:
            return data[:where] + data[where : where + length] * 2 + data[
                where + length :
            ], f"{length} at {where} twice"
        case 6:
            return data[:where] + random.choice(world.TEXT) + data[where:], f"text at {where}"
        case 7 if data:
            bit = where % len(data)
            return data[:bit] + bytes([data[bit] ^ 1 << random.randrange(8)]) + data[bit + 1 :], f"a bit at {bit}"
    odd = random.choice((b"", b"\n", b"\0" * 512, random.randbytes(600), data * 2, data[::-1]))
    return odd, f"all of it replaced by {len(odd)} bytes"


def made(seed: int, name: str, root: Path) -> Case:
    """The case of a name, with the files that it reads and a fresh place to write to."""
    world.fresh(root)
    random = Random(f"{seed} {name}")
    return Case(name, command(random)) if name.startswith("commands/") else Case(name, *file_case(random, root))
