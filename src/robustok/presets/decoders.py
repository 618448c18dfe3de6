"""Post-training of decoders: RobusTok's, those of others, and what the released code does.

Paper (arXiv 2509.12474), sec. 4.3: half the learning rate of main training, no weight decay, the same terms, and a
discriminator that begins as main training left it.
"""

from dataclasses import replace

from robustok.generators.sampling import Sampling
from robustok.presets.scales import Scale, brief, epochs, in_micro_batches
from robustok.presets.tokenizers import BATCH, MICRO_BATCHES, objective, tiny_objective
from robustok.training.loop import Loop
from robustok.training.objective import Objective
from robustok.training.optim import Optim
from robustok.training.post_training import PostTraining
from robustok.training.tuning import DecoderTuning

PAIRS = 200_000
EPOCH = epochs(1, BATCH, PAIRS)


def post_robustok(scale: Scale = "paper") -> DecoderTuning:
    """RobusTok's decoder for RAR-B: 200,000 pairs that keep 70 % of their tokens, 40 epochs.

    Cost: 3.8 EFLOP, 2.7 hours.

    Published: gFID 1.83 -> 1.60 with RAR-B, 1.60 -> 1.36 with RAR-L. Not yet run here.
    """
    return post(scale, sigma=0.7, epochs_of_pairs=40)


def post_off_the_shelf(scale: Scale = "paper") -> DecoderTuning:
    """The decoder of a tokenizer that never saw perturbed latents: pairs that keep 90 %, 10 epochs.

    Cost: 0.94 EFLOP, 0.7 hours.

    Published: gFID 3.80 -> 3.51 with LlamaGen-L at sigma 0.95, 1.87 -> 1.68 with MAETok. Not yet run here.
    """
    return post(scale, sigma=0.9, epochs_of_pairs=10)


def post_reference_code(scale: Scale = "paper") -> DecoderTuning:
    """What the released code does: 100 epochs at a learning rate of 5e-5, a fresh discriminator, no clipping.

    It also decodes pairs to files and encodes them anew, which is not done here.

    Cost: 9.4 EFLOP, 6.6 hours.

    Published: the scores of `post_robustok` are those of the authors' code. Not yet run here.
    """
    config = post(scale, sigma=0.7, epochs_of_pairs=100)
    adversary = config.post.objective.adversary
    slow = Optim(lr=5e-5, warmup=config.post.optim.warmup, final_lr_fraction=0.2, clip=0.0)
    slow = replace(slow, micro_batches=config.post.optim.micro_batches)
    adversary = replace(adversary, optim=replace(slow, weight_decay=5e-4, micro_batches=1))
    tuned = replace(config.post, optim=slow, objective=replace(config.post.objective, adversary=adversary))
    return replace(config, post=tuned, fresh_discriminator=True, warm_up=0.0)


def post(scale: Scale, sigma: float, epochs_of_pairs: int) -> DecoderTuning:
    """Post-training at some sigma for so many epochs."""
    steps = epochs(epochs_of_pairs, BATCH, PAIRS)
    paper = PostTraining(
        loop=Loop(steps=steps, batch_size=BATCH, log_every=20, save_every=EPOCH, preview_every=5 * EPOCH),
        objective=from_the_start(objective()),
        optim=Optim(lr=1.2e-4, warmup=EPOCH, final_lr_fraction=5e-5 / 2.4e-4),
        ema_decay=0.999,
        check_every=5 * EPOCH,
    )
    whole = DecoderTuning(
        post=paper,
        sampling=Sampling(temperature=1.02, guidance=6.0, schedule="power-cosine", power=1.15),
        sigma=sigma,
        pairs=PAIRS,
        held_out=10_000,
    )
    match scale:
        case "paper":
            return whole
        case "one_gpu":
            return replace(whole, post=in_micro_batches(paper, MICRO_BATCHES, checkpointing=True))
        case "smoke":
            small = brief(paper, objective=tiny_objective(paper.objective), ema_decay=0.9, check_every=5)
            return replace(whole, post=small, pairs=32, held_out=16)


def from_the_start(config: Objective) -> Objective:
    """The same with a discriminator that knows its task from the first step, at half the learning rate."""
    optim = Optim(lr=4e-4, weight_decay=5e-4, warmup=EPOCH, final_lr_fraction=5e-5 / 8e-4)
    return replace(config, adversary=replace(config.adversary, optim=optim, disc_start=0.0, gan_start=0.0))
