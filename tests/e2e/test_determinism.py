"""Two runs with `configs/trainer/deterministic.yaml`, each in a process of its own, agree to the last bit."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from .test_exact_resume import QUIET, curves
from .test_whole_method import BASE, POLICY, ROOT, parts, stack

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def start(root: Path, directory: Path, hash_seed: int) -> subprocess.Popen:
    """Three steps of stage 3 and a validation, in a process that orders sets of texts as no other does."""
    arguments = [
        *["fit", *stack(*BASE, "trainer/deterministic", "stage/grpo", "data/dfew", *POLICY, "demo/grpo"), *parts(root)],
        *[*QUIET, f"--data.root={root}/dfew", "--data.batch_size=2", "--data.validation_fraction=0.2"],
        *["--data.limit=10", "--data.eval_batch_size=2", "--model.group_size=3", "--data.num_workers=1"],
        *["--model.rollout_sampling.max_new_tokens=24", f"--model.verifier={root}/tiny/verifier"],
        *["--model.evaluation.max_new_tokens=4", "--model.evaluation.temperature=1.0", "--trainer.max_steps=3"],
        *["--trainer.val_check_interval=2", "--trainer.limit_val_batches=1"],
        f"--trainer.default_root_dir={directory}",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
    environment |= {"PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, str(ROOT / "main.py"), *arguments], env=environment)


def test_two_processes_train_the_same_to_the_last_bit(world: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "one", tmp_path / "other"]
    processes = [start(world, run, hash_seed=i) for i, run in enumerate(runs)]
    assert [process.wait() for process in processes] == [0, 0]
    one, other = ([load_file(file) for file in sorted((run / "model").rglob("*.safetensors"))] for run in runs)
    assert one and [tensors.keys() for tensors in one] == [tensors.keys() for tensors in other]
    for first, second in zip(one, other, strict=True):
        assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    logged = curves(runs[0])
    assert logged == curves(runs[1]) and {"train/sampler_drift", "train/loss", "reward/total", "val/war"} <= set(logged)


def _products_are_reproducible(queue: multiprocessing.Queue) -> None:
    from lightning_modules.determinism import make_products_reproducible, products_are_reproducible

    make_products_reproducible()
    queue.put((os.environ["MKL_CBWR"], products_are_reproducible()))


def test_products_no_longer_depend_on_where_matrices_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_CBWR", raising=False)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_products_are_reproducible, args=(queue,))
    process.start()
    assert queue.get(timeout=120) == ("AUTO,STRICT", True)
    process.join()
