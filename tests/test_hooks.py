"""The hooks that a project takes from `.pre-commit-hooks.yaml`, run by pre-commit in a real repository."""

from pathlib import Path

import yaml
from conftest import MAKE, ROOT, Run, commit, notebook


def test_commits_and_pushes_are_held_to_it(small: Path, run: Run) -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    run("pre-commit", "validate-manifest", ROOT / ".pre-commit-hooks.yaml", cwd=ROOT)
    (small / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": hooks}]}))
    run("dvc", "repro", "-q", cwd=small)
    commit(small, run)
    push = ("pre-commit", "run", "--all-files", "--hook-stage", "pre-push")
    run("pre-commit", "run", "--all-files", cwd=small)
    run(*push, cwd=small)
    (small / "notebooks/1_make.ipynb").write_text(notebook(MAKE[0], MAKE[1].replace("'x'", "'y'")))
    commit(small, run, "an edit that was not synced")
    done = run("pre-commit", "run", "--all-files", cwd=small, code=1)
    assert "files were modified by this hook" in done.stdout
    assert run("git", "diff", "--name-only", cwd=small).stdout == "notebooks/_code/make.py\n"
    run("git", "add", "-u", cwd=small)
    run("pre-commit", "run", "--all-files", cwd=small)
    done = run(*push, cwd=small, code=1)
    assert "make, count: dvc.lock is not up to date" in done.stdout
