# What decides the result of stage train, written by mlops-nb sync. Do not edit.

# Interface
train: In = 'artifacts/train.parquet'
validation: In = 'artifacts/validation.parquet'
model: Out = 'artifacts/model.safetensors'
metrics: Metrics = 'reports/train/metrics.json'
curves: Plots = 'reports/train/curves'
architecture: Literal['convolutional', 'linear']
epochs: int
patience: int
batch_size: int
learning_rate: float
optimizer: Literal['adam', 'sgd']
channels: int
dropout: float
shift: int
seed: int
threads: int

# Project files that it uses, directly or not: a hash of their code
#   mlops_nb/__init__.py 47fe77a8e28d9603
#   mlops_nb/errors.py 37f2aee6d1ab7ea8
#   mlops_nb/interface.py b47944daa7b6a484
#   mlops_nb/network.py 4b01604e8342f7f2
#   mlops_nb/pruning.py 1a1faeb9d671e546
#   mlops_nb/training.py b79aac49861ec848
#   mlops_nb/trial.py 8749f3a7c47405e5

# Packages that all of these import: the version that the lock pins
#   dvclive 3.49.1
#   matplotlib 3.11.2
#   numpy 2.4.6
#   pandas 3.1.1
#   pytorch-lightning 2.6.6
#   safetensors 0.8.0
#   torch 2.13.0

# Packages that those require
#   aiohappyeyeballs 2.7.1
#   aiohttp 3.14.5
#   aiohttp-retry 2.9.1
#   aiosignal 1.4.0
#   amqp 5.4.2
#   annotated-types 0.8.0
#   antlr4-python3-runtime 4.9.3
#   appdirs 1.4.4
#   asyncssh 2.24.1
#   atpublic 9.0.0
#   attrs 26.1.0
#   billiard 4.3.2
#   celery 5.7.0
#   certifi 2026.10.18
#   cffi 2.1.1
#   charset-normalizer 3.5.2
#   click 8.5.1
#   click-didyoumean 0.3.1
#   click-plugins 1.1.1.2
#   click-repl 0.4.1
#   colorama 0.4.6
#   configobj 5.0.9
#   contourpy 1.3.3
#   cryptography 50.0.2
#   cycler 0.12.1
#   dictdiffer 0.10.0
#   diskcache 5.6.3
#   distro 1.9.0
#   dpath 2.2.0
#   dulwich 1.2.21
#   dvc 3.67.1
#   dvc-data 3.18.3
#   dvc-http 2.32.0
#   dvc-objects 5.2.0
#   dvc-render 1.0.2
#   dvc-studio-client 0.23.0
#   dvc-task 0.40.2
#   entrypoints 0.4.2
#   filelock 4.2.11
#   flatten-dict 0.5.0
#   flufl-lock 9.2.0
#   fonttools 4.68.0
#   frozenlist 1.8.0
#   fsspec 2026.9.0
#   funcy 2.1
#   gitdb 4.0.12
#   gitpython 3.2.1
#   grandalf 0.8
#   gto 1.10.1
#   hydra-core 1.3.8
#   idna 3.20
#   iterative-telemetry 0.0.10
#   jinja2 3.1.6
#   kiwisolver 1.5.1
#   kombu 5.7.0
#   lightning-utilities 0.15.3
#   markdown-it-py 4.3.0
#   markupsafe 3.0.4
#   mdurl 0.1.2
#   mpmath 1.3.0
#   multidict 7.2.1
#   networkx 3.6.1
#   nvidia-ml-py 13.615.71
#   omegaconf 2.3.1
#   orjson 3.13.0
#   packaging 26.3
#   pathspec 1.1.1
#   pillow 13.0.0
#   platformdirs 4.14.5
#   prompt-toolkit 3.0.53
#   propcache 0.5.4
#   psutil 7.2.2
#   pycparser 3.12
#   pydantic 2.14.3
#   pydantic-core 2.50.4
#   pydantic-settings 2.16.3
#   pydot 4.0.1
#   pygit2 1.21.0
#   pygments 2.21.0
#   pygtrie 2.6.2
#   pyparsing 3.3.3
#   python-dateutil 2.9.0.post0
#   python-dotenv 1.2.4
#   pyyaml 6.0.3
#   requests 2.34.2
#   rich 15.0.0
#   ruamel-yaml 0.19.1
#   scmrepo 3.6.2
#   semver 3.1.1
#   setuptools 84.2.1
#   shortuuid 1.0.13
#   shtab 1.13.0
#   six 1.17.0
#   smmap 5.0.3
#   sqltrie 0.11.3
#   sympy 1.14.0
#   tabulate 0.10.0
#   tomlkit 0.15.2
#   torchmetrics 1.9.0
#   tqdm 4.70.1
#   typing-extensions 4.16.0
#   typing-inspection 0.4.5
#   tzdata 2026.6
#   tzlocal 5.4.5
#   urllib3 2.8.0
#   vine 5.1.0
#   voluptuous 0.16.0
#   wcwidth 0.9.4
#   yarl 1.25.1
#   zc-lockfile 4.0

# Code
from typing import Literal
from mlops_nb import In, Metrics, Out, Plots
import json
from pathlib import Path
import matplotlib.pyplot as plt
import pandas as pd
import torch
from pytorch_lightning import seed_everything
from mlops_nb.network import ConvolutionalNetwork, LinearNetwork, save_network
from mlops_nb.training import Classifier, fit

def read(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    table = pd.read_parquet(path)
    images = torch.tensor(table.drop(columns='label').to_numpy()).float().reshape(-1, 1, 8, 8) / 16
    return (images, torch.tensor(table['label'].to_numpy()).long())
images, labels = read(train)
(images.shape, labels.shape)
seed_everything(seed, verbose=False)
network = LinearNetwork() if architecture == 'linear' else ConvolutionalNetwork(channels, dropout=dropout)
fitted = fit(Classifier(network, learning_rate, optimizer, shift), (images, labels), read(validation), epochs=epochs, batch_size=batch_size, patience=patience, seed=seed, threads=threads, curves=curves)
print(f'device and precision: {fitted.device}; best epoch {fitted.best_epoch} of {len(fitted.curves)}')
history = pd.DataFrame(fitted.curves)
figure, axes = plt.subplots(1, 3, figsize=(12, 3))
for axis, name in zip(axes, ['loss', 'accuracy', 'learning_rate'], strict=True):
    columns = [column for column in history if column.endswith(name)]
    history[columns].plot(ax=axis, title=name.replace('_', ' '), xlabel='epoch', logy=name == 'loss')
    if name != 'learning_rate':
        axis.axvline(fitted.best_epoch - 1, color='gray', linestyle=':', label='best epoch')
        axis.legend()
figure.tight_layout()
save_network(model, fitted.network)
best = fitted.curves[fitted.best_epoch - 1]
summary = {'best_epoch': fitted.best_epoch, 'epochs': len(fitted.curves), 'weights': sum((weights.numel() for weights in fitted.network.parameters())), 'validation_loss': round(best['validation/loss'], 6), 'validation_accuracy': round(best['validation/accuracy'], 6)}
Path(metrics).write_text(json.dumps(summary, indent=1) + '\n')
summary
