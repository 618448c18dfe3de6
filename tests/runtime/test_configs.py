import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from robustok.backbones.vgg import LPIPSVGG
from robustok.generators.flow import FlowSampling
from robustok.generators.sampling import Sampling
from robustok.runtime.configs import check_choices, check_least, check_shares, comments, completed, from_plain, to_plain
from robustok.tokenizer.quantizer import EMAVQ
from robustok.training.decoder_stage import PostTraining
from robustok.training.loop import Loop


@dataclass(frozen=True, kw_only=True)
class VQ:
    size: int = 512
    decay: float = 0.99

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size is {self.size}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class FSQ:
    levels: tuple[int, ...] = (8, 5, 5)


@dataclass(frozen=True, kw_only=True)
class Encoder:
    depth: int
    name: str = "vit"
    kernel: tuple[int, int] = (3, 3)


@dataclass(frozen=True, kw_only=True)
class Model:
    encoder: Encoder
    quantizer: VQ | FSQ = field(default_factory=VQ)
    teacher: VQ | None = None
    order: Literal["raster", "random"] = "raster"
    weights: dict[str, float] = field(default_factory=dict)
    stages: list[Encoder] = field(default_factory=list)
    clip: float | None = None
    folder: Path | None = None
    flag: bool = False
    anything: Any = None
    derived: int = field(default=7, init=False)


FULL = Model(
    encoder=Encoder(depth=4, kernel=(3, 5)),
    quantizer=FSQ(levels=(7, 7)),
    teacher=VQ(size=3),
    order="random",
    weights={"l1": 1.0, "perceptual": 0.5},
    stages=[Encoder(depth=1), Encoder(depth=2, name="conv")],
    clip=2.5,
    folder=Path("runs/a"),
    flag=True,
    anything={"free": [1, "two", None]},
)


def test_plain_values_name_their_types():
    assert to_plain(FSQ()) == {"type": "FSQ", "levels": [8, 5, 5]}
    assert to_plain(Model(encoder=Encoder(depth=1)))["quantizer"] == {"type": "VQ", "size": 512, "decay": 0.99}


@pytest.mark.parametrize("config", [FULL, Model(encoder=Encoder(depth=1))])
def test_round_trip_through_json(config: Model):
    assert from_plain(Model, json.loads(json.dumps(to_plain(config)))) == config


def test_a_union_is_chosen_by_type():
    kind = VQ | FSQ
    assert from_plain(kind, {"type": "FSQ", "levels": [2]}) == FSQ(levels=(2,))
    assert from_plain(kind, {"type": "VQ"}) == VQ()
    assert from_plain(VQ | None, {"size": 2}) == VQ(size=2)
    assert from_plain(VQ | None, None) is None


def test_a_field_that_is_absent_takes_its_default_and_integers_serve_as_floats():
    config = from_plain(VQ, {"decay": 1})
    assert config == VQ(decay=1.0)
    assert isinstance(config.decay, float)


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (VQ, {"sise": 4}, r"sise is not a field of VQ; did you mean 'size'\?"),
        (VQ, {"zzz": 4}, r"zzz is not a field of VQ; choose from 'size', 'decay'"),
        (Model, {"encoder": {}}, r"encoder\.depth is missing; Encoder needs it, so add it"),
        (Model, {"encoder": {"depht": 3}}, r"encoder\.depht is not a field of Encoder; did you mean 'depth'\?"),
        (Model, {"encoder": {"depth": "3"}}, r"encoder\.depth is '3'; it should be of type int"),
        (Model, {"encoder": {"depth": True}}, r"encoder\.depth is True; it should be of type int"),
        (Model, {"encoder": {"depth": 3, "kernel": [1]}}, r"encoder\.kernel is \[1\]; it should have 2 entries, not 1"),
        (Model, {"encoder": {"depth": 3}, "stages": [{"depth": None}]}, r"stages\[0\]\.depth is None; it should be"),
        (Model, {"encoder": {"depth": 3}, "weights": {"l1": "x"}}, r"weights\.l1 is 'x'; it should be of type float"),
        (Model, {"encoder": {"depth": 3}, "order": "rastr"}, r"order is 'rastr'; did you mean 'raster'\?"),
        (Model, {"encoder": {"depth": 3}, "quantizer": {"type": "FSX"}}, r"quantizer is 'FSX'; did you mean 'FSQ'\?"),
        (Model, {"encoder": {"depth": 3}, "quantizer": {"levels": [2]}}, r"quantizer is None; choose from 'VQ', 'FSQ'"),
        (Model, {"encoder": {"depth": 3}, "clip": "no"}, r"clip is 'no'; it should be float or NoneType"),
        (Model, {"encoder": {"depth": 3}, "teacher": 3}, r"teacher is 3; it should be VQ or NoneType"),
        (VQ, {"size": 10**400}, r"size is a number of more than 63 bits, which nothing here can count; give a smaller"),
        (VQ, {"decay": 10**400}, r"decay is 10+; it should be of type float"),
        (VQ, {"type": "FSQ"}, r"the config is 'FSQ'; choose from 'VQ'"),
        (VQ, [1], r"the config is \[1\]; it should be of type dict"),
        (VQ, {"size": 0}, r"size is 0; it must be at least 1"),
        (set, [1], r"the config is cannot be read as"),
    ],
)
def test_errors_name_the_place_and_the_nearest_name(kind: Any, data: Any, message: str):
    with pytest.raises(ValueError, match=message):
        from_plain(kind, data)


@pytest.mark.parametrize(
    ("value", "message"),
    [(float("nan"), "holds nan, which JSON cannot"), ({1: 2}, "holds a dict"), ([object()], "holds a object")],
)
def test_what_json_cannot_hold_is_refused(value: Any, message: str):
    with pytest.raises(ValueError, match=message):
        to_plain(Model(encoder=Encoder(depth=1), anything=value))


def test_values_that_a_field_may_not_have_are_refused_by_name():
    """NaN is no share and not at least anything."""
    check_choices(FULL)
    check_least(VQ(size=1), 1, "size")
    check_shares(VQ(decay=1.0), "decay")
    with pytest.raises(ValueError, match="order is 'rastr'; choose from 'raster', 'random'"):
        check_choices(replace(FULL, order="rastr"))  # type: ignore[arg-type]
    for decay in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"decay is {decay}; it must be at least 0"):
            check_least(VQ(decay=decay), 0, "size", "decay")
        with pytest.raises(ValueError, match=f"decay is {decay}; it is a share, choose one between 0 and 1"):
            check_shares(VQ(decay=decay), "decay")


def test_a_field_is_known_by_the_name_that_it_had_before():
    """Of Sampling and FlowSampling, as files of version 0.1 have them."""
    told = {"guided_from": 0.1, "guided_to": 0.5}
    assert from_plain(FlowSampling, told) == FlowSampling(guidance_low=0.1, guidance_high=0.5)
    assert from_plain(Sampling | FlowSampling, {"type": "Sampling", "guided": 3}) == Sampling(guided_steps=3)
    loop = to_plain(Loop(steps=2, batch_size=2))
    assert from_plain(PostTraining, {"loop": loop, "check_every": 7}).validate_every == 7
    assert from_plain(LPIPSVGG, {"heads": "random"}) == LPIPSVGG(lin_layers="random")
    with pytest.raises(ValueError, match="guided_to is not a field of FlowSampling"):
        from_plain(FlowSampling, {"guided_to": 0.5, "guidance_high": 0.6})
    with pytest.raises(ValueError, match="sampling.guided is not a field of VQ; choose from"):
        from_plain(VQ, {"guided": 3}, "sampling")


def test_fields_that_a_config_takes_from_another_are_explained_too():
    told = comments(EMAVQ)
    assert told["decay"].startswith("of the averages")
    assert told["codebook_size"] == "number of codes, K"


def test_what_an_older_version_wrote_is_completed_by_defaults():
    """As `from_plain` would read it; other values stay, and so does what is of no known type."""
    whole = to_plain(Sampling(temperature=0.5))
    older = {name: value for name, value in whole.items() if name not in ("top_p", "guidance")}
    plain = {"stage": [older, {"type": "Nobody's", "size": 3}], "images": 7}
    assert completed(plain) == {"stage": [whole, {"type": "Nobody's", "size": 3}], "images": 7}
    assert from_plain(Sampling, completed(older)) == from_plain(Sampling, older)
    to_plain(Encoder(depth=2))
    assert completed({"type": "Encoder", "name": "cnn"}) == {"type": "Encoder", "name": "cnn", "kernel": [3, 3]}


@pytest.mark.parametrize(
    ("typed", "names"), [("lite2", ("lite2",)), ("lite0,lite2", ("lite0", "lite2")), ("", ()), (["lite2"], ("lite2",))]
)
def test_names_may_be_typed_without_brackets(typed: Any, names: tuple[str, ...]):
    assert from_plain(tuple[str, ...], typed) == names
    assert from_plain(tuple[str, ...] | None, typed) == names


def test_numbers_in_a_row_are_a_list():
    with pytest.raises(ValueError, match="it should be of type list"):
        from_plain(tuple[int, ...], "3")
