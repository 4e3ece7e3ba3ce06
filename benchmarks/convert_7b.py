"""Peak memory and speed of converting a checkpoint of the 7B's shapes.

    python benchmarks/convert_7b.py SCRATCH_FOLDER

Writes a random Chameleon of 7B shapes (14 GB, bf16, Hugging Face layout), converts it in a process
of its own (another 14 GB), prints a table and removes both. Random weights cost the converter what
real ones do.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import ChameleonConfig, ChameleonForConditionalGeneration

from orthus_core.checkpoint.lazy import LazyTensor
from orthus_core.checkpoint.writer import write_weights
from orthus_core.model.config import token_name_of_code

CODES = 8192
VOCABULARY = 65536
SHARD_BYTES = 5 * 10**9
# One block of random numbers serves every tensor, from another place in it each: numbers for 7 B
# parameters would take longer than all the rest.
BLOCK = 2 * VOCABULARY * 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scratch", type=Path, help="folder with 30 GB of room")
    parser.add_argument("--layers", type=int, default=32, help="fewer for a trial (7B has 32)")
    parser.add_argument("--keep", action="store_true", help="leave both models there")
    options = parser.parse_args()
    source, output = options.scratch / "chameleon-7b-random", options.scratch / "orthus-7b-random"
    try:
        if not (source / "config.json").is_file():
            write_chameleon(source, options.layers)
        copied = copy_speed(source)
        report(convert(source, output), copied)
    finally:
        if not options.keep:
            shutil.rmtree(source, ignore_errors=True)
            shutil.rmtree(output, ignore_errors=True)


def write_chameleon(folder: Path, layers: int) -> None:
    """A random Chameleon with the shapes of facebook/chameleon-7b."""
    names = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    names |= {token_name_of_code(code): 4 + code for code in range(CODES)}
    names |= {"<eoss>": 8196, "<racm3:break>": 8197, "<reserved08706>": 8710, "<image>": 8711}
    taken = set(names.values())
    names |= {f"word{index}": index for index in range(VOCABULARY) if index not in taken}
    config = ChameleonConfig(
        num_hidden_layers=layers,
        vocabulary_map=names,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        dtype=torch.bfloat16,
    )
    config.architectures = ["ChameleonForConditionalGeneration"]
    with torch.device("meta"):
        shapes = ChameleonForConditionalGeneration(config).state_dict()
    block = torch.randn(BLOCK // 4, generator=torch.Generator().manual_seed(0)).bfloat16() * 0.02

    def random(name: str, shape: torch.Size, start: int) -> LazyTensor:
        def read() -> Tensor:
            numel = shape.numel()
            offset = start * 7919 % (len(block) // 2)
            repeats = -(-(offset + numel) // len(block))
            values = (block.repeat(repeats) if repeats > 1 else block)[offset : offset + numel]
            return values.view(shape) + (1.0 if "norm" in name and name.endswith("weight") else 0)

        return LazyTensor(tuple(shape), torch.bfloat16, read, "random")

    tensors = {
        name: random(name, tensor.shape, start)
        for start, (name, tensor) in enumerate(shapes.items())
    }
    folder.mkdir(parents=True)
    for _ in write_weights(folder, tensors, SHARD_BYTES):
        pass
    config.save_pretrained(folder)


def copy_speed(folder: Path) -> float:
    """MB/s of copying the source's weight files, each flushed to disk: what the disk can do."""
    copied, began = 0, time.monotonic()
    for file in sorted(folder.glob("*.safetensors")):
        copy = folder.parent / f"{file.name}.copy"
        try:
            shutil.copyfile(file, copy)
            descriptor = os.open(copy, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
            copied += copy.stat().st_size
        finally:
            copy.unlink(missing_ok=True)
    return copied / 1e6 / (time.monotonic() - began)


def convert(source: Path, output: Path) -> dict:
    """What `orthus convert` reports, with the peak memory of its process."""
    words = [sys.executable, "-m", "orthus_cli", "convert", source, "-o", output]
    began = time.monotonic()
    ended = subprocess.run(
        [*map(str, words), "--format", "json"], stdout=subprocess.PIPE, check=True, text=True
    )
    made = json.loads(ended.stdout)
    made["seconds"]["all"] = time.monotonic() - began
    kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    made["peak_gb"] = kilobytes * (1 if sys.platform == "darwin" else 1024) / 1e9
    return made


def report(made: dict, copied: float) -> None:
    seconds, megabytes = made["seconds"], made["bytes"] / 1e6
    proof = made["proof"]
    print(f"| parameters | {made['parameters']:,} |")
    print(f"| written | {megabytes / 1e3:.2f} GB |")
    print(f"| peak memory of the process | {made['peak_gb']:.2f} GB |")
    print(f"| writing | {seconds['write']:.1f} s, {megabytes / seconds['write']:.0f} MB/s |")
    print(f"| copying the source, for comparison | {copied:.0f} MB/s |")
    print(f"| proof, {proof['layers']} layers | {seconds['check']:.1f} s |")
    print(f"| largest difference, of the largest value | {proof['relative']:.1e} |")
    print(f"| whole command | {seconds['all']:.1f} s |")


if __name__ == "__main__":
    main()
