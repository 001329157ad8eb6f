"""Rebuild data/digits.parquet from scikit-learn: python data_seed/digits.py

The UCI handwritten digits (1,797 images of 8 by 8 pixels, values 0 to 16) ship inside scikit-learn, so this
needs no network. With the versions of constraints.txt the bytes are those that data.dvc names; the last line
says whether they are.
"""

import hashlib
import re
from pathlib import Path

import pandas as pd
from sklearn.datasets import load_digits

root = Path(__file__).resolve().parent.parent
target = root / "data" / "digits.parquet"


def main() -> None:
    digits = load_digits()
    table = pd.DataFrame(digits.data.astype("uint8"), columns=[f"pixel_{n:02d}" for n in range(64)])
    table["label"] = digits.target.astype("uint8")
    target.parent.mkdir(exist_ok=True)
    table.to_parquet(target, index=False)
    md5 = hashlib.md5(target.read_bytes(), usedforsecurity=False).hexdigest()
    pointer = root / "data.dvc"
    listing = f'[{{"md5": "{md5}", "relpath": "{target.name}"}}]'  # how DVC hashes a folder
    ours = hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"
    tracked = re.search(r"md5: (\w+\.dir)", pointer.read_text()) if pointer.exists() else None
    verdict = (
        "no data.dvc yet"
        if tracked is None
        else "as data.dvc has it"
        if tracked[1] == ours
        else "NOT as data.dvc has it"
    )
    print(f"{target.relative_to(root)}: {len(table)} rows, md5 {md5}, folder {ours}: {verdict}")


if __name__ == "__main__":
    main()
