"""What `import robustok` offers refuses in one line what cannot be meant; any whole number is a seed."""

import copy
import math

import numpy as np
import pytest
import torch

import robustok
from robustok.adapters.maskgit import MaskGITVQGAN, MaskGITVQGANConfig
from robustok.adapters.vqgan import VQGAN
from robustok.generators.noise import noise_stream, uniforms
from robustok.generators.sampling import Sampling
from robustok.runtime.seeding import derive
from tests.training.tiny import coarse, generator, images, tokenizer

pytestmark = pytest.mark.usefixtures("unchecked")  # annotations would refuse some of it before our own errors do


@pytest.fixture(scope="module")
def models():
    return generator(), tokenizer()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "labels are empty; give the number of at least one class"),
        ("12", "labels are '12'; give the numbers of classes, such as"),
        (3, "labels are 3; give the numbers of classes"),
        (None, "labels are None; give the numbers of classes"),
        ([1.5], r"labels are \[1.5\]; give the numbers"),
        ([math.nan], r"labels are \[nan\]; give the numbers"),
        ([[1, 2]], r"labels are \[\[1, 2\]\]; give the numbers"),
        ([0, -1], "labels go from 0 to 9, and 10 is for no label; not -1"),
        ([11], "labels go from 0 to 9, and 10 is for no label; not 11"),
        ([2**70], f"labels go from 0 to 9, and 10 is for no label; not {2**70}"),
        (torch.tensor([0.5]), "give the numbers of classes"),
        ([True, False], r"labels are \[True, False\]; give the numbers of classes"),  # a mask: classes 1 and 0
        (torch.tensor([3, 5]) == 3, "give the numbers of classes"),
    ],
)
def test_labels_that_are_no_classes_are_refused(models, labels, message):
    with pytest.raises(ValueError, match=message):
        robustok.sample(*models, labels)


def test_labels_come_as_any_whole_numbers(models):
    for labels in ([1, 2], (1, 2), range(1, 3), torch.tensor([1, 2]), np.array([1, 2]), iter([1, 2])):
        assert torch.equal(robustok.sample(*models, labels), robustok.sample(*models, [1, 2]))


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"temprature": 1.0}, "temprature is not a field of Sampling; did you mean 'temperature'"),
        ({"temperature": "hot"}, "temperature is 'hot'; it should be of type float"),
        ({"temperature": math.nan}, "temperature is nan, which must be above 0"),
        ({"guidance": math.nan}, "guidance is nan; choose 1 for none"),
        ({"guidance": math.inf}, "guidance is inf; choose 1 for none"),
        ({"top_k": 2.5}, "top_k is 2.5; it should be of type int"),
        ({"top_k": -1}, "top_k is -1; choose a number of codes"),
        ({"top_p": math.nan}, "top_p is nan; it is a probability"),
        ({"schedule": 3}, "schedule is 3; choose from"),
        ({"steps": 5}, "steps is not a field of Sampling"),
        ({"seed": 1.5}, "seed is 1.5; give a whole number"),
        ({"seed": "1"}, "seed is '1'; give a whole number"),
        ({"seed": None}, "seed is None; give a whole number"),
        ({"seed": math.nan}, "seed is nan; give a whole number"),
    ],
)
def test_settings_that_cannot_be_are_refused(models, sampling, message):
    with pytest.raises(ValueError, match=message):
        robustok.sample(*models, [1], **sampling)


def test_numbers_of_numpy_are_numbers(models):
    drawn = robustok.sample(*models, [1], guidance=np.float64(1.5), top_k=np.int64(5), seed=np.uint64(7))
    assert torch.equal(drawn, robustok.sample(*models, [1], guidance=1.5, top_k=5, seed=7))


def test_counts_of_numpy_are_counts(models):
    _, source = models
    by = [robustok.score_tokenizer(source, images(4), coarse, batch_size=size) for size in (3, np.int64(3))]
    assert by[0] == by[1]


def test_other_things_than_models_and_images_are_refused(models, tmp_path):
    made, source = models
    for call, message in (
        (lambda: robustok.sample("gen", source, [1]), "'gen' is no generator; load one: robustok.load_generator"),
        (lambda: robustok.sample(source, made, [1]), "a AutoregressiveModel is no tokenizer; load one"),
        (lambda: robustok.sample(made, None, [1]), "None is no tokenizer; load one: robustok.load_tokenizer"),
        (lambda: robustok.score_tokenizer("tok", images(4)), "'tok' is no tokenizer"),
        (lambda: robustok.score_tokenizer(source, ["a.png"]), "a list is no set of images; open one"),
        (lambda: robustok.score_tokenizer(source, images(4), batch_size=0), "batch_size is 0; give a whole number"),
        (lambda: robustok.score_tokenizer(source, images(4), pfid_images="9"), "pfid_images is '9'; give a whole"),
        (lambda: robustok.score_tokenizer(source, images(4), batch_size=math.nan), "batch_size is nan; give"),
        (
            lambda: robustok.score_tokenizer(source, images(4), batch_size=True),
            "batch_size is True; give a whole number",
        ),
        (lambda: robustok.score_tokenizer(source, images(4), None), "there is no feature space None; choose"),
        (lambda: robustok.load_tokenizer(None), "None is no name of a model; give a file, a folder"),
        (lambda: robustok.load_generator(7), "7 is no name of a model"),
        (lambda: robustok.load_tokenizer(""), "holds no model"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": "most"}, "sigma is 'most'; it should be float or tuple or 'auto'"),
        ({"sigma": (0.9, 0.5)}, "two of them, the first not above the second, or auto"),
        ({"sigma": math.nan}, "sigma is nan; it is a share"),
        ({"sigma": -0.1}, "sigma is -0.1; it is a share"),
        ({"pairs": 0}, "pairs is 0; it must be at least 1"),
        ({"pairs": 1.5}, "pairs is 1.5; it should be of type int"),
        ({"held_out": -3}, "held_out is -3; it must be at least 2"),
        ({"config": {"loop": {}}}, "config is .*; give a PostTraining"),
        ({"sampling": "greedy"}, "sampling is 'greedy'; give a Sampling, a MaskedSampling or a FlowSampling"),
        ({"features": "lite9"}, "there is no feature space 'lite9'; choose lite0"),
        ({"features": "lite0@16"}, "Lite0 looks at 32 pixels or more, not 16"),
        ({"images": [1, 2]}, "a list is no set of images"),
        ({"folder": 5}, "folder is 5; give a path"),
        ({"folder": ""}, "folder is ''; give a path"),
    ],
)
def test_post_training_that_cannot_be_is_refused_before_any_work(models, options, message, tmp_path):
    arguments = {"images": images(40), "folder": tmp_path / "run"} | options
    with pytest.raises(ValueError, match=message):
        robustok.post_train(models[1], models[0], **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": "32"}, "image_size is '32'; it should be of type int"),
        ({"image_size": 32.0}, "image_size is 32.0; it should be of type int"),
        ({"image_size": True}, "image_size is True; it should be of type int"),
        ({"image_size": 0}, "image_size is 0; it is at least 1"),
        ({"image_size": -32}, "image_size is -32; it is at least 1"),
        ({"image_size": None}, "image_size is None; it should be of type int"),
        ({"image_size": 33}, "side 33 is not a multiple of"),
        ({"colour": 3}, "takes no colour "),
    ],
)
def test_fields_that_cannot_be_are_refused(fields, message, tmp_path):
    network = VQGAN(channels=(32, 32), blocks=1, latent=8, stem=32, dialect="maskgit")
    model = MaskGITVQGAN(MaskGITVQGANConfig(image_size=32, network=network, codebook_size=8))
    model.to_checkpoint(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        robustok.load_tokenizer(tmp_path / "model.pt", **fields)
    assert robustok.load_tokenizer(tmp_path / "model.pt", image_size=64).image_size == 64


def test_a_folder_that_tells_all_takes_no_fields(models, tmp_path):
    models[1].save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tells all of the model itself; leave out image_size"):
        robustok.load_tokenizer(tmp_path, image_size=64)


def test_any_whole_number_is_a_seed(models):
    def key(seed: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=np.array([seed, 3], dtype=np.uint64)))

    for seed in (0, 5, 2**63, 2**64 - 1):  # as they always were
        assert torch.equal(uniforms(seed, [3], 4)[0], torch.from_numpy(key(seed).random(4)))
        wanted = torch.from_numpy(key(seed).standard_normal((2, 2), dtype=np.float32))
        assert torch.equal(noise_stream(seed, [3], (2, 2))()[0], wanted)
    seeds = (-(2**70), -1, 0, 1, 2**64 - 1, 2**64, 2**64 + 1, 10**30)
    for drawn in (
        [uniforms(seed, [0], 4) for seed in seeds],
        [noise_stream(seed, [0], (2, 2))() for seed in seeds],
        [torch.tensor(derive(seed, "any") % 2**53) for seed in seeds],
    ):
        assert len({tuple(numbers.flatten().tolist()) for numbers in drawn}) == len(seeds)
    assert not torch.equal(robustok.sample(*models, [1], seed=-1), robustok.sample(*models, [1], seed=2**64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_models_in_half_precision_are_computed_with_in_float32(models, dtype):
    made, source = (in_half(model, dtype) for model in models)
    drawn = robustok.sample(made, source, [1, 2])
    whole = [in_half(model, dtype).float() if dtype.itemsize > 1 else None for model in models]
    if all(whole):
        assert torch.equal(drawn, robustok.sample(*whole, [1, 2]))
    scores = robustok.score_tokenizer(source, images(6), coarse)
    assert all(math.isfinite(score.value) for score in scores)
    assert source.quantizer.embedding.dtype == dtype  # what was given stays as it was


def in_half(model, dtype):
    half = copy.deepcopy(model)
    for weight in half.parameters():
        weight.data = weight.data.to(dtype)
    return half


def test_settings_of_sampling_are_finite():
    for field in ("guidance", "power"):
        for value in (math.nan, math.inf, -1.0):
            with pytest.raises(ValueError, match=f"{field} is {value}"):
                Sampling(**{field: value})


def test_what_is_no_reference_is_told():
    for given in (None, images(), "photos"):
        with pytest.raises(ValueError, match="is no reference; make one of real images: Reference.of"):
            robustok.score_generator(generator(), tokenizer(), given, [0, 1])


def test_models_in_double_precision_are_scored_in_single():
    both = tokenizer(), tokenizer().double()
    single, double = (robustok.score_tokenizer(model, images(6), "lite0@32") for model in both)
    assert [score.value for score in double] == [score.value for score in single]


def test_sampling_that_ends_in_nan_is_an_error():
    model = generator()
    with pytest.raises(ValueError, match="sampling ended in NaN or infinity; use less guidance"):
        robustok.sample(model, tokenizer(), [0, 1], guidance=1e308)
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="sampling ended in NaN or infinity"):
        robustok.sample(model, tokenizer(), [0, 1])
