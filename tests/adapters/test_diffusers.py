"""Models of diffusers against diffusers itself: the same latents, the same images, the same steps of its sampler."""

import copy
import itertools
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tests.training.tiny import POST, extract

import robustok
from robustok.adapters.diffusers import (
    DiffusersDiT,
    generator_of,
    load_generator,
    load_tokenizer,
    noise_level,
    tokenizer_of,
)
from robustok.adapters.diffusers_autoencoders import DiffusersAutoencoder, DiffusersVQ
from robustok.data.images import FashionMNIST
from robustok.evaluation.scores.tokenizer_scores import score_tokenizer
from robustok.generators.flow import FlowSampling
from robustok.generators.protocol import lacking, makes
from robustok.tokenizer.protocol import as_module, codebook_of, decoding_with

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusers` is not installed")

SIDE = 16
DOWN, UP = ("DownEncoderBlock2D",) * 2, ("UpDecoderBlock2D",) * 2
BLOCKS = {"down_block_types": DOWN, "up_block_types": UP, "block_out_channels": (8, 16), "norm_num_groups": 4}


def autoencoder(**changes):
    torch.manual_seed(0)
    return diffusers.AutoencoderKL(**{**BLOCKS, "latent_channels": 4, "sample_size": SIDE, **changes}).eval()


def vq_model(**changes):
    torch.manual_seed(0)
    config = {**BLOCKS, "latent_channels": 4, "sample_size": SIDE, "num_vq_embeddings": 32, **changes}
    return diffusers.VQModel(**config).eval()


def tiny():
    torch.manual_seed(0)
    wide = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    return diffusers.AutoencoderTiny(**wide, num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1)).eval()


def representation():
    torch.manual_seed(0)
    return diffusers.AutoencoderRAE(
        encoder_type="mae",
        encoder_hidden_size=64,
        encoder_patch_size=8,
        encoder_num_hidden_layers=1,
        decoder_hidden_size=16,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        patch_size=8,
        encoder_input_size=16,
        latents_mean=torch.randn(64, 2, 2),
        latents_std=torch.rand(64, 2, 2) + 0.5,
        scaling_factor=0.5,
        noise_tau=0.8,
    ).eval()


def pipeline(prediction: str = "epsilon", side: int = SIDE, **vae):
    """A DiTPipeline of random weights, which like those of DiT predicts a variance too."""
    torch.manual_seed(1)
    shape = {"num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2, "sample_size": side // 2}
    transformer = diffusers.DiTTransformer2DModel(**shape, in_channels=4, out_channels=8, num_embeds_ada_norm=1000)
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type=prediction, set_alpha_to_one=True)
    pipe = diffusers.DiTPipeline(transformer.eval(), autoencoder(**vae), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def images():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize(
    "statistics",
    [
        {},
        {"shift_factor": 0.3, "scaling_factor": 0.5},
        {"latents_mean": [0.1, 0.2, 0.3, 0.4], "latents_std": [1.0, 2.0, 3.0, 4.0], "scaling_factor": 0.7},
        {"use_quant_conv": False, "use_post_quant_conv": False},
    ],
)
@torch.no_grad()
def test_latents_of_an_autoencoder_are_as_pipelines_scale_them(statistics, images):
    vae = autoencoder(**statistics)
    tokenizer = DiffusersAutoencoder(vae)
    raw = vae.encode(images).latent_dist.mode()
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
    wanted = (raw - shift) * scale
    if "latents_mean" in statistics:
        mean, std = (torch.tensor(statistics[name]).view(1, 4, 1, 1) for name in ("latents_mean", "latents_std"))
        wanted = (raw - mean) * scale / std
    latents = tokenizer.encode(images)
    torch.testing.assert_close(latents, wanted.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokenizer.decode(latents), vae.decode(raw).sample)
    assert codebook_of(as_module(tokenizer)) is None
    assert (tokenizer.image_size, tokenizer.tokens_per_image) == (SIDE, (SIDE // 2) ** 2)
    assert tokenizer.last_layer is vae.decoder.conv_out.weight


@torch.no_grad()
def test_a_pipeline_that_ignores_the_shift_gets_latents_without_it(images):
    pipe = pipeline(shift_factor=0.3, scaling_factor=0.5)
    tokenizer = tokenizer_of(pipe.vae, pipeline=pipe)
    wanted = pipe.vae.encode(images).latent_dist.mode() * 0.5
    torch.testing.assert_close(tokenizer.encode(images), wanted.flatten(2).transpose(1, 2))


@torch.no_grad()
def test_the_tiny_autoencoder_and_that_of_representations_agree_with_diffusers(images):
    vae = tiny()
    tokenizer = DiffusersAutoencoder(vae, SIDE)
    raw = vae.encode(images).latents
    torch.testing.assert_close(tokenizer.encode(images), raw.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(images)), vae.decode(raw).sample)
    rae = representation()
    tokenizer = DiffusersAutoencoder(rae)
    raw = rae.encode((images + 1) / 2).latent
    torch.testing.assert_close(tokenizer.encode(images), raw.flatten(2).transpose(1, 2))
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(images)), rae.decode(raw).sample * 2 - 1)
    assert tokenizer.last_layer is rae.decoder.decoder_pred.weight


@pytest.mark.parametrize("norm", ["group", "spatial"])
@torch.no_grad()
def test_a_vq_model_gives_the_tokens_and_images_of_diffusers(norm, images):
    vae = vq_model(norm_type=norm, block_out_channels=(32, 32))  # of spatial norms every group is a 32nd
    vae.quantize.embedding.weight.data.normal_()  # as they start, codes are too near each other for float32
    tokenizer = DiffusersVQ(vae)
    assert codebook_of(as_module(tokenizer)) is not None
    latents = vae.encode(images).latents
    _, _, (_, _, indices) = vae.quantize(latents)
    quantized = tokenizer.quantize(tokenizer.encode(images))
    assert torch.equal(quantized.tokens.flatten(), indices.flatten())
    assert torch.equal(tokenizer.lookup(quantized.tokens), tokenizer.codebook[quantized.tokens])
    torch.testing.assert_close(tokenizer.decode(tokenizer.lookup(quantized.tokens)), vae.decode(latents).sample)


def test_the_levels_of_diffusion_are_those_of_a_straight_line():
    signal = torch.linspace(0.999, 0.001, 50, dtype=torch.float64)
    t = noise_level(signal)
    length = ((1 - t).square() + t.square()).sqrt()
    torch.testing.assert_close(((1 - t) / length).square(), signal)
    torch.testing.assert_close((t / length).square(), 1 - signal)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@torch.no_grad()
def test_euler_steps_of_the_velocity_are_the_steps_of_ddim(prediction):
    pipe = pipeline(prediction)
    generator = generator_of(pipe)
    assert (makes(generator), lacking(generator)) == ("latents", [])
    labels, scheduler = torch.tensor([3, 999]), pipe.scheduler
    noise = torch.randn(2, 4, SIDE // 2, SIDE // 2, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(8)
    wanted = noise
    for step in scheduler.timesteps:
        output = pipe.transformer(wanted, timestep=step.expand(2), class_labels=labels).sample[:, :4]
        wanted = scheduler.step(output, step, wanted).prev_sample
    times = generator.times(8)
    assert (len(times), times[-1]) == (9, 0.0)
    length = ((1 - times[0]) ** 2 + times[0] ** 2) ** 0.5
    x = noise.flatten(2).transpose(1, 2) * length
    for now, then in itertools.pairwise(times):
        x = x + (then - now) * generator.velocity(x, torch.full((2,), now), labels)
    # float32 through eight steps, which divide by alpha down to 0.1
    torch.testing.assert_close(x, wanted.flatten(2).transpose(1, 2), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_scheduler_of_flow_matching_predicts_the_velocity_itself():
    pipe = pipeline()
    generator = DiffusersDiT(pipe.transformer, diffusers.FlowMatchEulerDiscreteScheduler())
    x, labels = torch.randn(2, 64, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 1000])
    as_map = x.transpose(1, 2).unflatten(2, (8, 8))
    wanted = pipe.transformer(as_map, timestep=torch.tensor([250.0, 1000.0]), class_labels=labels).sample[:, :4]
    velocity = generator.velocity(x, torch.tensor([0.25, 1.0]), labels)
    torch.testing.assert_close(velocity, wanted.flatten(2).transpose(1, 2))
    assert generator.times(4)[-1] == 0.0


@pytest.mark.parametrize("make", [autoencoder, vq_model, representation])
def test_what_is_saved_is_what_diffusers_saves(make, tmp_path, images):
    tokenizer = tokenizer_of(make())
    tokenizer.save_pretrained(tmp_path, post_training={"sigma": 0.9})
    again = load_tokenizer(tmp_path)
    assert type(again) is type(tokenizer)
    assert again.fingerprint() == tokenizer.fingerprint()
    with torch.no_grad():
        torch.testing.assert_close(again.decode(again.encode(images)), tokenizer.decode(tokenizer.encode(images)))
    assert json.loads((tmp_path / "robustok.json").read_text())["post_training"] == {"sigma": 0.9}
    theirs = type(tokenizer.to_diffusers()).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), tokenizer.vae.parameters(), strict=True))


def test_a_pipelines_folder_holds_a_tokenizer_and_a_generator(tmp_path, images):
    pipe = pipeline()
    pipe.save_pretrained(tmp_path / "pipe")
    tokenizer, generator = load_tokenizer(tmp_path / "pipe"), load_generator(tmp_path / "pipe")
    assert (tokenizer.image_size, generator.latent_shape) == (SIDE, (64, 4))
    assert generator.fingerprint() == generator_of(pipe).fingerprint()
    generator.save_pretrained(tmp_path / "generator")
    assert load_generator(tmp_path / "generator").fingerprint() == generator.fingerprint()


def test_a_pipelines_vq_model_is_found_too(tmp_path):
    vq_model().save_pretrained(tmp_path / "vqvae")
    (tmp_path / "model_index.json").write_text('{"_class_name": "LDMPipeline"}')
    assert isinstance(load_tokenizer(tmp_path), DiffusersVQ)


@torch.no_grad()
def test_a_lent_decoder_decodes_and_is_given_back(images):
    tokenizer = DiffusersAutoencoder(autoencoder())
    other = DiffusersAutoencoder(autoencoder())
    for weight in other.decoder.parameters():
        weight.add_(0.1)
    latents = tokenizer.encode(images)
    with decoding_with(tokenizer, other.decoder):
        torch.testing.assert_close(tokenizer.decode(latents), other.decode(latents))
    assert tokenizer.decoder is tokenizer.vae.decoder
    assert tokenizer.fingerprint() == other.fingerprint()  # of what decides the latents


PLAIN = """
import json, sys, torch
sys.modules["robustok"] = None  # importing it is an error
from diffusers import DiTPipeline
pipe = DiTPipeline.from_pretrained(sys.argv[1], use_safetensors=True)
pipe.set_progress_bar_config(disable=True)
image = pipe([1, 2], num_inference_steps=2, generator=torch.manual_seed(0), output_type="pt").images
print(json.dumps([float(image.mean()), *(float(w.sum()) for w in pipe.vae.parameters())]))
"""


def test_three_lines_tune_a_pipelines_decoder_and_plain_diffusers_loads_it(tmp_path):
    pipe = pipeline(side=32)
    before = {name: weight.clone() for name, weight in pipe.vae.state_dict().items()}
    images = FashionMNIST("train").subset(torch.arange(40))
    arguments = {"config": POST, "sampling": FlowSampling(steps=2), "pairs": 24, "held_out": 16, "features": extract()}
    pipe.vae = robustok.post_train(pipe.vae, pipe, images, tmp_path / "run", sigma=0.9, **arguments).to_diffusers()
    pipe.save_pretrained(tmp_path / "better")
    changed = {name for name, weight in pipe.vae.state_dict().items() if not torch.equal(weight, before[name])}
    assert changed
    assert all(name.startswith("decoder.") for name in changed)
    words = [sys.executable, "-c", PLAIN, str(tmp_path / "better")]
    plain = subprocess.run(words, capture_output=True, text=True, check=True)
    mean, *sums = json.loads(plain.stdout.splitlines()[-1])
    assert sums == pytest.approx([float(weight.sum()) for weight in pipe.vae.parameters()])
    image = pipe([1, 2], num_inference_steps=2, generator=torch.manual_seed(0), output_type="pt").images
    assert mean == pytest.approx(float(image.mean()), rel=1e-4)


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a DiTTransformer2DModel of diffusers is not known here; give one of"):
        tokenizer_of(pipeline().transformer)
    with pytest.raises(ValueError, match="a Linear is not known here: of the pipelines of diffusers"):
        generator_of(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="image_size 15 is not a multiple of 2"):
        tokenizer_of(autoencoder(), 15)
    with pytest.raises(ValueError, match="makes images of 16 pixels, not 32"):
        tokenizer_of(representation(), 32)
    with pytest.raises(ValueError, match="takes images of 16 x 16 pixels, not 8 x 8"):
        tokenizer_of(autoencoder()).encode(torch.zeros(1, 3, 8, 8))
    autoencoder().save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="cannot be loaded by diffusers"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_models_in_half_precision_are_computed_with_in_float32(dtype, tmp_path):
    pipe = pipeline(side=32).to(dtype)
    whole = copy.deepcopy(pipe).to(torch.float32)
    drawn = robustok.sample(pipe, pipe.vae, [0, 1], steps=2)
    assert torch.equal(drawn, robustok.sample(whole, whole.vae, [0, 1], steps=2))
    images = FashionMNIST("train").subset(torch.arange(24))
    raw = robustok.score_tokenizer(pipe.vae, images, extract(), pfid_images=6)
    wanted = robustok.score_tokenizer(tokenizer_of(whole.vae, 32), images, extract(), pfid_images=6)
    assert [score.value for score in raw] == [score.value for score in wanted]
    config = replace(POST, loop=replace(POST.loop, steps=1))
    arguments = {"config": config, "sampling": FlowSampling(steps=2), "pairs": 16, "held_out": 8, "features": extract()}
    tuned = robustok.post_train(pipe.vae, pipe, images, tmp_path / "run", sigma=0.9, **arguments)
    assert tuned.last_layer.dtype == torch.float32
    assert pipe.vae.dtype == pipe.transformer.dtype == dtype  # what was given stays as it was
    pipe.vae = tuned.to_diffusers()
    assert pipe.vae.dtype == dtype
    pipe([1], num_inference_steps=1, generator=torch.manual_seed(0), output_type="pt")


def test_raw_models_of_any_precision_are_scored_or_refused_in_a_line():
    images = FashionMNIST("train", size=32).subset(torch.arange(6))
    for make in (autoencoder, vq_model):
        for dtype in (torch.float32, torch.bfloat16):
            scores = robustok.score_tokenizer(make().to(dtype), images, extract())
            assert {"rfid", "pfid", "psnr"} <= {score.metric for score in scores}
    with pytest.raises(ValueError, match="a AutoencoderKL encodes to a AutoencoderKLOutput, not to latents"):
        score_tokenizer(autoencoder(sample_size=32), images, extract())
    with pytest.raises(ValueError, match="a AutoencoderKL in torch.float16 takes no float32"):
        score_tokenizer(autoencoder(sample_size=32).half(), images, extract())
