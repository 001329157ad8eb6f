"""Fits on several devices that a coordinator ends: real ranks, forked from a kernel or started anew.

Each of the two costs seconds, since every process imports Lightning, and so there is one test for each way to start.
"""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from kernels import kernel

RISING = '''
import json, os, sys, warnings
import psutil, torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset
from mlops_nb.pruning import Pruning
from mlops_nb.trial import Pruned

warnings.simplefilter("ignore")

class Rising(LightningModule):
    """Its validation loss is half its epoch, and another one on another rank"""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_index):
        return self.layer(batch[0]).sum()

    def validation_step(self, batch, batch_index):
        self.log("validation/loss", self.current_epoch / 2 - 100 * self.global_rank)
        with open("epochs", "a") as file:
            print(self.global_rank, self.current_epoch, os.getpid(), file=file)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

def fit(strategy):
    batches = DataLoader(TensorDataset(torch.ones(2, 1)))
    trainer = Trainer(
        accelerator="cpu", devices=2, strategy=strategy, max_epochs=20, logger=False, num_sanity_val_steps=2,
        callbacks=[Pruning("validation/loss")], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(Rising(), batches, batches)
        said = "went on to the end"
    except Pruned as error:
        said = str(error)
    children = [child for child in psutil.Process().children() if child.pid in ranks()]
    return json.dumps({"said": said, "children": len(children), "main": os.getpid()})

def ranks():
    return {int(line.split()[2]) for line in open("epochs")}

if __name__ == "__main__":
    print(fit(sys.argv[1]))
'''


@contextmanager
def coordinator(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Ends whatever reports more than 1; gives what it heard"""
    heard: list[dict[str, Any]] = []

    def talk(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                heard.append(json.loads(line))
                connection.sendall(json.dumps({"prune": heard[-1]["value"] > 1}).encode() + b"\n")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=listener.accept()[:1], daemon=True).start()

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        threading.Thread(target=serve, daemon=True).start()
        yield heard
        listener.shutdown(socket.SHUT_RDWR)


def judge(folder: Path, answer: dict[str, Any], heard: list[dict[str, Any]]) -> None:
    """Rank zero alone reported, both ranks ended after the same epoch, and their processes are gone"""
    assert answer["said"] == "pruned at step 3, validation/loss 1.5"
    common = {"token": "abc", "name": "validation/loss", "better": "minimize"}
    assert heard == [common | {"step": step, "value": step / 2} for step in range(4)]
    seen = [tuple(map(int, line.split())) for line in (folder / "epochs").read_text().splitlines()]
    assert {(rank, epoch) for rank, epoch, _ in seen} == {(rank, epoch) for rank in (0, 1) for epoch in range(4)}
    ranks = {pid for _, _, pid in seen}
    assert len(ranks) == 2
    assert answer["main"] not in ranks
    assert answer["children"] == 0
    assert not any(psutil.pid_exists(pid) for pid in ranks)


def test_ranks_forked_from_a_kernel(tmp_path: Path, sockets: Path) -> None:
    """`ddp_notebook`, as in a stage notebook"""
    (tmp_path / "rising.py").write_text(RISING)
    with coordinator(tmp_path) as heard:
        variables = {"MLOPS_NB_TRIAL": f"{tmp_path}/socket abc"}
        with kernel(tmp_path, name="python3", env=variables) as started:
            said = started.run("import rising\nprint(rising.fit('ddp_notebook'))", timeout=300)
    judge(tmp_path, json.loads(said.splitlines()[-1]), heard)


def test_ranks_started_anew(tmp_path: Path) -> None:
    """`ddp_spawn`, as in a function"""
    (tmp_path / "rising.py").write_text(RISING)
    with coordinator(tmp_path) as heard:
        variables = os.environ | {"MLOPS_NB_TRIAL": f"{tmp_path}/socket abc"}
        command = [sys.executable, "rising.py", "ddp_spawn"]
        done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    judge(tmp_path, json.loads(done.stdout.splitlines()[-1]), heard)
