"""What reading rows and stored features costs: python benchmarks/data_loading.py

1. Random records of stored features, microseconds each.
2. The index of a million stored pictures: seconds to open, memory, microseconds to find one.
3. A training of `--shape` on a data set on disk, its features stored, its rows packed: the share of
   a step that waits for its batch, without and with a worker.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from orthus_core.bench.model_sizes import model_of
from orthus_core.checkpoint.hub import resolve
from orthus_core.checkpoint.model_folder import open_processor
from orthus_core.data.latent_cache import FeatureCache
from orthus_core.data.latent_shards import KEY, RecordShards, header_of
from orthus_core.losses.joint import JointLoss
from orthus_core.recipe.training import DataRecipe
from orthus_core.train.batches import orthus_batch_builder, read_rows
from orthus_core.train.encode_first import encoded, pictures_of, planned
from orthus_core.train.freeze import all_but_autoencoder
from orthus_core.train.stages import with_counts

CAPTION = "a small red boat on a calm lake under a low evening sun, painted with a broad brush"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="mid", help="a shape of `orthus bench`")
    parser.add_argument("--batch", type=int, default=8, help="rows a step")
    parser.add_argument("--steps", type=int, default=4, help="steps that are measured")
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--only", choices=("records", "index", "step"), help="one part")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        if options.only in (None, "records"):
            random_records(Path(folder) / "records")
        if options.only in (None, "index"):
            million(Path(folder) / "million")
        if options.only in (None, "step"):
            steps(Path(folder) / "steps", options)


def random_records(folder: Path, count: int = 20_000, reads: int = 10_000) -> None:
    """Read records of 64 patches of 96 channels in 16 bits at random."""
    shape = (64, 96)
    shards = RecordShards(folder)
    random = np.random.default_rng(0)
    digests = [random.bytes(16) for _ in range(count)]
    some = random.integers(-(2**15), 2**15, (1000, *shape), dtype=np.int16)
    for start in range(0, count, len(some)):
        shards.append(digests[start : start + len(some)], some)
    shards.release()
    shards = RecordShards(folder)
    picked = [digests[number] for number in random.integers(0, count, reads)]
    before = resident()
    for name in ("first", "again"):
        begun = time.perf_counter()
        for digest in picked:
            assert shards.get(digest) is not None
        each = (time.perf_counter() - begun) / reads
        print(f"random records of 12 KB, {name}: {1e6 * each:.1f} microseconds each")
    print(f"memory: {(resident() - before) / 1e6:.0f} MB more after reading them")


def million(folder: Path, count: int = 1_000_000, shards: int = 8) -> None:
    """Open the index of a million small records."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    each = count // shards
    for number in range(shards):
        keys = np.empty(each, KEY)
        keys["first"], keys["second"] = random.integers(0, 2**63, (2, each), dtype=np.uint64)
        name = folder / f"shard-{number:08x}"
        name.with_suffix(".keys").write_bytes(keys.tobytes())
        records = bytes(each * 2)
        name.with_suffix(".bin").write_bytes(header_of((1,), np.dtype("<i2")) + records)
    some = [key.tobytes()[:16] for key in keys[random.integers(0, each, 10_000)]]
    del keys
    before, begun = resident(), time.perf_counter()
    store = RecordShards(folder)
    opened = time.perf_counter() - begun
    print(f"index of {count} records: {opened:.2f} s to open, {(resident() - before) / 1e6:.0f} MB")
    begun = time.perf_counter()
    assert all(digest in store for digest in some)
    spent = (time.perf_counter() - begun) / len(some)
    more = (peak() - before) / 1e6
    print(f"to find one: {1e6 * spent:.1f} microseconds; at most {more:.0f} MB more while it opens")


def steps(folder: Path, options: argparse.Namespace) -> None:
    """Train a few steps with and without a worker."""
    model = model_of(options.shape, torch.device("cpu"), torch.float32)
    processor = open_processor(resolve("mini"))
    assert processor is not None, "the bundled model has a tokenizer"
    side, patches = model.config.vq_config.resolution, model.config.patches
    records = data_set(folder, side, options.pictures)

    def encode(pixels_M3HW: torch.Tensor) -> torch.Tensor:
        """Numbers in place of features, which are not what is measured."""
        shape = (len(pixels_M3HW), patches, model.config.feature_channels)
        return pixels_M3HW.mean((1, 2, 3))[:, None, None] + torch.randn(shape)

    cache = FeatureCache("bench", encode, side, folder=folder / "cache", stored=torch.bfloat16)
    objective = JointLoss(model, lambda_image=100, text_weight=1).train()
    parameters = all_but_autoencoder(model)
    optimizer = torch.optim.AdamW(parameters)
    for workers in (0, 1):
        data = DataRecipe(
            source=str(records), packing=True, workers=workers, held_out=0, own_pictures=True
        )
        rows = result(read_rows(data, side))
        plan = result(planned(cache, pictures_of(rows)))
        for _ in encoded(cache, plan, lambda: False):
            pass
        builder = orthus_batch_builder(data, model.config, processor.tokenizer, cache)
        batches = builder.batches(rows, data, options.batch, 0)
        batches.train(0)  # the worker begins, and both know the shards
        waited, whole, spent = 0.0, 0.0, []
        for step in range(1, options.steps + 1):
            begun = time.perf_counter()
            batch = batches.train(step)
            got = time.perf_counter()
            ((batch, counts),) = with_counts([batch])
            objective(batch, counts).total.backward()
            optimizer.step()
            optimizer.zero_grad()
            end = time.perf_counter()
            waited, whole = waited + got - begun, whole + end - begun
            spent.append(end - begun)
        print(
            f"{options.shape}, {options.batch} rows a step, {workers} workers, "
            f"{torch.get_num_threads()} threads: a step takes {whole / options.steps:.2f} s and "
            f"waits {1e3 * waited / options.steps:.1f} ms for its rows: {waited / whole:.2%}"
        )


def data_set(folder: Path, side: int, count: int) -> Path:
    """Records of pictures with captions, and questions about them, by turns."""
    folder.mkdir(parents=True)
    random, lines = np.random.default_rng(0), []
    for number in range(count):
        pixels = random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((side, side)).save(folder / f"{number}.jpg")
        text = {"type": "text", "role": "user", "value": f"{CAPTION}, {number}"}
        drawn = {"type": "image", "role": "model", "path": f"{number}.jpg"}
        seen = {"type": "image", "role": "user", "path": f"{number}.jpg"}
        answer = {"type": "text", "role": "model", "value": CAPTION}
        segments = [text, drawn] if number % 2 else [seen, text, answer]
        lines.append(json.dumps({"segments": segments, "id": str(number)}))
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "records.jsonl"


def result(events):
    """What a generator of events returns."""
    while True:
        try:
            next(events)
        except StopIteration as stop:
            return stop.value


def resident() -> int:
    """Bytes of memory that this process holds."""
    return 1024 * int(_status()["VmRSS"].split()[0])


def peak() -> int:
    return 1024 * int(_status()["VmHWM"].split()[0])


def _status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return dict(line.split(":", 1) for line in lines)


if __name__ == "__main__":
    main()
