"""The command line: every mistake is one sentence with exit code 2, every command works."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from bench.augment.export import load
from bench.cli import app
from bench.preview import GAP, MARGIN, TILE
from tests.integration.conftest import Command

MISTAKES = {
    "nothing to run": (["run"], "--suite"),
    "two things to run": (["run", "--suite", "quick", "--data", "digits"], "--suite"),
    "unknown suite": (["run", "--suite", "quik"], "'quik'"),
    "unknown data": (["run", "--data", "digitz"], "'digitz'"),
    "missing folder": (["run", "--data", "folder:nowhere"], "'folder:nowhere'"),
    "unknown method": (["run", "--suite", "quick", "-m", "standart"], "'standart'"),
    "unknown option": (["run", "--suite", "quick", "-m", "standard[x=1]"], "unknown"),
    "bad value": (["run", "--suite", "quick", "-m", "standard[length=full]"], "'filled'"),
    "bad form": (["run", "--suite", "quick", "-m", "standard[length"], "name[option=value,...]"),
    "bad budget": (["run", "--suite", "quick", "--budget", "three"], "'three'"),
    "zero budget": (["run", "--suite", "quick", "--budget", "0rt"], "'0rt'"),
    "bad track": (["run", "--suite", "quick", "--track", "fast"], "'fast'"),
    "bad distortion": (["run", "--data", "digits", "--distort", "noise=2"], "noise"),
    "bad network": (["run", "--data", "digits", "--network", "wrn-11-1"], "wrn-11-1"),
    "too small": (["run", "--data", "digits", "--network", "lenet"], "28×28"),
    "unknown timm": (["run", "--data", "digits", "--network", "timm:nope"], "timm:nope"),
    "bad device": (["run", "--suite", "quick", "--devices", "99"], "'99'"),
    "suite with data's option": (["run", "--suite", "quick", "--network", "lenet"], "--network"),
    "bad name": (["run", "--data", "digits", "--name", "../x"], "name"),
    "no records": (["leaderboard", "nothing"], "no records"),
    "missing plugin": (["list", "methods", "--plugin", "nowhere.py"], "nowhere.py"),
    "unknown list": (["list", "animals"], "'animals'"),
    "bad method name": (["new", "My Method"], "'My Method'"),
    "unknown check": (["check", "nothing"], "'nothing'"),
}


@pytest.mark.parametrize(("arguments", "names"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], names: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)  # in this process: importing torch takes seconds
    assert done.exit_code == 2, done.output
    assert names in done.stderr
    assert done.stderr.startswith("augbench: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_mistake_is_one_sentence_in_a_process_of_its_own_too(alone: Command) -> None:
    done = alone("run", "--suite", "quick", "--track", "gpu", "--devices", "cpu")
    assert done.returncode == 2
    assert done.stderr.startswith("augbench: --track gpu needs a CUDA device")
    assert done.stderr.count("\n") == 1


def test_help_answers_without_torch(alone: Command) -> None:
    began = time.monotonic()
    done = alone("--help")
    assert done.returncode == 0
    for command in ("run", "preview", "policy", "points", "new", "check", "list", "leaderboard"):
        assert command in done.stdout
    assert time.monotonic() - began < 5  # a hang, not a speed: benchmarks/ measures speed


LISTS = {
    "methods": "length=natural, data=train",
    "tasks": "digits · imbalance=10,noise=0.1 · small-cnn",
    "suites": "quick",
    "networks": "wrn-D-K",
    "data": "folder:PATH",
    "spaces": "wide-long",
}


@pytest.mark.parametrize(("what", "entry"), LISTS.items())
def test_lists(what: str, entry: str) -> None:
    done = CliRunner().invoke(app, ["list", what])
    assert done.exit_code == 0
    assert entry in done.stdout


def test_preview_and_export_as_a_user_would(augbench: Command, tmp_path: Path) -> None:
    options = ["--data", "digits", "--steps", "5", "--budget", "1rt", "--seeds", "1"]
    done = augbench("run", *options, "-m", "randaugment[n=1]")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results/digits/runs").glob("*.json")

    drawn = augbench("preview", "trivialaugment", "--rows", "2", "--output", "start.png")
    assert drawn.returncode == 0, drawn.stderr
    learned = augbench("preview", path.stem[:8], "--draws", "3", "--output", "end.png")
    assert learned.returncode == 0, learned.stderr
    for name, columns in (("start.png", 7), ("end.png", 4)):
        with Image.open(tmp_path / name) as image:
            assert columns == (image.width - 2 * MARGIN + GAP) / (TILE + GAP)

    exported = augbench("policy", "export", path.stem, "--output", "policy.json")
    assert exported.returncode == 0, exported.stderr
    transform = load(tmp_path / "policy.json")
    image = Image.effect_noise((8, 8), 60)
    assert transform(image).size == (8, 8)
    assert transform.policy.describe() == json.loads(path.read_text())["policy"]


LEARNS = """
import torch
from bench.augment.policy import Identity
from bench.method import Fitted, Method, Points
from bench.train.loops import fit

class Learns(Method):
    name = "learns"

    def run(self, session):
        learner, labels = session.learner(), session.task.train.labels
        fit(session, learner, Identity())
        points = Points(
            weights=labels.float(),
            labels=torch.nn.functional.one_hot(labels, session.task.classes).float(),
            probability=torch.full((len(labels), 1), 0.5),
            operations=("rotate",),
        )
        return Fitted(learner, Identity(), points=points)
"""


def test_points_and_features_as_a_user_would(augbench: Command, tmp_path: Path) -> None:
    (tmp_path / "learns.py").write_text(LEARNS)
    run = [
        "run", "--data", "digits", "--steps", "5", "--budget", "1rt", "--seeds", "1",
        "--distort", "noise=0.2", "--plugin", "learns.py",
    ]  # fmt: skip
    chosen = ["-m", "learns", "-m", "standard[length=filled,data=train+val]", "-m", "none"]
    kept = augbench(*run, *chosen, "--keep-features", "--name", "kept")
    assert kept.returncode == 0, kept.stderr
    folder = tmp_path / "results" / "kept"
    found = {path: json.loads(path.read_text()) for path in (folder / "runs").glob("*.json")}
    named = {record["method"]["spec"]: path for path, record in found.items()}
    assert "standard[data=train+val,length=filled]" in named
    for path, record in found.items():
        file = folder / "points" / f"{path.stem}.npz"
        assert hashlib.sha256(file.read_bytes()).hexdigest() == record["side_file"]
    record = found[named["learns"]]
    assert record["points"]["label_recovery"] == 0.0
    assert record["points"]["label_damage"] == 0.0
    with np.load(folder / "points" / f"{named['learns'].stem}.npz") as arrays:
        assert arrays["features"].dtype == np.float16
        assert arrays["weights"].dtype == np.float32
        wrong = (arrays["true"] != arrays["predicted"]).mean()
    assert wrong == pytest.approx(record["scores"]["error"])

    drawn = augbench("points", str(named["learns"]), "--out", "learns.svg")
    assert drawn.stdout == "wrote learns.svg\n", drawn.stderr
    picture = (tmp_path / "learns.svg").read_text()
    for words in ("learned weights, AUROC", "recovered 0%", "mean probability", "t-SNE"):
        assert words in picture
    assert str(tmp_path) not in picture + json.dumps(record)

    # Without the flag: the same hash and bits.  Without its side file, all but the map is drawn.
    plain = augbench(*run, *chosen, "--name", "plain")
    assert plain.returncode == 0, plain.stderr
    for path, record in found.items():
        other = json.loads((tmp_path / "results/plain/runs" / path.name).read_text())
        for part in ("hash", "scores", "val_scores", "weights", "curve", "trace", "points"):
            assert other[part] == record[part]
    (folder / "points" / f"{named['learns'].stem}.npz").unlink()
    drawn = augbench("points", str(named["learns"]))
    assert "no map of features: results/kept/points/" in drawn.stdout.replace(f"{tmp_path}/", "")
    assert "t-SNE" not in (tmp_path / "points.svg").read_text()
    again = augbench(*run, *chosen, "--keep-features", "--name", "kept")
    assert "note: --keep-features keeps none of the 3 finished runs'" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["points", "deadbeef"], "'deadbeef'"),
        (["points", "absent.json"], "absent.json"),
        (["preview", "nonesuch"], "'nonesuch'"),
        (["preview", "deadbeef"], "'deadbeef'"),
        (["preview", "standard", "--data", "nowhere"], "'nowhere'"),
        (["policy", "export", "deadbeef"], "'deadbeef'"),
        (["policy", "export", "absent.json"], "absent.json"),
        (["list", "planets"], "spaces"),
    ],
)
def test_what_is_not_there_is_one_sentence(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_dry_run_projects_and_writes_nothing(augbench: Command, tmp_path: Path) -> None:
    done = augbench("run", "--suite", "quick", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "48 runs, 0 of them finished" in done.stdout
    assert "projected time on this machine: at most" in done.stdout
    assert not (tmp_path / "results").exists()


def test_new_check_run_as_a_newcomer_would(augbench: Command, tmp_path: Path) -> None:
    made = augbench("new", "my-method", "--folder", ".")
    assert made.returncode == 0
    assert "next: augbench check my-method --plugin my_method.py" in made.stdout
    checked = augbench("check", "my-method", "--plugin", "my_method.py")
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("ok ") == 8
    run = augbench(
        "run", "--data", "digits", "--steps", "20", "--budget", "1rt", "--seeds", "1",
        "--plugin", "my_method.py", "-m", "my-method", "-m", "my-method[strength=0.1]",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "my-method[strength=0.1]" in run.stdout
    assert augbench("new", "my-method", "--folder", ".").returncode == 2


def test_check_fails_a_method_that_breaks_rules(augbench: Command, tmp_path: Path) -> None:
    (tmp_path / "cheat.py").write_text(
        "import torch\n"
        "from bench.method import Fitted, Method\n"
        "from bench.augment.policy import Identity\n"
        "class Cheat(Method):\n"
        "    name = 'cheat'\n"
        "    def run(self, session):\n"
        "        learner = session.learner()\n"
        "        batch = next(session.batches('train'))\n"
        "        with session.metered('train'):\n"
        "            loss = learner.loss(batch.images, batch.targets)\n"
        "        learner.descend(loss + 0 * torch.rand(1).sum(), 0.0)\n"
        "        return Fitted(learner, Identity())\n"
    )
    done = augbench("check", "cheat", "--plugin", "cheat.py")
    assert done.returncode == 1
    assert "FAIL  bill" in done.stdout
    assert "FAIL  RNG hygiene" in done.stdout
    assert "ok    data wall" in done.stdout


def birds(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, colour in (("crow", 40), ("gull", 210)):
        (folder / name).mkdir(parents=True)
        for i in range(30):
            size = (20 + i % 3, 18 + i % 5, 3)
            pixels = rng.normal(colour, 30, size).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


def test_a_folder_of_ones_own(augbench: Command, tmp_path: Path) -> None:
    birds(tmp_path / "birds")
    options = ["--steps", "30", "--budget", "1", "--seeds", "1", "-m", "none", "-m", "standard"]
    done = augbench(
        "run", "--data", "folder:birds", *options, "--distort", "imbalance=2,noise=0.1"
    )
    assert done.returncode == 0, done.stderr
    paths = sorted((tmp_path / "results/folder-birds/runs").glob("*.json"))
    record = json.loads(paths[0].read_text())
    assert record["task"]["data"] == "folder:birds"
    assert record["task"]["classes"] == ["crow", "gull"]
    assert str(tmp_path) not in paths[0].read_text()

    (tmp_path / "birds/crow/torn.png").write_bytes(b"not a picture")
    refused = augbench("run", "--data", "folder:birds", *options)
    assert refused.returncode == 2
    assert "torn.png" in refused.stderr
    assert "--skip-corrupt" in refused.stderr


def test_a_mapped_cache_gives_the_same_bits(augbench: Command, tmp_path: Path) -> None:
    birds(tmp_path / "birds")
    options = ["--data", "folder:birds", "--steps", "20", "--budget", "1", "--seeds", "1"]
    weights = []
    for name, limit in (("held", "4"), ("mapped", "0.000001")):
        done = augbench("run", *options, "-m", "standard", "--name", name, "--memory-limit", limit)
        assert done.returncode == 0, done.stderr
        (path,) = (tmp_path / f"results/{name}/runs").glob("*.json")
        weights.append(json.loads(path.read_text())["weights"])
    assert (tmp_path / "data/.augbench-cache").is_dir()
    assert weights[0] == weights[1]
