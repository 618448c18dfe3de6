"""Generators of ImageNet at 256 pixels, of the sizes and by the settings of their papers.

Codes, tokens, channels and classes follow from the tokenizer and the images on the command line. Dropout inside the
networks (RAR and LlamaGen: 0.1) is not here.
"""

from robustok.generators.autoregressive import Autoregressive
from robustok.generators.diffusion_transformer import DiffusionTransformer
from robustok.generators.flow_matching import TrainingTimes
from robustok.generators.llama import Llama
from robustok.generators.masked import Masked
from robustok.presets.scales import epochs, in_scales
from robustok.training.generator_training import GeneratorTraining
from robustok.training.loop import Loop
from robustok.training.optim import Optim


@in_scales(micro_batches=64)
def rar_b() -> GeneratorTraining:
    """RAR-B: autoregressive, random orders annealed to raster between half and three quarters (arXiv 2411.00776).

    Cost: 212 EFLOP, 149 hours.
    Published: gFID 1.95 on MaskGIT-VQGAN, 1.83 on RobusTok and 1.60 after post-training. Not yet run here.
    """
    return rar(768)


@in_scales(micro_batches=128)
def rar_l() -> GeneratorTraining:
    """RAR-L: as RAR-B, wider.

    Cost: 373 EFLOP, 261 hours.
    Published: gFID 1.70 on MaskGIT-VQGAN, 1.60 on RobusTok and 1.36 after post-training. Not yet run here.
    """
    return rar(1024)


def rar(width: int) -> GeneratorTraining:
    """RAR of a width: 250,000 steps, of which the first quarter is warm-up.

    Embeddings decay as every matrix does; in the released code nothing does whose name has "embed" in it.
    """
    network = Autoregressive(
        codebook_size=4096, tokens=256, classes=1000, width=width, depth=24, heads=16, modulated=True
    )
    optim = Optim(lr=4e-4, betas=(0.9, 0.96), weight_decay=0.03, warmup=62_500, final_lr_fraction=1e-5 / 4e-4)
    loop = Loop(steps=250_000, batch_size=2048, log_every=50, save_every=5000)
    return GeneratorTraining(generator=network, loop=loop, optim=optim, ema_decay=0.0)


@in_scales(micro_batches=8)
def llamagen_b() -> GeneratorTraining:
    """LlamaGen-B: Llama in raster order, 300 epochs at a constant learning rate (arXiv 2406.06525).

    Cost: 60 EFLOP, 42 hours.
    Published: gFID 5.46 on LlamaGen's VQ-16. Not yet run here.
    """
    return llamagen(Llama(width=768, depth=12, heads=12, hidden=2048))


@in_scales(micro_batches=16)
def llamagen_l() -> GeneratorTraining:
    """LlamaGen-L: as LlamaGen-B, wider and deeper.

    Cost: 199 EFLOP, 140 hours.
    Published: gFID 3.80 on LlamaGen's VQ-16, 3.51 after post-training; 3.51 on RobusTok. Not yet run here.
    """
    return llamagen(Llama(width=1024, depth=24, heads=16, hidden=2816))


def llamagen(network: Llama) -> GeneratorTraining:
    """LlamaGen of a size."""
    optim = Optim(lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05, final_lr_fraction=1.0)
    loop = Loop(steps=epochs(300, 256), batch_size=256, log_every=100, save_every=5000)
    return GeneratorTraining(generator=network, loop=loop, optim=optim, ema_decay=0.0)


@in_scales(micro_batches=16)
def maskgit() -> GeneratorTraining:
    """MaskGIT: fills in masked tokens, 300 epochs (arXiv 2202.04200).

    Optimizer as in the released configuration, which has 16 heads (paper: 8).

    Cost: 107 EFLOP, 75 hours.
    Published: gFID 6.18 on its own VQGAN. Not yet run here.
    """
    network = Masked(codebook_size=1024, tokens=256, classes=1000, width=768, depth=24, heads=8)
    optim = Optim(lr=1e-4, betas=(0.9, 0.96), weight_decay=0.045, warmup=5000, final_lr_fraction=1.0)
    loop = Loop(steps=epochs(300, 256), batch_size=256, log_every=100, save_every=5000)
    return GeneratorTraining(generator=network, loop=loop, optim=optim)


@in_scales(micro_batches=32)
def sit_xl() -> GeneratorTraining:
    """SiT-XL/2: flow matching on Stable Diffusion's latents, 1400 epochs (arXiv 2401.08740).

    Cost: 1277 EFLOP, 896 hours.
    Published: gFID 2.06 with guidance 1.5. Not yet run here.
    """
    network = DiffusionTransformer(
        tokens=1024,
        channels=4,
        classes=1000,
        width=1152,
        depth=28,
        heads=16,
        patch=2,
        mlp="gelu",
        norm="layer",
        rotary=False,
        qk_norm=False,
    )
    optim = Optim(lr=1e-4, betas=(0.9, 0.999), final_lr_fraction=1.0, clip=0.0)
    loop = Loop(steps=epochs(1400, 256), batch_size=256, log_every=100, save_every=5000)
    return GeneratorTraining(generator=network, loop=loop, optim=optim)


@in_scales(micro_batches=128)
def lightningdit_xl() -> GeneratorTraining:
    """LightningDiT-XL/1: flow matching on VA-VAE's latents, 64 epochs (arXiv 2501.01423).

    The direction of the velocity, which they add to its error, is not here.

    Cost: 58 EFLOP, 41 hours.
    Published: gFID 2.11 with guidance after 64 epochs. Not yet run here.
    """
    network = DiffusionTransformer(tokens=256, channels=32, classes=1000, width=1152, depth=28, heads=16, qk_norm=False)
    optim = Optim(lr=2e-4, betas=(0.9, 0.95), final_lr_fraction=1.0)
    loop = Loop(steps=epochs(64, 1024), batch_size=1024, log_every=100, save_every=5000)
    times = TrainingTimes(distribution="logit-normal")
    return GeneratorTraining(generator=network, loop=loop, optim=optim, times=times)
