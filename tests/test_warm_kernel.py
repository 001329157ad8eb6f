"""A warm kernel is a cold kernel that starts at once: the same values, nothing of another job, and every feature."""

import json
import shutil
import sys
import time
from pathlib import Path

import jupyter_kernel_test
import pytest
from conftest import ROOT
from kernels import kernel

from mlops_nb.warm import private_memory

if sys.platform != "linux":
    pytest.skip("warm kernels need Linux", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("warm")

FACTS = """
import asyncio, gc, json, locale, logging, os, resource, signal, sys, threading
def plain(item):
    return item if not item.endswith(".json") else "FILE"
ip = get_ipython()
facts = {
    "sys.argv": [plain(item) for item in sys.argv],
    "sys.orig_argv": [plain(item) for item in sys.orig_argv],
    "sys.path": sys.path,
    "sys.flags": str(sys.flags),
    "sys.ps1": sys.ps1,
    "prefix": [sys.executable, sys.prefix, sys.base_prefix],
    "limits": {name: resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")},
    "umask": open("/proc/self/status").read().split("Umask:")[1].split()[0],
    "nice": os.getpriority(os.PRIO_PROCESS, 0),
    "affinity": sorted(os.sched_getaffinity(0)),
    "cwd": os.getcwd(),
    "leads its session": os.getsid(0) == os.getpid() == os.getpgrp(),
    "signals": {number.name: str(signal.getsignal(number)) for number in signal.Signals
                if signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler)},
    "streams": [type(sys.stdout).__name__, sys.stdout.isatty(), sys.stdout.encoding, type(sys.__stderr__).__name__],
    "hooks": [type(sys.displayhook).__name__, sys.excepthook.__qualname__],
    "names": sorted(set(vars(sys.modules["__main__"])) - {"facts", "plain", "ip"}),
    "namespace": sorted(set(ip.user_ns) - {"facts", "plain", "ip"}),
    "config": {name: dict(value) for name, value in ip.config.items() if name not in ("IPKernelApp",)},
    "is a notebook": "IPKernelApp" in ip.config,
    "count": ip.execution_count,
    "history": ip.history_manager.hist_file.name,
    "locale": locale.getlocale(),
    "root logger": [logging.root.level, [str(handler) for handler in logging.root.handlers]],
    "threads": len(threading.enumerate()),
    "main thread": threading.current_thread() is threading.main_thread(),
    "collector": [gc.isenabled(), gc.get_threshold()],
    "loop runs": asyncio.get_running_loop().is_running(),
    "environment": {name: value for name, value in os.environ.items() if name not in VOLATILE},
}
"""
LIBRARIES = """
import contextlib, io, warnings
import matplotlib, matplotlib.pyplot, numpy, pandas, torch
import pytorch_lightning as pl
import lightning_fabric.utilities.imports as fabric
with contextlib.redirect_stderr(io.StringIO()):
    import tqdm.auto
facts |= {
    "tqdm": f"{tqdm.auto.tqdm.__mro__}",
    "backend": matplotlib.get_backend(),
    "rcParams": {key: str(value) for key, value in matplotlib.rcParams.items()},
    "repl": str(matplotlib.pyplot._REPL_DISPLAYHOOK),
    "interactive": fabric._IS_INTERACTIVE,
    "pandas": {key: str(pandas.get_option(key)) for key in ("display.max_columns", "display.width", "display.max_rows")},
    "threads of torch": [torch.get_num_threads(), torch.get_num_interop_threads(), torch.__config__.parallel_info()],
    "handlers": [type(handler.stream).__name__ for handler in logging.getLogger("pytorch_lightning").handlers],
    "environment after imports": {name: value for name, value in os.environ.items() if name not in VOLATILE},
}
for devices in (1, 2, "auto"):
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
        trainer = pl.Trainer(devices=devices, accelerator="cpu", logger=False, enable_checkpointing=False)
    launcher = trainer.strategy.launcher
    facts[f"Trainer(devices={devices})"] = [
        type(trainer.strategy).__name__, type(launcher).__name__, getattr(launcher, "_start_method", None), trainer.num_devices
    ]
"""
# Variables that name the client, and those that an import sets which is not made in this test
VOLATILE = "VOLATILE = ['JPY_PARENT_PID', 'JPY_SESSION_NAME', 'PYTEST_CURRENT_TEST', 'TORCHINDUCTOR_CACHE_DIR']\n"


def test_libraries_decide_as_on_a_cold_kernel(heavy: Path) -> None:
    found = {}
    for cold in (False, True):
        with kernel(heavy, cold=cold) as started:
            assert started.warm is not cold
            early = json.loads(started.run(VOLATILE + FACTS + "print(json.dumps(facts, default=str))"))
            started.run(LIBRARIES)
            found[cold] = [early, json.loads(started.run("print(json.dumps(facts, default=str))"))]
    early, late = zip(*found.values(), strict=True)
    environments = [facts.pop("environment") for facts in early]
    added = {name: value for name, value in environments[0].items() if environments[1].get(name) != value}
    assert environments[0] == environments[1] | added  # what imports set is set from the start, and nothing else
    assert all(late[1]["environment after imports"].get(name) == value for name, value in added.items())
    for name in early[1]:
        assert early[0][name] == early[1][name], name
    for name in late[1]:
        assert name == "environment" or late[0][name] == late[1][name], name
    assert late[0]["interactive"] is True
    assert "tqdm.notebook" in late[0]["tqdm"]
    assert late[0]["Trainer(devices=2)"][0] == "DDPStrategy"


TRAIN = """
import hashlib, pytorch_lightning as pl, torch
torch.set_num_threads(2)
pl.seed_everything(3, verbose=False)
x = torch.randn(512, 64)
y = (x @ torch.randn(64, 3)).argmax(1)
class Model(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(256, 3))
    def training_step(self, batch, index):
        return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())
data = torch.utils.data.TensorDataset(x, y)
model = Model()
trainer = pl.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(model, torch.utils.data.DataLoader(data, batch_size=64, shuffle=True, num_workers=WORKERS))
big = torch.randn(700, 700)
parts = [parameter.detach().numpy().tobytes() for parameter in model.parameters()] + [(big @ big).numpy().tobytes()]
print(hashlib.sha256(b"".join(parts)).hexdigest(), end="")
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_training_is_the_same_to_the_last_bit(heavy: Path, workers: int) -> None:
    """With two threads, and with workers that load the data: both hang in a fork of a process that had threads"""
    printed = []
    for cold in (False, True):
        with kernel(heavy, cold=cold) as started:
            code = TRAIN.replace("WORKERS", str(workers))
            lines = started.run(f"import logging, warnings\nwarnings.simplefilter('ignore')\n{code}", timeout=120)
            printed.append(lines.splitlines()[-1])
    assert len(printed[0]) == 64
    assert printed[0] == printed[1]


LEAVE = """
import os, sys, threading, time, signal, random, logging, numpy, torch, matplotlib, own
os.environ["LEFT"] = "behind"
os.chdir("/")
sys.path.insert(0, "/left")
own.value = "left"
matplotlib.rcParams["figure.dpi"] = 7
torch.set_num_threads(1)
torch.manual_seed(5)
numpy.random.seed(5)
random.seed(5)
sys.modules["json"].left = True
logging.getLogger().setLevel(1)
signal.signal(signal.SIGUSR1, lambda *a: None)
os.umask(0)
handle = open(FOLDER + "/open.txt", "w")
handle.write("never closed")
threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
"""
LOOK = """
import os, sys, threading, signal, random, logging, json, numpy, torch, matplotlib, own
print(json.dumps([
    os.environ.get("LEFT"), os.getcwd() == ROOT, "/left" in sys.path, own.value, matplotlib.rcParams["figure.dpi"],
    torch.get_num_threads(), hasattr(json, "left"), logging.getLogger().level, signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL,
    os.umask(0o22), len(threading.enumerate()), any("open.txt" in os.readlink(f"/proc/self/fd/{f}") for f in
    os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{f}")), "handle" in globals(),
]))
"""


def test_nothing_is_seen_by_the_next(heavy: Path, tmp_path: Path) -> None:
    (heavy / "own.py").write_text("value = 'fresh'\n")
    with kernel(heavy) as first:
        before = first.run(f"ROOT = {str(heavy)!r}\n{LOOK}")
        first.run(f"FOLDER = {str(tmp_path)!r}\n{LEAVE}")
    assert (tmp_path / "open.txt").read_text() == "never closed"  # an ordinary end of the process writes it, too
    with kernel(heavy) as second:
        assert second.warm
        assert second.run(f"ROOT = {str(heavy)!r}\n{LOOK}") == before
    assert json.loads(before)[3] == "fresh"


def test_random_states_are_not_shared(heavy: Path) -> None:
    """A cold kernel starts at random; two forks of one process would not"""
    code = "import numpy, random, torch, uuid; print(numpy.random.rand(), random.random(), torch.rand(1).item(), uuid.uuid4())"
    drawn = []
    for _ in range(2):
        with kernel(heavy) as started:
            drawn.append(started.run(code).split())
    assert all(one != other for one, other in zip(*drawn, strict=True))


def test_memory_of_a_waiting_kernel(heavy: Path) -> None:
    """With torch, Lightning, pandas and matplotlib imported"""
    with kernel(heavy) as started:
        time.sleep(1)
        assert private_memory(started.manager.provisioner.pid) < 45


def test_an_edited_module_is_the_edited_one(light: Path) -> None:
    (light / "helper.py").write_text("answer = 1\n")
    with kernel(light) as started:
        assert started.run("import helper; print(helper.answer)") == "1\n"
    (light / "helper.py").write_text("answer = 'two'\n")
    with kernel(light) as started:
        assert started.warm
        assert started.run("import helper; print(helper.answer)") == "two\n"


def test_an_edited_module_of_this_package_is_the_edited_one(light: Path) -> None:
    """The server itself has imported `mlops_nb.project`"""
    shutil.copytree(ROOT / "mlops_nb", light / "mlops_nb", ignore=shutil.ignore_patterns("__pycache__"))
    file = light / "mlops_nb/project.py"
    read = "import mlops_nb.project as module; print(module.__file__, getattr(module, 'EDITED', None), end='')"
    try:
        with kernel(light) as started:
            assert started.run(read) == f"{file} None"
        file.write_text(file.read_text() + "\nEDITED = 'yes'\n")
        with kernel(light) as started:
            assert started.warm
            assert started.run(read) == f"{file} yes"
    finally:
        shutil.rmtree(light / "mlops_nb")


# What people do in notebooks


FEATURES = {
    "inline": "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    "await": "import asyncio\nawait asyncio.sleep(0.01)\nprint('slept')",
    "shell": "!echo from the shell; echo to stderr >&2",
    # what a child prints comes through a pipe, beside what Python prints: they keep their order given time alone
    "subprocess": "import subprocess, time\nsubprocess.run(['echo', 'from a child'])\ntime.sleep(0.5)\nprint('after')",
    "lines": "files = !ls /\nprint('etc' in files)",
    "cell magic": "%%bash\necho from bash",
    "widget": "import ipywidgets\nslider = ipywidgets.IntSlider(value=3)\nslider",
    "output widget": "out = ipywidgets.Output()\nwith out:\n    print('in the widget')\nout",
    "process pool": "from concurrent.futures import ProcessPoolExecutor\nwith ProcessPoolExecutor(2) as pool:\n"
    "    print(list(pool.map(abs, [-1, -2])))",
    "process": "import multiprocessing as mp\np = mp.Process(target=print, args=('from a process',)); p.start(); p.join()",
    "display": "from IPython.display import HTML, display\nhandle = display(HTML('<b>1</b>'), display_id=True)\n"
    "handle.update(HTML('<b>2</b>'))",
    "native": "import os\nos.write(1, b'from the descriptor\\n')\nimport time; time.sleep(0.5)",
    "timing": "%timeit -n1 -r1 pass",
    "logging": "import logging\nlogging.getLogger('x').warning('logged')",
    "error": "1 / 0",
}


def test_a_notebook_with_everything(light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same outputs on a warm and on a cold kernel"""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")  # with it ipykernel leaves out what native code prints
    import nbformat
    from nbclient import NotebookClient

    outputs = []
    for name in ("mlops-nb", "python3"):
        cells = [nbformat.v4.new_code_cell(source) for source in FEATURES.values()]
        made = nbformat.v4.new_notebook(cells=cells)
        where = {"metadata": {"path": str(light)}}
        NotebookClient(
            made, kernel_name=name, resources=where, timeout=60, allow_errors=True, coalesce_streams=True
        ).execute()
        outputs.append(dict(zip(FEATURES, made.cells, strict=True)))
    for name in FEATURES:
        shown = [[_essence(output) for output in side[name].outputs] for side in outputs]
        assert shown[0] == shown[1], name
        assert shown[0], name


def _essence(output: dict[str, object]) -> object:
    """An output without what is another one every time"""
    if output["output_type"] == "stream":
        return [output["name"], "time" if "per loop" in str(output["text"]) else output["text"]]
    if output["output_type"] == "error":
        return [output["ename"], output["evalue"], len(str(output["traceback"]).splitlines())]
    data = {kind: value for kind, value in dict(output["data"]).items() if "widget" not in kind}  # type: ignore[call-overload]
    return sorted(data.items())


def test_input(light: Path) -> None:
    with kernel(light) as started:
        answers = iter(["Ada"])

        def answer(message: dict[str, object]) -> None:
            started.client.input(next(answers))

        printed: list[str] = []
        started.client.execute_interactive(
            "print('hello', input('name? '))", allow_stdin=True, stdin_hook=answer, timeout=20,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )  # fmt: skip
        assert "hello Ada\n" in "".join(printed)


def test_debug_after_an_exception(light: Path) -> None:
    with kernel(light) as started:
        with pytest.raises(AssertionError, match="ZeroDivisionError"):
            started.run("def divide(a, b):\n    return a / b\ndivide(41, 0)")
        commands = iter(["p a + 1", "q"])
        printed: list[str] = []
        started.client.execute_interactive(
            "%debug", allow_stdin=True, stdin_hook=lambda message: started.client.input(next(commands)), timeout=20,
            output_hook=lambda message: printed.append(message["content"].get("text", "")),
        )  # fmt: skip
        assert "42" in "".join(printed)


def test_the_debugger_of_jupyterlab(light: Path) -> None:
    """It listens on a socket between the threads of the kernel"""
    with kernel(light) as started:
        message = started.client.session.msg("debug_request", {"type": "request", "seq": 1, "command": "debugInfo"})
        started.client.control_channel.send(message)
        reply = started.client.get_control_msg(timeout=20)
        assert reply["content"]["success"]
        arguments = {"clientID": "test", "adapterID": "", "pathFormat": "path"}
        request = {"type": "request", "seq": 2, "command": "initialize", "arguments": arguments}
        started.client.control_channel.send(started.client.session.msg("debug_request", request))
        assert started.client.get_control_msg(timeout=20)["content"]["success"]


def test_flushed_lines_stay_in_order(light: Path) -> None:
    """Lines that are sent together are still between the outputs that they stand between"""
    code = (
        "import sys\nfrom IPython.display import display\nfor number in range(300):\n"
        "    print(number, flush=True)\n    print('e', number, file=sys.stderr, flush=True)\n    display(number)"
    )
    with kernel(light) as started:
        seen: list[str] = []

        def keep(message: dict[str, object]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                seen.extend(str(content["text"]).splitlines())  # type: ignore[index]
            elif message["msg_type"] == "display_data":
                seen.append(f"d {content['data']['text/plain']}")  # type: ignore[index]

        started.client.execute_interactive(code, output_hook=keep, timeout=30)
    assert seen == [line for number in range(300) for line in (f"{number}", f"e {number}", f"d {number}")]


def test_what_was_flushed_survives_a_death(light: Path) -> None:
    """Of one line, and of many that were sent together"""
    code = "import os, time\nfor number in range(200):\n    print(number, flush=True)\ntime.sleep(0.05)\nos._exit(3)"
    with kernel(light) as started:
        started.client.execute(code)
        printed = ""
        while "199\n" not in printed:
            printed += str(started.client.get_iopub_msg(timeout=5)["content"].get("text", ""))
        assert printed.split() == [str(number) for number in range(200)]
        assert started.manager.provisioner.process.wait(10) == 3


class TestConformance(jupyter_kernel_test.KernelTests):
    """The official suite"""

    kernel_name = "mlops-nb"
    language_name = "python"
    file_extension = ".py"
    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('oops', file=sys.stderr)"
    completion_samples = [{"text": "zi", "matches": {"zip"}}]  # noqa: RUF012
    complete_code_samples = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n"]  # noqa: RUF012
    incomplete_code_samples = ["print('''hello", "def f(x):\n  x*2"]  # noqa: RUF012
    invalid_code_samples = ["import = 7q"]  # noqa: RUF012
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('on purpose')"
    code_execute_result = [{"code": "1+2+3", "result": "6"}]  # noqa: RUF012
    code_display_data = [  # noqa: RUF012
        {"code": "from IPython.display import HTML, display; display(HTML('<b>test</b>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('\\\\frac{1}{2}'))", "mime": "text/latex"},
    ]
    code_history_pattern = "1?2*"
    supported_history_operations = ("tail", "search")  # as ipykernel has it for its own kernel
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    root: Path

    @classmethod
    def setUpClass(cls) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLOPS_NB_WARM", "1")
            patch.chdir(cls.root)
            super().setUpClass()
        assert cls.km.provisioner.process.__class__.__name__ == "WarmProcess"


@pytest.fixture(scope="module", autouse=True)
def place(light: Path) -> None:
    TestConformance.root = light
