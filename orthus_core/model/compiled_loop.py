"""The denoising steps of few rows on a CPU in one call, where `denoising_loop.c` has been compiled.

`DenoisingHead.step` and a linear solver are some 25 operations a step, and most of them take less
time than calling them. `build` compiles the same steps as one function, once for a machine, with
the C compiler that is there; `orthus doctor --compile` calls it. Drawing uses the library in the
cache folder, and does without where there is none. Results agree up to rounding, 1e-6 of the size
of a feature; with the library they are equal to the bit for any number of threads.

The library is for this processor and this text alone, so both are in its name: another processor
that shares the folder, or another version, never loads it. It is code, so it is not loaded from
where other users can write.

Legend: N images, R branches, C feature channels, W head width, L blocks, A modulation values, T
    steps, S tensors of a solver's state, P outputs of a panel.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import time
from contextlib import suppress
from ctypes import POINTER, Structure, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from orthus_core.atomic import staged_file
from orthus_core.cache_folder import cache_folder
from orthus_core.errors import OrthusError, OutputError
from orthus_core.model.diffusion_head import HEAD_EPS, DiffusionHead

SOURCE = Path(__file__).with_name("denoising_loop.c")
COMPILERS = ("gcc", "cc", "clang")
FLAGS = ("-std=gnu11", "-O3", "-fopenmp", "-shared", "-fPIC")
# For this processor alone; Clang on some processors knows the second name and not the first.
OWN_PROCESSOR = ("-march=native", "-mcpu=native")
LONGEST_SECONDS = 120
ANOTHER_COMPILER = (
    "install gcc, or name a C compiler with OpenMP in CC; drawing works without it, only slower"
)
# Largest difference from the head, for features of size 1, that rounding explains.
CLOSE = 1e-4


class Built(NamedTuple):
    """A library that was compiled: its file, the compiler, and the seconds that it took."""

    library: Path
    compiler: str
    seconds: float


def compiler() -> list[str] | None:
    """The command of the C compiler here: `CC` if that is set; None where there is none."""
    if os.name == "nt":
        return None
    named: list[str] = []
    with suppress(ValueError):  # a quote that does not end
        named = shlex.split(os.environ.get("CC", ""))
    for command in (named, *([name] for name in COMPILERS)):
        if command and shutil.which(command[0]):
            return command
    return None


def build() -> Built:
    """Compile the loop for this processor into the cache folder.

    Raises:
        OrthusError: Where there is no compiler, other users can write the folder, the compiler does
            not compile this, or the result computes something else than the head.
        OutputError: When the folder cannot be written.
    """
    command = compiler()
    if command is None:
        raise OrthusError(
            "there is no C compiler here", where="orthus doctor --compile", hint=ANOTHER_COMPILER
        )
    began, answer = time.perf_counter(), ""
    target = library_path()
    with staged_file(target, parents=True, hint="name another folder with ORTHUS_CACHE") as partial:
        _close_to_others(target.parent)
        if not _only_ours(target.parent.resolve()):
            raise OrthusError(
                "other users can write this folder, so no code is loaded from it",
                where=str(target.parent),
                hint="name a folder of your own with ORTHUS_CACHE",
            )
        for flag in OWN_PROCESSOR:
            words = [*command, *FLAGS, flag, str(SOURCE), "-o", str(partial), "-lm"]
            try:
                done = subprocess.run(
                    words,
                    capture_output=True,
                    text=True,
                    errors="replace",
                    timeout=LONGEST_SECONDS,
                    env={**os.environ, "LC_ALL": "C"},  # its errors are looked for in English
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                answer = str(error)
                continue
            if not done.returncode:
                break
            answer = next((line for line in done.stderr.splitlines() if "error" in line), "failed")
        else:
            raise OrthusError(
                f"{command[0]} does not compile the loop: {answer}",
                where=str(SOURCE),
                hint=ANOTHER_COMPILER,
            )
        _close_to_others(partial)
        # Before it takes its place, so that none is ever drawn with that has not been checked.
        try:
            difference = difference_from_head(Library(partial))
        except (OSError, AttributeError) as error:
            raise OrthusError(
                f"the compiled loop does not load: {error}",
                where=str(target),
                hint="name a folder whose files may be executed with ORTHUS_CACHE",
            ) from error
        if not difference < CLOSE:
            raise OrthusError(
                f"the loop that {command[0]} compiled is {difference:.2g} off",
                where=str(SOURCE),
                hint=ANOTHER_COMPILER,
            )
    _loaded.cache_clear()
    return Built(target, command[0], time.perf_counter() - began)


def library_path() -> Path:
    """Where the library of this text for this processor is, or would be."""
    text = SOURCE.read_bytes() + _processor().encode()
    return cache_folder() / "compiled" / f"denoising-{hashlib.sha256(text).hexdigest()[:16]}.so"


@functools.lru_cache(maxsize=1)
def _processor() -> str:
    """The processor's architecture and the instructions that it knows."""
    lines: list[str] = []
    with suppress(OSError):  # not Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    known = (line for line in lines if line.split(":")[0].strip() in ("flags", "Features"))
    # Python may start a process to answer the last question, so it is asked last.
    name = next(known, None) or platform.processor()
    return f"{platform.system()} {platform.machine()} {name}"


def _close_to_others(path: Path) -> None:
    """Take the right to write a file or folder from other users, where this user may do so."""
    with suppress(OSError):
        path.chmod(path.stat().st_mode & 0o755)


def _only_ours(*places: Path) -> bool:
    """Whether other users but root can neither write these, a file and its folder, nor put others
    in their place.
    """
    for place in places:
        about = place.stat()
        if about.st_uid not in (0, os.getuid()) or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
    modes = [folder.stat().st_mode for folder in places[-1].parents]
    return not any(mode & stat.S_IWOTH and not mode & stat.S_ISVTX for mode in modes)


class _CLinear(Structure):
    _fields_ = [("weight", c_void_p), ("bias", c_void_p)]


class _CBlock(Structure):
    _fields_ = [
        ("norm_weight", c_void_p),
        ("norm_bias", c_void_p),
        ("first", _CLinear),
        ("second", _CLinear),
    ]


class _CHead(Structure):
    _fields_ = [
        ("channels", c_int64),
        ("width", c_int64),
        ("blocks", c_int64),
        ("epsilon", c_float),
        ("input", _CLinear),
        ("output", _CLinear),
        ("block", POINTER(_CBlock)),
    ]


class _CRun(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("steps", "rows", "images", "states")),
        *((name, c_void_p) for name in ("amounts", "owner", "mix", "updates", "known", "scratch")),
    ]


class Library:
    """The compiled file.

    Attributes:
        panel: P, outputs whose weights lie together.
        most_rows, most_states: Largest R and S.
    """

    def __init__(self, path: Path) -> None:
        functions = ctypes.CDLL(str(path))
        self.panel, self.most_rows, self.most_states = (
            self._number(functions, name) for name in ("panel", "most_rows", "most_states")
        )
        self.denoise = functions.orthus_denoise
        self.denoise.argtypes = [POINTER(_CHead), POINTER(_CRun), c_int]
        self.denoise.restype = None

    @staticmethod
    def _number(functions: ctypes.CDLL, name: str) -> int:
        function = getattr(functions, f"orthus_{name}")
        function.restype = c_int64
        return function()


def library() -> Library | None:
    """The library, None where it has not been compiled, does not load, or others can write it."""
    if os.name == "nt":
        return None
    try:
        return _loaded(library_path())
    except (OSError, OutputError):  # no source file here; a user without a home folder
        return None


@functools.lru_cache(maxsize=1)
def _loaded(path: Path) -> Library | None:
    try:
        real = path.resolve(strict=True)
        return Library(real) if _only_ours(real, real.parent) else None
    except (OSError, AttributeError):  # such as a folder whose files may not be executed
        return None


class CompiledLoop:
    """A head's weights in panels, and the steps with them.

    Args:
        compiled: Library that computes.
        head: Head whose weights are copied, in fp32.
    """

    @torch.no_grad()
    def __init__(self, compiled: Library, head: DiffusionHead) -> None:
        self._compiled = compiled
        self._channels = head.input_proj.weight.shape[1]
        self._stride, self._padded = (self._whole(size) for size in (head.width, self._channels))
        self._kept: list[Tensor] = []  # what the pointers below point to
        blocks = [
            _CBlock(
                self._padded_copy(block.in_ln.weight),
                self._padded_copy(block.in_ln.bias),
                self._panels(block.mlp[0]),
                self._panels(block.mlp[2]),
            )
            for block in head.blocks
        ]
        self._head = _CHead(
            self._channels,
            head.width,
            len(blocks),
            HEAD_EPS,
            self._panels(head.input_proj),
            self._panels(head.final_layer.linear),
            (_CBlock * len(blocks))(*blocks),
        )

    def takes(self, rows: int, states: int) -> bool:
        """Whether the library is made for so many branches and tensors of a solver's state."""
        return rows <= self._compiled.most_rows and states <= self._compiled.most_states

    def steps(
        self,
        amounts_TRA: Tensor,
        owner_R: Tensor,
        mix_NR: Tensor,
        updates_TSK: Tensor,
        known: list[Tensor],
    ) -> list[Tensor]:
        """The solver's state after these steps: S times fp32 [N, C].

        Args:
            amounts_TRA: Modulation values of each step.
            owner_R: Index of the image that each row denoises.
            mix_NR: Weight of each row in each image.
            updates_TSK: Table of each step, with K = S + 1 (see `Numbers` in solvers.py).
            known: The state before them.
        """
        state_SNC = F.pad(torch.stack(known).float(), (0, self._padded - self._channels))
        steps, rows, _ = amounts_TRA.shape
        threads = max(1, min(torch.get_num_threads(), self._stride // self._compiled.panel))
        # Named, so that none is freed before the call has ended.
        tensors = (
            amounts_TRA.float().contiguous(),
            owner_R.long().contiguous(),
            mix_NR.float().contiguous(),
            updates_TSK.contiguous(),
            state_SNC.contiguous(),
            # Whatever torch's default precision and device are.
            torch.empty(2 + threads, rows, self._stride, dtype=torch.float32, device="cpu"),
        )
        pointers = (tensor.data_ptr() for tensor in tensors)
        run = _CRun(steps, rows, mix_NR.shape[0], len(known), *pointers)
        self._compiled.denoise(ctypes.byref(self._head), ctypes.byref(run), threads)
        return list(tensors[4][..., : self._channels].unbind())

    def _whole(self, size: int) -> int:
        return -(-size // self._compiled.panel) * self._compiled.panel

    def _panels(self, layer: nn.Module) -> _CLinear:
        """The weight as [O / P, I, P], and the bias."""
        assert isinstance(layer, nn.Linear), "the head's products are linear layers"
        outputs, inputs = layer.weight.shape
        weight_OI = F.pad(layer.weight.float(), (0, 0, 0, self._whole(outputs) - outputs))
        panels = weight_OI.view(-1, self._compiled.panel, inputs).transpose(1, 2).contiguous()
        self._kept.append(panels)
        return _CLinear(panels.data_ptr(), self._padded_copy(layer.bias))

    def _padded_copy(self, values: Tensor) -> int:
        padded = F.pad(values.detach().float(), (0, self._whole(len(values)) - len(values))).clone()
        self._kept.append(padded)
        return padded.data_ptr()


def compiled_loop(head: DiffusionHead, dtype: torch.dtype) -> CompiledLoop | None:
    """The loop of this head, where it is on a CPU in fp32 and the library has been compiled."""
    if head.input_proj.weight.device.type != "cpu" or dtype != torch.float32:
        return None
    compiled = library()
    return CompiledLoop(compiled, head) if compiled else None


@torch.no_grad()
def difference_from_head(compiled: Library) -> float:
    """Largest difference between a step of the library and a random head's own prediction."""
    random = torch.Generator().manual_seed(0)
    images, rows = 2, 3
    head = DiffusionHead(
        channels=compiled.panel + 3, cond_dim=8, width=2 * compiled.panel + 5, depth=2
    )
    for parameter in head.parameters():
        parameter.normal_(0, parameter[0].numel() ** -0.5, generator=random)
    noisy_NC = torch.randn(images, compiled.panel + 3, generator=random)
    hidden_RD = torch.randn(rows, 8, generator=random)
    owner_R, times_R = torch.tensor([0, 1, 1]), torch.full((rows,), 500)
    mix_NR = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, -2.0]])
    expected_NC = mix_NR @ head(noisy_NC[owner_R], times_R, hidden_RD)
    active_RW = F.silu(head.time_embed(times_R) + head.cond_embed(hidden_RD))
    amounts_RA = torch.cat(
        [owner.adaLN_modulation[1](active_RW) for owner in (*head.blocks, head.final_layer)], dim=1
    )
    amounts_RA.unflatten(1, (-1, head.width))[:, 1::3] += 1
    prediction = torch.tensor([[[0.0, 1.0]]])
    loop = CompiledLoop(compiled, head)
    (found_NC,) = loop.steps(amounts_RA.unsqueeze(0), owner_R, mix_NR, prediction, [noisy_NC])
    return float((found_NC - expected_NC).abs().max())
