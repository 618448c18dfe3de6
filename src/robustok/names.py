"""Names that are typed, of runs and of feature spaces, where help finds them without torch."""

# of `presets`, on the embedded images
RUNS = ("demo", "smoke", "masked", "masked-smoke", "continuous", "continuous-smoke", "rae", "rae-smoke")
TOKENIZERS = (  # of `presets.tokenizers`, on ImageNet, as are those that follow
    "robustok_imagenet256",
    "robustok_unperturbed",
    "robustok_unannealed",
    "robustok_beta_half",
    "robustok_annealed_to_zero",
    "robustok_reference_code",
    "continuous_imagenet256",
    "rae_imagenet256",
)
GENERATORS = ("rar_b", "rar_l", "llamagen_b", "llamagen_l", "maskgit", "sit_xl", "lightningdit_xl")
DECODERS = ("post_robustok", "post_off_the_shelf", "post_reference_code")
SCALES = ("", "-one_gpu", "-smoke")  # of each of these: the paper's, and two others

IN_PACKAGES = ("lite0", "lite1", "lite2", "vgg-hed")  # without a download: what trains in one is scored in others
SPACES = (*IN_PACKAGES, "inception", "dinov2", "dinov2-224", "clip", "siglip2", "mae", "convnextv2")


def scaled(recipes: tuple[str, ...]) -> tuple[str, ...]:
    """The names of recipes in every scale."""
    return tuple(f"{name}{scale}" for name in recipes for scale in SCALES)
