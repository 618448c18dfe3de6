"""The names that `import robustok` offers, on models too small to be good."""

import subprocess
import sys

import pytest
import torch

import robustok
from robustok.generators.autoregressive import Autoregressive, AutoregressiveModel
from robustok.tokenizer.encoder import Conv
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import Tokenizer, TokenizerConfig
from robustok.training.decoder_stage import PostTraining
from robustok.training.loop import Loop
from robustok.training.objective import Objective
from robustok.training.optim import Optim

PART = Conv(stem=4, channels=(16, 32), blocks=1, attention=False)


def brightness(pixels):
    """Features: the mean of each quarter of the red channel."""
    return torch.nn.functional.avg_pool2d(pixels[:, 0].float(), pixels.shape[-1] // 2).flatten(1)


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    quantizer = VQ(codebook_size=32, width=8)
    return Tokenizer(TokenizerConfig(image_size=32, encoder=PART, decoder=PART, quantizer=quantizer)).eval()


@pytest.fixture(scope="module")
def generator(tokenizer):
    torch.manual_seed(1)
    config = Autoregressive(
        codebook_size=32, tokens=tokenizer.tokens_per_image, classes=10, width=32, depth=1, heads=1, order="raster"
    )
    return AutoregressiveModel(config).eval()


def test_importing_robustok_loads_nothing_heavy():
    code = "import sys, robustok; print([name for name in ('torch', 'numpy') if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_every_public_name_loads():
    for name in robustok.__all__:
        assert getattr(robustok, name)
    assert set(robustok.__all__) <= set(dir(robustok))
    with pytest.raises(AttributeError, match="'robustok' has no attribute 'tokeniser'; it offers .*load_tokenizer"):
        _ = robustok.tokeniser


def test_what_was_saved_is_loaded(tokenizer, generator, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    generator.save_pretrained(tmp_path / "generator")
    assert robustok.load_tokenizer(tmp_path / "tokenizer").fingerprint() == tokenizer.fingerprint()
    assert robustok.load_generator(tmp_path / "generator").fingerprint() == generator.fingerprint()


def test_an_image_is_sampled_by_seed_and_number(tokenizer, generator):
    three = robustok.sample(generator, tokenizer, labels=[3, 1, 4], guidance=1.5, seed=5)
    assert (three.dtype, three.shape) == (torch.uint8, (3, 3, 32, 32))
    assert torch.equal(robustok.sample(generator, tokenizer, labels=range(3, 4), guidance=1.5, seed=5), three[:1])
    assert not torch.equal(robustok.sample(generator, tokenizer, labels=[3], guidance=1.5, seed=6), three[:1])
    with pytest.raises(ValueError, match="temperature is 0, which must be above 0"):
        robustok.sample(generator, tokenizer, labels=[3], temperature=0)


def test_post_training_changes_the_decoder_alone(tokenizer, generator, tmp_path):
    config = PostTraining(
        loop=Loop(steps=6, batch_size=8, log_every=3, save_every=0),
        objective=Objective(perceptual=0.0, adversarial=0.0),
        optim=Optim(lr=1e-2),
        ema_decay=0.5,
        validate_every=3,
    )
    images = robustok.data.FashionMNIST("train").subset(torch.arange(60))
    options = {"sigma": 0.7, "config": config, "pairs": 40, "held_out": 20, "features": brightness}
    tuned = robustok.post_train(tokenizer, generator, images, tmp_path, **options)
    assert tuned.fingerprint() == tokenizer.fingerprint()
    assert not torch.equal(tuned.last_layer, tokenizer.last_layer)
    saved = robustok.load_tokenizer(tmp_path).state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in tuned.state_dict().items())
