"""The examples of docs/launch: shell and YAML are sound, robustok understands them, Slurm's requeues."""

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from robustok.cli.options import Command, Configurable, check_names, name_of, verb_named
from robustok.cli.parser import parse
from robustok.cli.verbs import VERBS

LAUNCH = Path(__file__).parents[1] / "docs" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


def understood(words: list[str]) -> Command:
    """A command whose options and settings there are. Raises ValueError."""
    command = parse(verb_named(words[0], VERBS), words[1:])
    assert isinstance(command, Command)
    if isinstance(command, Configurable):
        check_names(type(command), command.typed, command.chosen())
    return command


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_sound_bash(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert script.read_text().startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in script.read_text()


def test_one_machine_runs_stages_that_there_are():
    text = (LAUNCH / "one_machine.sh").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.startswith("robustok ")]
    verbs = [name_of(type(understood(shlex.split(line)[1:]))) for line in lines]
    assert verbs == ["train-tokenizer", "encode", "train-generator", "post-train"]


def test_the_usage_of_the_slurm_script_is_understood():
    usage = re.search(r"^# sbatch slurm.sh (.*)$", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE)
    assert name_of(type(understood(shlex.split(usage[1])))) == "train-generator"


@pytest.fixture
def slurm(tmp_path):
    """Runs slurm.sh with stand-ins for Slurm's commands, which write down how they were called."""
    stand_ins = {
        "srun": """echo "srun $*" >> "$CALLS"; trap 'echo terminated >> "$CALLS"; exit 143' TERM
            sleep "$WORK" & wait; exit "$STATUS\"""",
        "scontrol": """echo "scontrol $*" >> "$CALLS"; [ "$1" != show ] || printf 'node1\nnode2\n'""",
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"

    def run(*, work: float, status: int = 0, stop_it: bool = False) -> tuple[int, list[str]]:
        around = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "WORK": str(work)}
        around |= {"STATUS": str(status), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2"}
        around |= {"SLURM_GPUS_PER_NODE": "8", "SLURM_JOB_ID": "42"}
        process = subprocess.Popen(["bash", LAUNCH / "slurm.sh", "train-generator", "rar_l"], env=around)
        if stop_it:
            until = time.monotonic() + 30
            while not calls.exists() or "srun" not in calls.read_text():
                assert process.poll() is None, f"the script ended with {process.returncode} before it called srun"
                assert time.monotonic() < until, "the script does not call srun"
                time.sleep(0.02)
            time.sleep(0.2)
            process.send_signal(signal.SIGTERM)
        return process.wait(30), calls.read_text().splitlines()

    return run


def test_a_slurm_job_that_is_told_to_stop_is_queued_again(slurm):
    status, calls = slurm(work=20, stop_it=True)
    assert status == 0
    assert calls[-2:] == ["terminated", "scontrol requeue 42"]


@pytest.mark.parametrize("status", [0, 1])
def test_a_slurm_job_that_ends_by_itself_is_not(slurm, status):
    ended, calls = slurm(work=0, status=status)
    assert ended == status
    assert not any("requeue" in call for call in calls)
    (started,) = (call for call in calls if call.startswith("srun"))
    for words in ("--nnodes 2 --nproc-per-node 8", "--rdzv-endpoint node1:29500", "--max-restarts 3"):
        assert words in started
    assert started.endswith("-m robustok train-generator rar_l")


def test_the_kubernetes_pods_meet_at_the_first_of_them():
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    spec, name = job["spec"], job["metadata"]["name"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    words = dict(word.removeprefix("--").split("=") for word in container["command"] if "=" in word)
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(words["nnodes"])
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) == int(words["nproc-per-node"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert words["rdzv-endpoint"].split(":")[0] == f"{name}-0.{pod['subdomain']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert container["command"][-2:] == ["-m", "robustok"]
    assert name_of(type(understood(container["args"]))) == "train-generator"
    patience = next(int(v["value"]) for v in container["env"] if v["name"] == "TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    assert patience < pod["terminationGracePeriodSeconds"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
