# What decides the result of stage train, written by mlops-nb sync. Do not edit.

# Interface
train: In = 'artifacts/train.parquet'
validation: In = 'artifacts/validation.parquet'
model: Out = 'artifacts/model.safetensors'
metrics: Metrics = 'reports/train/metrics.json'
curves: Plots = 'reports/train/curves'
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
#   mlops_nb/network.py bc95cc38267ec968
#   mlops_nb/training.py 564b0d75ab431ae1

# Packages that all of these import: the version that the lock pins
#   dvclive 3.49.1
#   matplotlib 3.11.2
#   pandas 3.1.1
#   pytorch-lightning 2.6.6
#   safetensors 0.8.0
#   torch 2.13.0

# Packages that those require
#   none

# Code
from typing import Literal
from mlops_nb import In, Metrics, Out, Plots
import json
from pathlib import Path
import matplotlib.pyplot as plt
import pandas as pd
import torch
from pytorch_lightning import seed_everything
from mlops_nb.network import ConvolutionalNetwork, save_network
from mlops_nb.training import Classifier, fit

def read(path: str) -> tuple[torch.Tensor, torch.Tensor]:
    table = pd.read_parquet(path)
    images = torch.tensor(table.drop(columns='label').to_numpy()).float().reshape(-1, 1, 8, 8) / 16
    return (images, torch.tensor(table['label'].to_numpy()).long())
images, labels = read(train)
(images.shape, labels.shape)
seed_everything(seed, verbose=False)
network = ConvolutionalNetwork(channels, dropout=dropout)
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
