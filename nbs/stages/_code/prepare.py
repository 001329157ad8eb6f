# What decides the result of stage prepare, written by mlops-nb sync. Do not edit.

# Interface
digits: In = 'data/digits.parquet'
train: Out = 'artifacts/train.parquet'
validation: Out = 'artifacts/validation.parquet'
test: Out = 'artifacts/test.parquet'
metrics: Metrics = 'reports/prepare/metrics.json'
train_part: float
validation_part: float
seed: int
duplicates: Literal['refuse', 'drop']
smallest_class: float

# Project files that it uses, directly or not: a hash of their code
#   mlops_nb/__init__.py 492531f9f11e5a7e
#   mlops_nb/data.py 10aa7d5599f5856a
#   mlops_nb/errors.py 37f2aee6d1ab7ea8
#   mlops_nb/interface.py b47944daa7b6a484

# Packages that all of these import: the version that the lock pins
#   matplotlib 3.11.2
#   pandas 3.1.1
#   pandera 0.35.0
#   scikit-learn 1.9.1

# Packages that those require
#   annotated-types 0.8.0
#   cloudpickle 3.1.2
#   contourpy 1.3.3
#   cycler 0.12.1
#   fonttools 4.68.0
#   joblib 1.6.0
#   kiwisolver 1.5.1
#   mypy-extensions 1.2.0
#   narwhals 2.28.0
#   numpy 2.4.6
#   packaging 26.3
#   pillow 13.0.0
#   pydantic 2.14.3
#   pydantic-core 2.50.4
#   pyparsing 3.3.3
#   python-dateutil 2.9.0.post0
#   scipy 1.17.1
#   six 1.17.0
#   threadpoolctl 3.8.0
#   typeguard 4.6.0
#   typing-extensions 4.16.0
#   typing-inspect 0.9.0
#   typing-inspection 0.4.5
#   tzdata 2026.6

# Code
from typing import Literal
from mlops_nb import In, Metrics, Out
import json
from pathlib import Path
import matplotlib.pyplot as plt
import pandas as pd
import pandera.pandas as pa
from sklearn.model_selection import train_test_split
from mlops_nb.data import validate
pixels = [f'pixel_{number:02d}' for number in range(64)]
schema = pa.DataFrameSchema({pixel: pa.Column('uint8', pa.Check.in_range(0, 16)) for pixel in pixels} | {'label': pa.Column('uint8', [pa.Check.isin(range(10)), pa.Check(lambda labels: labels.map(labels.value_counts(normalize=True)) >= smallest_class, error=f'a class has less than {smallest_class:.0%} of the rows')])}, unique=pixels if duplicates == 'refuse' else None, strict=True, ordered=True)
table = validate(pd.read_parquet(digits), schema, digits)
if duplicates == 'drop':
    table = table.drop_duplicates(pixels, ignore_index=True)
table['label'].value_counts().sort_index().rename('images').to_frame().T
figure, axes = plt.subplots(1, 10, figsize=(10, 1.4))
for digit, axis in enumerate(axes):
    image = table.loc[table['label'] == digit, pixels].iloc[0].to_numpy().reshape(8, 8)
    axis.imshow(image, cmap='gray_r')
    axis.set_title(digit)
    axis.axis('off')
sizes = [round(part * len(table)) for part in (train_part, validation_part)]
training, rest = train_test_split(table, train_size=sizes[0], stratify=table['label'], random_state=seed)
checking, testing = train_test_split(rest, train_size=sizes[1], stratify=rest['label'], random_state=seed)
parts = {train: training, validation: checking, test: testing}
for path, part in parts.items():
    part.sort_index().to_parquet(path, index=False)
counts = {Path(path).stem: len(part) for path, part in parts.items()}
counts
Path(metrics).write_text(json.dumps({'images': len(table)} | counts, indent=1) + '\n')
