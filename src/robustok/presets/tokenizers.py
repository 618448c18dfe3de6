"""Main training of the paper's tokenizer on ImageNet at 256 pixels, its ablations, and what the released code does.

Settings: arXiv 2509.12474, sec. 4.2 and A.2, and where the paper is silent the released configuration. Beyond both: no
stochastic depth (released: 0.1), cosines and a temperature in the semantic term (released: plain dot products), and
the discriminator's learning rate falls over the whole run (released: from the epoch in which it sets in).
"""

from dataclasses import replace

from robustok.backbones.dino import DINO, DINOv2
from robustok.backbones.vgg import LPIPSVGG
from robustok.losses.augmentation import Augmentation
from robustok.losses.discriminator import DinoDiscriminator
from robustok.presets.scales import epochs, in_scales, varied
from robustok.tokenizer.autoencoder import AutoencoderConfig
from robustok.tokenizer.bottleneck import Plain
from robustok.tokenizer.encoder import ViT
from robustok.tokenizer.frozen_encoder import FrozenDINOv2
from robustok.tokenizer.latent_perturbation import AddedNoise, LatentNoise
from robustok.tokenizer.perturbation import Perturbation, ReleasedPerturbation
from robustok.tokenizer.quantizer import VQ
from robustok.tokenizer.tokenizer import TokenizerConfig
from robustok.training.discriminator_training import Adversarial
from robustok.training.loop import Loop
from robustok.training.objective import Objective
from robustok.training.optim import Optim
from robustok.training.tokenizer_training import TokenizerTraining

BATCH = 1024
EPOCH = epochs(1, BATCH)
MICRO_BATCHES = 16  # of a batch on one GPU: 64 images at a time


@in_scales(MICRO_BATCHES)
def robustok_imagenet256() -> TokenizerTraining:
    """RobusTok: 256 tokens of 4096 codes, DINOv2-B encoder and decoder, latent perturbation annealed to half.

    Cost: 208 EFLOP, 146 hours.
    Published: rFID 1.02, pFID 2.28; gFID 1.83 with RAR-B and 1.60 with RAR-L. Not yet run here.
    """
    return TokenizerTraining(
        tokenizer=TokenizerConfig(
            image_size=256,
            encoder=ViT(patch=16, latents=256, width=768, depth=12, heads=12, layer_scale=1.0),
            quantizer=VQ(codebook_size=4096, width=64, normalized=True, commitment=0.25),
            decoder=ViT(patch=16, latents=256, width=768, depth=12, heads=12, layer_scale=1.0),
        ),
        start=DINOv2(),
        loop=Loop(steps=epochs(200, BATCH), batch_size=BATCH, log_every=100, save_every=EPOCH, preview_every=5000),
        perturbation=Perturbation(alpha=1.0, beta=0.1, delta=100, anneal_start=0.2, anneal_end=0.6, final_fraction=0.5),
        objective=objective(),
        semantic=0.1,
        teacher=DINOv2(),
        semantic_size=256,
        optim=Optim(lr=2.4e-4, warmup=EPOCH, final_lr_fraction=5e-5 / 2.4e-4),
        ema_decay=0.9999,
    )


def objective() -> Objective:
    """The losses of images: squared error, LPIPS, and from epoch 56 of 200 on a discriminator on DINO's features."""
    return Objective(
        l2=1.0,
        perceptual=1.0,
        network=LPIPSVGG(),
        perceptual_stages=5,
        adversarial=0.5,
        adversary=Adversarial(
            discriminator=DinoDiscriminator(network=DINO(), together=8),
            optim=Optim(lr=8e-4, weight_decay=5e-4, warmup=4 * EPOCH, final_lr_fraction=5e-5 / 8e-4),
            kind="hinge",
            disc_start=56 / 200,
            gan_start=56 / 200,
            adaptive=True,
            lecam=0.001,
            augmentation=Augmentation(probability=1.0, cutout=0.2),
        ),
    )


@in_scales(MICRO_BATCHES)
def robustok_unperturbed() -> TokenizerTraining:
    """Ablation: no perturbation.

    Cost: 208 EFLOP, 146 hours.
    Published: rFID 0.91, pFID 6.98; gFID 4.13 with LlamaGen-L. Not yet run here.
    """
    return varied(robustok_imagenet256(), perturbation={"beta": 0.0})


@in_scales(MICRO_BATCHES)
def robustok_unannealed() -> TokenizerTraining:
    """Ablation: perturbation at full strength to the end.

    Cost: 208 EFLOP, 146 hours.
    Published: rFID 1.58, pFID 3.61; gFID 3.93 with LlamaGen-L. Not yet run here.
    """
    return varied(robustok_imagenet256(), perturbation={"final_fraction": 1.0})


@in_scales(MICRO_BATCHES)
def robustok_beta_half() -> TokenizerTraining:
    """Ablation: half of the images perturbed, at full strength to the end (whether it was annealed is not told).

    Cost: 208 EFLOP, 146 hours.
    Published: rFID 3.97, pFID 4.52; gFID 5.40 with LlamaGen-L. Not yet run here.
    """
    return varied(robustok_imagenet256(), perturbation={"beta": 0.5, "final_fraction": 1.0})


@in_scales(MICRO_BATCHES)
def robustok_annealed_to_zero() -> TokenizerTraining:
    """Ablation: perturbation annealed to nothing.

    Cost: 208 EFLOP, 146 hours.
    Published: rFID 0.97, pFID 4.89; gFID 1.97 with RAR-B. Not yet run here.
    """
    return varied(robustok_imagenet256(), perturbation={"final_fraction": 0.0})


@in_scales(MICRO_BATCHES)
def robustok_reference_code() -> TokenizerTraining:
    """What the released code does: tokens perturbed by chance, of the batch's first images; no clipping, no revival.

    Cost: 208 EFLOP, 146 hours.
    Published: the scores of `robustok_imagenet256` are those of the authors' code. Not yet run here.
    """
    unclipped = {"optim": {"clip": 0.0}}
    return varied(
        robustok_imagenet256(),
        perturbation=ReleasedPerturbation(
            alpha=1.0, beta=0.1, delta=100, anneal_start=0.2, anneal_end=0.6, final_fraction=0.5
        ),
        tokenizer={"quantizer": {"revive_after": 0}},
        objective={"adversary": unclipped},
        **unclipped,
    )


@in_scales(MICRO_BATCHES)
def continuous_imagenet256() -> TokenizerTraining:
    """A continuous twin: 128 latents of 32 channels as MAETok's (arXiv 2502.03444), with perturbed latents.

    40 to 60 % of the patches are hidden; MAETok's auxiliary decoders are not here.

    Cost: 156 EFLOP, 109 hours.
    Not yet run by anybody.
    """
    discrete, part = robustok_imagenet256(), ViT(latents=128, layer_scale=1.0)
    return TokenizerTraining(
        tokenizer=AutoencoderConfig(image_size=256, encoder=part, bottleneck=Plain(width=32), decoder=part),
        start=DINOv2(),
        loop=discrete.loop,
        perturbation=LatentNoise(beta=0.1),
        mask_ratio_min=0.4,
        mask_ratio_max=0.6,
        objective=discrete.objective,
        optim=discrete.optim,
    )


@in_scales(MICRO_BATCHES)
def rae_imagenet256() -> TokenizerTraining:
    """RAE: a frozen DINOv2-B, 256 latents of 768 channels, a ViT-XL decoder, added noise (arXiv 2510.11690).

    16 epochs, with the losses of `robustok_imagenet256`; RAE's have an L1 term in the place of the squared error.

    Cost: 35 EFLOP, 25 hours.
    Published: rFID 0.57, 0.49 without noise. Not yet run here.
    """
    encoder, discrete = FrozenDINOv2(), robustok_imagenet256()
    return TokenizerTraining(
        tokenizer=AutoencoderConfig(
            image_size=256,
            encoder=encoder,
            bottleneck=Plain(width=encoder.width),
            decoder=ViT(patch=16, latents=256, width=1152, depth=28, heads=16, layer_scale=None),
        ),
        loop=replace(discrete.loop, steps=epochs(16, BATCH)),
        perturbation=AddedNoise(),
        objective=discrete.objective,
        optim=replace(discrete.optim, lr=2e-4, final_lr_fraction=0.1),
    )
