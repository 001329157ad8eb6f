# What decides the result of stage evaluate, written by mlops-nb sync. Do not edit.

# Interface
train: In = 'artifacts/train.parquet'
test: In = 'artifacts/test.parquet'
model: In = 'artifacts/model.safetensors'
predictions: Out = 'artifacts/predictions.parquet'
metrics: Metrics = 'reports/evaluate/metrics.json'
confusion_table: Plots = 'reports/evaluate/confusion.csv'
mistakes_shown: int

# Project files that it uses, directly or not: a hash of their code
#   mlops_nb/__init__.py 47fe77a8e28d9603
#   mlops_nb/errors.py 37f2aee6d1ab7ea8
#   mlops_nb/evaluate.py 2f9e4d8b27dd0a81
#   mlops_nb/interface.py b47944daa7b6a484
#   mlops_nb/network.py 4b01604e8342f7f2

# Packages that all of these import: the version that the lock pins
#   matplotlib 3.11.2
#   numpy 2.4.6
#   pandas 3.1.1
#   safetensors 0.8.0
#   scikit-learn 1.9.1
#   torch 2.13.0

# Packages that those require
#   cloudpickle 3.1.2
#   contourpy 1.3.3
#   cycler 0.12.1
#   filelock 4.2.11
#   fonttools 4.68.0
#   fsspec 2026.9.0
#   jinja2 3.1.6
#   joblib 1.6.0
#   kiwisolver 1.5.1
#   markupsafe 3.0.4
#   mpmath 1.3.0
#   narwhals 2.28.0
#   networkx 3.6.1
#   packaging 26.3
#   pillow 13.0.0
#   pyparsing 3.3.3
#   python-dateutil 2.9.0.post0
#   scipy 1.17.1
#   setuptools 84.2.1
#   six 1.17.0
#   sympy 1.14.0
#   threadpoolctl 3.8.0
#   typing-extensions 4.16.0
#   tzdata 2026.6

# Code
from mlops_nb import In, Metrics, Out, Plots
import json
from pathlib import Path
import matplotlib.pyplot as plt
import pandas as pd
import torch
from mlops_nb.evaluate import classification_metrics, confusion, linear_baseline, worst_mistakes
from mlops_nb.network import load_network, probabilities
training, testing = (pd.read_parquet(train), pd.read_parquet(test))
features, labels = (testing.drop(columns='label').to_numpy() / 16, testing['label'].to_numpy())
images = torch.tensor(features).float().reshape(-1, 1, 8, 8)
torch.set_num_threads(1)
network = probabilities(load_network(model), images).numpy()
baseline = linear_baseline(training.drop(columns='label').to_numpy() / 16, training['label'].to_numpy(), features)
measured = {'network': classification_metrics(labels, network), 'baseline': classification_metrics(labels, baseline)}
pd.DataFrame(measured).drop(index='recall')
pd.DataFrame({name: values['recall'] for name, values in measured.items()}).rename_axis('recall of').T
counts = confusion(labels, network)
pd.DataFrame(counts).replace(0, '')
pairs = pd.DataFrame({'actual': labels, 'predicted': network.argmax(1)})
pairs.to_csv(confusion_table, index=False)
rows = worst_mistakes(labels, network, mistakes_shown)
figure, axes = plt.subplots(1, max(len(rows), 1), figsize=(12, 1.8), squeeze=False)
for axis in axes[0]:
    axis.axis('off')
for axis, row in zip(axes[0], rows, strict=False):
    axis.imshow(images[row, 0], cmap='gray_r')
    said = network[row].argmax()
    axis.set_title(''.join((format(labels[row]), ' as ', format(said), '\n', format(network[row, said], f'.0%'), ' sure')), fontsize=9)
table = pd.DataFrame(network, columns=[f'probability_{digit}' for digit in range(10)])
table.insert(0, 'label', labels)
table.insert(0, 'row', range(len(table)))
table.to_parquet(predictions, index=False)
kept = measured['network'] | {'baseline_accuracy': measured['baseline']['accuracy']}
kept['gain_over_baseline'] = round(kept['accuracy'] - kept['baseline_accuracy'], 6)
Path(metrics).write_text(json.dumps(kept, indent=1) + '\n')
kept
