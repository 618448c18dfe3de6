"""Post-training: what stays, what moves, which decoder is kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.tiny import POST, cache, generator, held_out, images, pairs, run_post, tokenizer

import robustok
from robustok.data.images import FashionMNIST, Subset, hold_out
from robustok.data.pairs import Pairs, make_pairs
from robustok.generators.sampling import Sampling
from robustok.runtime.checkpoint import load_model
from robustok.runtime.logging import MetricsLog
from robustok.tokenizer.tokenizer import Tokenizer
from robustok.training.decoder_stage import DecoderStage, PostTraining, train_decoder
from robustok.training.held_out import HeldOut
from robustok.training.post_training import post_train
from robustok.training.shared_sampling import sampled_in

SMALL = "lite0@32"  # a quarter of the pixels that decide by default


def test_only_the_decoder_moves(tmp_path):
    """Byte for byte: encoder and codebook are what they were, and every tensor of the decoder has changed."""
    before = tokenizer().state_dict()
    stage = DecoderStage(replace(POST, objective=replace(POST.objective, frechet=0.0)), tokenizer())
    touched = pairs(tmp_path)
    for step in range(3):
        pair = touched.batch(torch.arange(16))
        stage.step((pair.generated, images().images(pair.images)), step)
    after = stage.tokenizer.state_dict()
    for name, tensor in before.items():
        moved = tensor.numpy().tobytes() != after[name].numpy().tobytes()
        assert moved == name.startswith("decoder."), name
    assert stage.tokenizer.fingerprint() == tokenizer().fingerprint()


def test_the_given_tokenizer_is_not_touched(tmp_path):
    given = tokenizer()
    before = {name: tensor.clone() for name, tensor in given.state_dict().items()}
    train_decoder(POST, given, pairs(tmp_path), images(), tmp_path / "run", held_out=held_out(), quiet=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in given.state_dict().items())
    assert all(p.requires_grad for p in given.parameters())


def test_the_best_decoder_on_held_out_images_is_kept(tmp_path):
    result = run_post(tmp_path)
    rows = MetricsLog(tmp_path / "run").rows()
    seen = {row["step"]: row["heldout_fd"] for row in rows if "heldout_fd" in row}
    assert list(seen) == [0, 4, 8]
    assert result.before == pytest.approx(seen[0])
    assert result.after == pytest.approx(min(seen.values()))
    assert seen[result.step] == min(seen.values())
    assert result.step > 0  # a decoder with random weights is easily improved on
    assert held_out()(result.tokenizer.decoder) == pytest.approx(result.after, rel=1e-5)
    again = Tokenizer.from_pretrained(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), result.tokenizer.parameters(), strict=True))
    _, saved = load_model(tmp_path / "run")
    assert saved["post_training"]["sigma"] == 0.5


def test_a_decoder_that_only_gets_worse_is_given_up(tmp_path):
    harmful = replace(POST, optim=replace(POST.optim, lr=10.0, clip=0.0), ema_decay=0.0)
    result = run_post(tmp_path, harmful)
    assert result.step == 0
    assert result.after == result.before
    original = tokenizer().state_dict()
    assert all(torch.equal(original[name], tensor) for name, tensor in result.tokenizer.state_dict().items())


def test_training_on_pairs_brings_decoded_tokens_nearer_to_their_images(tmp_path):
    config = replace(POST, loop=replace(POST.loop, steps=40, log_every=1), validate_every=40)
    run_post(tmp_path, config)
    rows = [row for row in MetricsLog(tmp_path / "run").rows() if "l2" in row]
    assert sum(r["l2"] for r in rows[-5:]) < 0.7 * sum(r["l2"] for r in rows[:5])


def test_the_control_trains_on_the_images_own_tokens(tmp_path):
    drawn = {"sampling": Sampling(), "count": 48, "seed": 0}
    clean = make_pairs(None, cache(tmp_path), tmp_path / "clean", sigma=1.0, **drawn)
    touched = make_pairs(generator(), cache(tmp_path), tmp_path / "touched", sigma=0.5, **drawn)
    a, b = (p.batch(torch.arange(48)) for p in (clean, touched))
    assert torch.equal(a.images, b.images)  # the same images in the same steps
    own = tokenizer().quantize(tokenizer().encode(images().images(a.images))).tokens
    assert torch.equal(a.generated, own)
    assert (b.generated != own).any(dim=1).all()


def test_pairs_of_another_tokenizer_are_refused(tmp_path):
    other = tokenizer(seed=5)
    with pytest.raises(ValueError, match=r"pairs were made with tokenizer \w+, not with \w+; make them again"):
        train_decoder(POST, other, pairs(tmp_path), images(), tmp_path / "run", held_out=held_out(), quiet=True)


def test_pairs_of_other_images_are_refused(tmp_path):
    """As many of another split, in another order, of another size: none is what the pairs were made of."""
    made = pairs(tmp_path)
    for other in (
        FashionMNIST("validation").subset(torch.arange(64)),
        images().subset(torch.arange(64).flip(0)),
        FashionMNIST("train", size=36).subset(torch.arange(64)),
    ):
        with pytest.raises(ValueError, match=r"pairs were made of other images: name fashion-mnist, .* give those, or"):
            train_decoder(POST, tokenizer(), made, other, tmp_path / "run", held_out=held_out(), quiet=True)
    assert not (tmp_path / "run").exists()


def test_images_that_moved_are_still_those_of_the_pairs(tmp_path):
    made = pairs(tmp_path)
    assert made.image_set == images().describe()

    class Moved(Subset):
        def describe(self):
            return super().describe() | {"name": "elsewhere"}

    made.check_images(Moved(FashionMNIST("train"), torch.arange(64)))
    made.image_set = None  # not told by whoever made them
    made.check_images(FashionMNIST("validation"))


def test_it_is_never_run_unchecked():
    with pytest.raises(ValueError, match="validate_every is 0; it must be at least 1"):
        PostTraining(loop=POST.loop, validate_every=0)


def test_demo_library_and_command_line_take_one_road():
    """Every caller's pairs and held-out samples are drawn by the one function, in the precision of its config."""
    source = Path(robustok.__file__).parent
    callers = {path for path in source.rglob("*.py") if "make_pairs(" in path.read_text(encoding="utf-8")}
    assert callers == {source / "data" / "pairs.py", source / "training" / "post_training.py"}
    stages = {path for path in source.rglob("*.py") if "train_decoder(" in path.read_text(encoding="utf-8")}
    assert stages == {source / "training" / "decoder_stage.py", source / "training" / "post_training.py"}


@pytest.mark.parametrize(("asked", "found"), [("fp32", "float32"), ("bf16", "bfloat16")])
def test_pairs_and_models_tell_the_precision_they_were_sampled_in(asked, found, tmp_path):
    config = replace(
        POST, loop=replace(POST.loop, steps=1), pairs=16, held_out=8, sampling_precision=asked, features=SMALL
    )
    result = post_train(config, tokenizer(), generator(), images(), tmp_path, control=True, quiet=True)
    assert Pairs(tmp_path / "pairs").precision == found
    assert sampled_in(tmp_path / "held_out.safetensors") == found
    for folder, told in ((tmp_path, found), (tmp_path / "control", None)):  # nothing was sampled for the control
        saved = json.loads((folder / "config.json").read_text())["post_training"]
        assert saved.get("pairs_sampled_in") == told
    assert result.control is not None


def test_held_out_images_are_left_out_or_given_and_decide_alike(tmp_path):
    config = replace(POST, loop=replace(POST.loop, steps=1), pairs=16, held_out=16, features=SMALL)
    everything = images()
    train, held = hold_out(everything, 16)
    models = tokenizer(), generator()
    itself = post_train(config, *models, everything, tmp_path / "a", quiet=True)
    given = post_train(config, *models, train, tmp_path / "b", held_out=held, cache=None, quiet=True)
    again = post_train(config, *models, train, tmp_path / "c", held_out=given.held_out, quiet=True)
    assert itself.tuned.before == given.tuned.before == again.tuned.before
    assert itself.tuned.after == given.tuned.after == again.tuned.after
    assert not (tmp_path / "c" / "held_out.safetensors").exists()


def without_a_start(config):
    """Full learning rate and discriminator from the first step on."""
    adversary = replace(config.objective.adversary, disc_start=0.0, gan_start=0.0)
    return replace(
        config,
        optim=replace(config.optim, warmup=0),
        objective=replace(config.objective, adversary=adversary),
    )


@pytest.mark.parametrize(("warmup", "gan_start", "looks"), [(0, 0.0, 3), (2, 0.0, 5), (0, 0.5, 5), (2, 0.75, 6)])
def test_patience_begins_where_learning_rate_and_discriminator_are_there(warmup, gan_start, looks):
    """Before, nothing is to be expected: a fresh discriminator would be cut off before it ever charged."""
    config = without_a_start(replace(POST, loop=replace(POST.loop, steps=4), validate_every=1, patience=2))
    adversary = replace(config.objective.adversary, gan_start=gan_start)
    config = replace(
        config,
        optim=replace(config.optim, warmup=warmup),
        objective=replace(config.objective, adversary=adversary),
    )
    stage, done = DecoderStage(config, tokenizer()), 0
    stage.evaluate(lambda _: 1.0, 0)
    while stage.validations_since < config.patience:
        done += 1
        stage.evaluate(lambda _: 2.0, done)
    assert done + 1 == looks


@pytest.mark.parametrize(
    ("distances", "looks", "best"), [([5, 6, 7, 4], 3, 0), ([5, 4, 5, 3, 6, 3, 2], 6, 3), ([9, 8, 7, 6, 5, 4], 6, 5)]
)
def test_it_ends_when_looks_find_no_better_decoder(distances, looks, best, tmp_path):
    """Two in a row without a better one; called again, it takes no step more."""
    config = replace(POST, loop=replace(POST.loop, steps=5), validate_every=1, patience=2)
    config = without_a_start(config)
    check, told = held_out(), iter(distances)
    check.__class__ = type("Told", (HeldOut,), {"__call__": lambda *_: float(next(told))})
    for _ in range(2):
        result = train_decoder(
            config, tokenizer(), pairs(tmp_path), images(), tmp_path / "run", held_out=check, quiet=True
        )
        rows = MetricsLog(tmp_path / "run").rows()
        assert [row["heldout_fd"] for row in rows if "heldout_fd" in row] == distances[:looks]
        assert (result.step, result.after, result.last) == (best, distances[best], distances[looks - 1])


def test_pairs_of_a_range_have_shares_from_one_end_to_the_other(tmp_path):
    config = replace(POST, loop=replace(POST.loop, steps=1), pairs=42, held_out=8, sigma=(0.5, 0.9), features=SMALL)
    result = post_train(config, tokenizer(), generator(), images(), tmp_path, quiet=True)
    saved = json.loads((tmp_path / "config.json").read_text())["post_training"]
    assert saved["sigma"] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    made = [Pairs(tmp_path / "pairs" / f"sigma_{share}") for share in (0.5, 0.6, 0.7, 0.8, 0.9)]
    assert [len(own) for own in made] == [9, 9, 8, 8, 8]
    together = Pairs(*(tmp_path / "pairs" / f"sigma_{share}" for share in (0.5, 0.6, 0.7, 0.8, 0.9)))
    assert len(together) == 42
    assert torch.equal(together.batch(torch.arange(9, 18)).generated, made[1].batch(torch.arange(9)).generated)
    assert result.tuned.before > 0


@pytest.mark.parametrize(("ends", "shares"), [((0.6, 0.6), 0.6), ((0.9998, 0.99984), 5)])
def test_a_range_may_be_narrow(ends, shares, tmp_path):
    """Of no width it is one share; where shares look alike in four digits each still has a folder of its own."""
    config = replace(POST, loop=replace(POST.loop, steps=1), pairs=20, held_out=8, sigma=ends, features=SMALL)
    post_train(config, tokenizer(), generator(), images(), tmp_path, quiet=True)
    told = json.loads((tmp_path / "config.json").read_text())["post_training"]["sigma"]
    assert (told if isinstance(told, float) else len({*told})) == shares


def test_free_samples_are_drawn_once_of_every_class_and_trained_on(tmp_path):
    """What they are makes a difference to the decoder, and without terms of pairs they are all that is decoded."""
    free_only = replace(POST.objective, l1=0.0, l2=0.0, perceptual=0.0)
    short = replace(POST, loop=replace(POST.loop, steps=1), pairs=16, held_out=8, precision="fp32", features=SMALL)
    found = {}
    for name, config in {
        "pairs": short,
        "both": replace(short, free_samples=20),
        "free": replace(short, free_samples=20, objective=free_only),
    }.items():
        where = tmp_path / name
        post_train(config, tokenizer(), generator(), images(), where, control=name != "pairs", quiet=True)
        assert (where / "free_samples.safetensors").exists() == (name != "pairs")
        terms = MetricsLog(where).rows()[1]
        assert ("l2" in terms) == (name != "free")
        found[name] = terms["frechet"]
    assert found["both"] == pytest.approx(found["free"], rel=1e-4)  # of the same samples, with pairs and without
    assert found["both"] != pytest.approx(found["pairs"], rel=1e-4)
    assert "l2" not in MetricsLog(tmp_path / "free" / "control").rows()[1]  # the same terms, of clean pairs
    assert not list(tmp_path.glob("*/control/free_samples.safetensors"))
    with pytest.raises(ValueError, match=r"free_samples is 20; give as many tokens or latents as `free`"):
        train_decoder(
            replace(short, free_samples=20), tokenizer(), pairs(tmp_path), images(), tmp_path, held_out=held_out()
        )


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sigma": 1.5}, "sigma is 1.5; it is a share between 0 and 1, or two of them"),
        ({"sigma": (0.9, 0.5)}, "the first not above the second, or auto"),
        ({"patience": -1}, "patience is -1; it must be at least 0"),
        ({"free_samples": 3}, "free_samples is 3; give 0, or at least the 16 of a batch"),
        ({"free_samples": -1}, "free_samples is -1; give 0, or"),
        (
            {"objective": replace(POST.objective, adversarial=0.0, frechet=0.0), "free_samples": 16},
            "free_samples are for the adversarial and the Frechet term",
        ),
    ],
)
def test_senseless_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        replace(POST, **setting)


def test_fewer_pairs_than_a_batch_are_refused_before_anything_is_sampled(tmp_path):
    for few in ({"pairs": 15}, {"held_out": 50}):
        config = replace(POST, **{"held_out": 4, **few})
        with pytest.raises(
            ValueError, match=r"a batch of 16 cannot be filled from 1\d images; choose a batch_size of 1 to"
        ):
            post_train(config, tokenizer(), generator(), images(), tmp_path, quiet=True)
        assert not list(tmp_path.glob("*.safetensors"))
