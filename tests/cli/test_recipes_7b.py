"""A rehearsal of recipes/7b: each recipe is run by the command in its first line, at toy size, by
two processes, on data in the layouts that its sets are published in; from a Chameleon to a story.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import shlex
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_core.checkpoint.model_folder import open_model
from orthus_core.recipe import BuildBaseRecipe, FinetuneVaeRecipe, PosttrainRecipe, load
from orthus_core.recipe.shelf import shelved
from tests.core.test_train_sharding import begin
from tests.core.toy_data import picture, words
from tests.discrete import write_tiny_chameleon

ORDER = ("finetune-vae", "build-base", "instruct", "edit", "story", "instruct-lora")
ORDER += ("chameleon-dagger",)
SCHEMAS = {"finetune-vae": FinetuneVaeRecipe, "build-base": BuildBaseRecipe}
# Sizes and lengths alone; what is learnt, and from what, is the recipes' own.
TOY = {"optim.steps": 2, "optim.batch_size": 4, "optim.warmup_steps": 1, "data.workers": 0}
TOY |= {"log.every": 1, "log.sample_every": 0, "log.save_every": 0, "log.validate_every": 2}
OWN = {
    "finetune-vae": {"optim.accumulate": 2},
    "build-base": {"optim.steps": 5},  # a new head passes no gradient on in its first steps
    # At the recipe's own rate two steps change no pixel.
    "instruct-lora": {"optim.accumulate": 2, "optim.lr": 0.03},
}


def png(number: int) -> bytes:
    content = io.BytesIO()
    picture(number).save(content, "PNG")
    return content.getvalue()


def put(path: Path, content: bytes | str | list | dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
    path.write_bytes(content)


COUNT = 8  # rows of a set


def data_sets(data: Path, count: int = COUNT) -> None:
    """Every set that a recipe of the folder names, where it names it."""
    for name, file in (
        ("llava", "llava_v1_5_mix665k.json"),
        ("sharegpt4v", "sharegpt4v_instruct_gpt4-vision_cap100k.json"),
    ):
        records = []
        for number in range(count):
            put(data / name / "images" / "coco" / f"{number}.png", png(number))
            asked = {"from": "human", "value": "<image>\nWhat is this?"}
            told = {"from": "gpt", "value": words(number)}
            image, turns = f"coco/{number}.png", [asked, told]
            records.append({"id": number, "image": image, "conversations": turns})
        put(data / name / file, records)

    lines = []
    for number in range(count):
        put(data / "journeydb" / "imgs" / "000" / f"{number}.png", png(number))
        found = {"img_path": f"./000/{number}.png", "prompt": f"{words(number)} --ar 3:2"}
        lines.append(json.dumps(found) + "\n")
    put(data / "journeydb" / "train_anno_realease_repath.jsonl", "".join(lines))

    (data / "laion-coco-aesthetic").mkdir()
    with tarfile.open(data / "laion-coco-aesthetic" / "00000.tar", "w") as made:
        for number in range(count):
            for suffix, content in (("png", png(number)), ("txt", words(number).encode())):
                info = tarfile.TarInfo(f"{number:09}.{suffix}")
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))

    edits = data / "instruct-pix2pix"
    put(edits / "seeds.json", [[f"{number:07}", ["11"]] for number in range(2 * count)])
    for number in range(2 * count):
        folder = edits / f"{number:07}"
        prompt = {"caption": words(number), "edit": "make it blue", "output": words(number + 2)}
        put(folder / "prompt.json", prompt)
        put(folder / "11_0.jpg", png(number))
        put(folder / "11_1.jpg", png(number + 2))

    images = [f"000258/{number}.png" for number in range(4)]
    for number, name in enumerate(images):
        put(data / "storystream" / name, png(number))
    story = {"images": images, "captions": [words(n) for n in range(4)], "orders": [0, 1, 2, 3]}
    stories = [json.dumps({"id": number, **story}) + "\n" for number in range(count)]
    put(data / "storystream" / "train.jsonl", "".join(stories))


def command_in(name: str) -> list[str]:
    """The command in the first line of a recipe, without `orthus`."""
    return shlex.split(shelved()[name].read_text().splitlines()[0].lstrip("# "))[1:]


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "model.safetensors")


def output_of(stage: str) -> str:
    typed = command_in(f"7b/{stage}")
    return typed[typed.index("-o") + 1]


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=int)


def commands(*several: Sequence[str]) -> None:
    """What one of the processes does: the commands one after the other, as a launcher has it."""
    for typed in several:
        done = CliRunner().invoke(app, typed, prog_name="orthus")
        print(done.output, flush=True)
        if done.exit_code:
            raise SystemExit(done.stderr)
        torch.distributed.barrier()  # a launcher ends when the first process has written the model


def moved(before: str, after: str) -> set[str]:
    """What differs between two models, by the first part of a name that says what it is."""
    one, other = weights(before), weights(after)
    assert one.keys() == other.keys()
    names = {name for name in one if not torch.equal(one[name], other[name])}
    return {name.split(".")[0 if not name.startswith("model.") else 1] for name in names}


def test_the_folder_has_the_stages_of_the_paper():
    assert {name for name in shelved() if name.startswith("7b/")} == {f"7b/{n}" for n in ORDER}


def test_the_recipes_have_the_values_of_the_paper_and_the_baseline_the_rows_of_instruct():
    """Table 7 of 2412.00127: rows of a step on all cards together, learning rate, steps."""
    values = {stage: (16, 1e-5, 35000) for stage in ORDER}
    values["finetune-vae"], values["build-base"] = (256, 1e-5, 15000), (32, 1e-4, 15000)
    values["instruct-lora"] = (16, 1e-4, 35000)  # not of the paper, but for its rate the same
    sources = {}
    for stage, (rows, rate, steps) in values.items():
        recipe = load(SCHEMAS.get(stage, PosttrainRecipe), f"7b/{stage}")
        optim = recipe.optim
        assert optim.batch_size * optim.accumulate == rows, stage
        assert (optim.lr, optim.steps, optim.kind) == (rate, steps, "adamw"), stage
        assert optim.betas == (0.9, 0.99), stage
        assert stage == "chameleon-dagger" or getattr(recipe, "lambda_image", 100.0) == 100.0
        sources[stage] = recipe.data.sources
    assert sources["instruct"] == sources["instruct-lora"] == sources["chameleon-dagger"]


def test_the_pages_commands_are_those_of_the_recipes():
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text().replace("\\\n", " ")
    told = re.findall(r"(?:orthus|-m orthus_cli) ((?:[\w-]+) 7b/[\w-]+ --init-from [^#\n]*)", page)
    assert len(told) > 5
    for typed in map(shlex.split, told):
        wanted = command_in(typed[1])
        assert typed[: len(wanted)] == wanted


def test_a_chameleon_becomes_an_orthus_that_tells_a_story(
    orthus, tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    data_sets(tmp_path / "data")
    write_tiny_chameleon(tmp_path / "chameleon-7b", tiny_folder)

    def run(*typed: str) -> None:
        done = orthus(*typed)
        assert done.exit_code == 0, done.stderr

    small = ("--set", "head.width=24", "--set", "head.depth=2", "--set", "check.codes=8")
    run("convert", "chameleon-7b", "-o", "orthus-7b", "--recipe", "convert", *small)
    stages = []
    for stage in ORDER:
        sets = TOY | OWN.get(stage, {})
        stages.append(command_in(f"7b/{stage}") + [f"--set={k}={v}" for k, v in sets.items()])
    for rank, process in enumerate(begin(2, commands, *stages, logs=tmp_path / "logs")):
        process.join()
        told = (tmp_path / "logs" / f"log-{rank}.txt").read_text()
        assert process.exitcode == 0, told
        assert told.count("wrote ") == (0 if rank else len(ORDER)), "one speaks for both"

    assert moved("orthus-7b", "orthus-7b-vae") == {"vqmodel"}
    assert moved("orthus-7b-vae", "orthus-7b-base") == {"mlp_head", "codebook_in", "embed_tokens"}
    for stage in ("instruct", "edit", "story"):
        everything = {"mlp_head", "codebook_in", "embed_tokens", "layers", "norm", "lm_head"}
        assert moved("orthus-7b-base", f"orthus-7b-{stage}") == everything
    assert moved("chameleon-7b", "chameleon-7b-dagger") == {
        *("embed_tokens", "layers", "norm", "lm_head"),
    }
    # Rows of both processes together: two steps of four, or of twice four.
    counts = {"orthus-7b-instruct": 8, "orthus-7b-lora": 16, "chameleon-7b-dagger": 8}
    for folder, rows in counts.items():
        read = json.loads((tmp_path / folder / "metrics.jsonl").read_text().splitlines()[-1])
        epochs = {name.partition("/")[2]: read[name] for name in read if "epochs/" in name}
        assert epochs.keys() == {"llava", "sharegpt4v", "journeydb", "laion"}
        assert sum(epochs.values()) * COUNT == rows
        assert not any(value for key, value in read.items() if key.startswith("unusable/"))
    for stage in ORDER:  # all is sharded but the autoencoder, which the first process saves
        parts = tmp_path.glob(f"{output_of(stage)}.training/states/step-*/part-*")
        assert len(list(parts)) == (1 if stage == "finetune-vae" else 2), stage

    draw = ("--steps", "3", "--seed", "1", "--device", "cpu")
    picture(0).save("start.png")
    opening = ("--image", "start.png", "Once upon a time.", "--panels", "2")
    run("story", *opening, "-m", "orthus-7b-story", "-o", "told", *draw)
    assert len(list(Path("told").glob("*.png"))) >= 2
    run("edit", "start.png", "make it blue", "-m", "orthus-7b-edit", "-o", "edited.png", *draw)
    prompt = ("generate", "a red square")
    run(*prompt, "-m", "chameleon-7b-dagger", "-o", "dagger.png", "--seed", "1", "--device", "cpu")
    for name in ("edited", "dagger"):
        assert Image.open(f"{name}.png").size == (16, 16)

    # Adapters of two processes at no, half and whole strength: loaded and merged are the same.
    run(*prompt, "-m", "orthus-7b-base", "-o", "base.png", *draw)
    drawn = [pixels("base.png")]
    for lora in ("orthus-7b-lora:0.5", "orthus-7b-lora"):
        for place in ("loaded.png", "merged.png"):
            Path(place).unlink(missing_ok=True)
        run(*prompt, "-m", "orthus-7b-base", "--lora", lora, "-o", "loaded.png", *draw)
        run("merge", "orthus-7b-base", "--lora", lora, "-o", "merged", "--overwrite")
        run(*prompt, "-m", "merged", "-o", "merged.png", *draw)
        assert np.array_equal(pixels("loaded.png"), pixels("merged.png"))
        assert moved("orthus-7b-base", "merged") == {"layers", "mlp_head"}
        loaded = open_model("orthus-7b-base", device="cpu", lora=[lora]).model.state_dict()
        for name, weight in weights("merged").items():
            assert torch.equal(loaded[name], weight.to(loaded[name].dtype)), name
        drawn.append(pixels("loaded.png"))
    for one, other in itertools.combinations(drawn, 2):
        assert abs(one - other).mean() > 1
