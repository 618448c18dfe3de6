import numpy as np
import pytest
import torch
from tests.evaluation.scored import InMemory

from robustok.data.npz import NpzImages
from robustok.evaluation.features.extractor import Outputs
from robustok.evaluation.metrics.fid import frechet_distance
from robustok.evaluation.scores.feature_stream import stream_of
from robustok.evaluation.scores.image_scores import score_features
from robustok.evaluation.scores.reference import Reference, read_reference

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 16, 16, 3), dtype=np.uint8)


class Images(InMemory):
    def __init__(self, pixels: np.ndarray):
        super().__init__(torch.from_numpy(pixels).permute(0, 3, 1, 2))


class Quarters:
    """Mean colors, and in more detail where."""

    name = "quarters"

    def __call__(self, pixels):
        return self.outputs(pixels).features

    def outputs(self, pixels):
        spatial = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 2).flatten(1)
        return Outputs(pixels.float().mean(dim=(2, 3)), spatial=spatial)

    def describe(self):
        return {"features": self.name}


def moments(features: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    x = features.double().numpy()
    return x.mean(axis=0), np.cov(x, rowvar=False)


@pytest.fixture
def adm() -> dict[str, np.ndarray]:
    """As ADM's reference files are, with the images that the statistics are of."""
    out = Quarters().outputs(torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    (mu, sigma), (mu_s, sigma_s) = moments(out.features), moments(out.spatial)
    return {"arr_0": PIXELS, "mu": mu, "sigma": sigma, "mu_s": mu_s, "sigma_s": sigma_s}


def test_adm_files_score_as_their_images_do(tmp_path, adm):
    np.savez(tmp_path / "virtual.npz", **adm)
    seen = []
    reference = read_reference(tmp_path / "virtual.npz", Quarters(), progress=lambda *both: seen.append(both))
    wanted = Reference.of(Images(PIXELS), Quarters())
    other = stream_of(Images(np.roll(PIXELS, 1, axis=0) // 2), Quarters())
    scores = {s.metric: s.value for s in score_features(other, reference)}
    assert scores == pytest.approx({s.metric: s.value for s in score_features(other, wanted)}, rel=1e-9)
    assert {"gfid", "sfid", "precision", "recall"} <= scores.keys()
    assert scores["sfid"] == pytest.approx(frechet_distance(wanted.spatial, other.spatial), rel=1e-9)
    assert reference.images["name"] == "virtual.npz"
    assert len(reference.images["hash"]) == 16
    assert reference.images["sample_hash"]
    assert seen == [(60, 60)]


def test_keeps_as_many_as_asked_for(tmp_path, adm):
    np.savez(tmp_path / "virtual.npz", **adm)
    assert len(read_reference(tmp_path / "virtual.npz", Quarters(), keep=20).sample) == 20


def test_images_that_are_not_square_are_cropped_as_folders_are(tmp_path):
    """The features of the file's sample are those of the middle squares, not of squashed images."""
    wide = np.random.default_rng(1).integers(0, 256, (20, 16, 24, 3), dtype=np.uint8)
    middle = torch.from_numpy(wide[:, :, 4:20].copy()).permute(0, 3, 1, 2)
    mu, sigma = moments(Quarters()(middle))
    np.savez(tmp_path / "wide.npz", arr_0=wide, mu=mu, sigma=sigma)
    assert torch.equal(read_reference(tmp_path / "wide.npz", Quarters()).sample, Quarters()(middle))
    assert torch.equal(stream_of(NpzImages(tmp_path / "wide.npz"), Quarters()).sample, Quarters()(middle))


def test_statistics_alone_have_no_precision(tmp_path, adm):
    np.savez(tmp_path / "stats.npz", mu=adm["mu"], sigma=adm["sigma"].astype(np.float32))
    reference = read_reference(tmp_path / "stats.npz", Quarters())
    other = stream_of(Images(PIXELS // 2), Quarters())
    with pytest.warns(UserWarning, match="reference has statistics only, so precision, recall.* make a reference"):
        scores = score_features(other, reference)
    assert [score.metric for score in scores] == ["gfid", "vendi"]
    low, high = scores[0].interval
    assert low < scores[0].value < high


@pytest.mark.parametrize("few", [1, 3])
def test_statistics_with_few_images_have_the_distance(tmp_path, adm, few):
    np.savez(tmp_path / "few.npz", **{**adm, "arr_0": PIXELS[:few]})
    reference = read_reference(tmp_path / "few.npz", Quarters())
    other = stream_of(Images(PIXELS // 2), Quarters())
    with pytest.warns(UserWarning, match=f"precision and recall left out, .* real images, {few}; give 4 or more"):
        scores = {score.metric: score.value for score in score_features(other, reference)}
    assert {"gfid", "sfid"} <= scores.keys()
    assert scores.keys() & {"precision", "recall", "density", "coverage"} == set()
    assert ("kid" in scores) == ("mind" in scores) == (few > 1)
    wanted = stream_of(Images(PIXELS), Quarters()).stats
    assert scores["gfid"] == pytest.approx(frechet_distance(wanted, other.stats), rel=1e-9)


@pytest.mark.parametrize("names", [("mu", "sigma"), ("mu_s", "sigma_s")])
def test_refuses_a_covariance_with_negative_variances(tmp_path, adm, names):
    values, vectors = np.linalg.eigh(adm[names[1]])
    values[0] = -values[-1] / 10
    np.savez(tmp_path / "stats.npz", **{**adm, names[1]: vectors * values @ vectors.T})
    with pytest.raises(ValueError, match=r"stats.npz: the covariance has a variance of -\S+ along one axis .* none is"):
        read_reference(tmp_path / "stats.npz", Quarters())
    np.savez(tmp_path / "stats.npz", **{**adm, names[1]: vectors * values.clip(0) @ vectors.T})  # but for rounding
    assert read_reference(tmp_path / "stats.npz", Quarters()).stats.count == 0


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_as_torch_fidelity_caches_them(tmp_path, adm, kind):
    torch.save({name: kind(adm[name]) for name in ("mu", "sigma")}, tmp_path / "cached.pt")
    reference = read_reference(tmp_path / "cached.pt", Quarters())
    np.testing.assert_allclose(reference.stats.mean, adm["mu"])
    np.testing.assert_allclose(reference.stats.covariance, adm["sigma"])


@pytest.mark.parametrize("kind", [">f8", np.longdouble])
def test_numbers_that_torch_does_not_know_are_read(tmp_path, adm, kind):
    """Of the other byte order, as big-endian machines write them, and longer ones."""
    wanted = read_reference(_saved(tmp_path / "usual.npz", mu=adm["mu"], sigma=adm["sigma"]), Quarters())
    found = read_reference(
        _saved(tmp_path / "other.npz", mu=adm["mu"].astype(kind), sigma=adm["sigma"].astype(kind)), Quarters()
    )
    assert torch.equal(found.stats.mean, wanted.stats.mean)
    assert torch.equal(found.stats.scatter, wanted.stats.scatter)


def test_refuses_statistics_and_images_of_none(tmp_path, adm):
    with pytest.raises(ValueError, match=r"a mean of shape \(0,\)"):
        read_reference(_saved(tmp_path / "a.npz", mu=adm["mu"][:0], sigma=adm["sigma"][:0, :0]), Quarters())
    with pytest.raises(ValueError, match=r"arr_0 in .* is uint8 of shape \(0, 16, 16, 3\)"):
        read_reference(_saved(tmp_path / "b.npz", **adm | {"arr_0": PIXELS[:0]}), Quarters())


def _saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_our_own_files(tmp_path):
    reference = Reference.of(Images(PIXELS), Quarters())
    reference.save(tmp_path / "own.safetensors")
    read = read_reference(tmp_path / "own.safetensors", Quarters())
    assert torch.equal(read.stats.scatter, reference.stats.scatter)
    assert torch.equal(read.spatial.scatter, reference.spatial.scatter)
    with pytest.raises(ValueError, match="reference was computed with features 'quarters'"):
        read_reference(tmp_path / "own.safetensors", lambda pixels: pixels.float().mean(dim=(2, 3)))


def test_the_hash_follows_the_statistics(tmp_path, adm):
    hashes = []
    for number in range(2):
        np.savez(tmp_path / "stats.npz", mu=adm["mu"] + number, sigma=adm["sigma"])
        hashes.append(read_reference(tmp_path / "stats.npz", Quarters()).images["hash"])
    assert hashes[0] != hashes[1]


def test_refuses_files_of_another_space(tmp_path, adm):
    path = tmp_path / "virtual.npz"
    np.savez(path, mu=np.zeros(2048), sigma=np.eye(2048))
    with pytest.raises(ValueError, match=r"virtual.npz is of 2048 features and quarters makes 3; .* inception"):
        read_reference(path, Quarters())
    np.savez(path, **{**adm, "mu": adm["mu"] + 40})
    with pytest.raises(
        ValueError, match="images in .*virtual.npz have other features than its statistics, by .* times"
    ):
        read_reference(path, Quarters())


def test_refuses_damaged_and_incomplete_files(tmp_path, adm):
    path, torch_path = tmp_path / "virtual.npz", tmp_path / "cached.pt"

    def refused(match: str, **arrays: np.ndarray) -> None:
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=match):
            read_reference(path, Quarters())

    mu, sigma = adm["mu"], adm["sigma"]
    refused("virtual.npz has no sigma; give a file that holds mu and sigma", mu=mu)
    refused("no statistics, only arr_0; these are images, so make a reference from them", arr_0=PIXELS)
    refused("no statistics, only x; give one with mu and sigma", x=mu)
    refused("only one of mu_s and sigma_s", mu=mu, sigma=sigma, mu_s=mu)
    refused("mu in .* is of type int64; statistics are floating-point", mu=np.arange(3), sigma=sigma)
    refused("virtual.npz: the covariance is not symmetric", mu=mu, sigma=np.triu(sigma))
    refused("arr_0 in .* is float64 of shape", **{**adm, "arr_0": PIXELS / 255})
    np.savez(path, **adm)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="cannot be read as an npz file .* give a whole file"):
        read_reference(path, Quarters())

    with pytest.raises(ValueError, match="there is no file .*cached.pt; give a safetensors or torch file"):
        read_reference(torch_path, Quarters())
    torch.save([mu], torch_path)
    with pytest.raises(ValueError, match="cached.pt has no mu and sigma; .* torch-fidelity"):
        read_reference(torch_path, Quarters())
    torch_path.write_bytes(torch_path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="cached.pt was cut short or damaged"):
        read_reference(torch_path, Quarters())
    torch.save({"mu": Quarters()}, torch_path)  # would run code if it were unpickled
    with pytest.raises(ValueError, match="cached.pt is a pickle of more than tensors .*, whose code was not run"):
        read_reference(torch_path, Quarters())
    with pytest.raises(ValueError, match=r"stats.csv is no file of statistics; give a .safetensors, .npz, .pt or .pth"):
        read_reference(tmp_path / "stats.csv", Quarters())
