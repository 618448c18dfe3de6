"""Every verb, in the order of `robustok --help`."""

from robustok.cli.analyze import Analyze
from robustok.cli.compare import Compare
from robustok.cli.demo import Demo
from robustok.cli.doctor import Doctor
from robustok.cli.encode import Encode
from robustok.cli.evaluate import Evaluate
from robustok.cli.export import Export
from robustok.cli.options import Command
from robustok.cli.post_train import PostTrain
from robustok.cli.push import Push
from robustok.cli.reference import Reference
from robustok.cli.report import Report
from robustok.cli.sample import Sample
from robustok.cli.train_generator import TrainGenerator
from robustok.cli.train_tokenizer import TrainTokenizer

VERBS: tuple[type[Command], ...] = (
    Demo,
    TrainTokenizer,
    TrainGenerator,
    PostTrain,
    Encode,
    Sample,
    Export,
    Push,
    Evaluate,
    Reference,
    Compare,
    Analyze,
    Report,
    Doctor,
)
