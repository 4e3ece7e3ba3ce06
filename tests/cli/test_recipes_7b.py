"""A rehearsal of recipes/7b: each recipe is run by the command in its first line, at toy size, on
data in the layouts that its sets are published in; from a Chameleon to a story.
"""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file

from orthus_core.recipe.shelf import shelved
from tests.core.toy_data import picture, words
from tests.discrete import write_tiny_chameleon

ORDER = ("finetune-vae", "build-base", "instruct", "edit", "story", "instruct-lora")
ORDER += ("chameleon-dagger",)
# Sizes and lengths alone; what is learnt, and from what, is the recipes' own.
TOY = {"optim.steps": 2, "optim.batch_size": 4, "optim.warmup_steps": 1, "data.workers": 0}
TOY |= {"log.every": 1, "log.sample_every": 0, "log.save_every": 0, "log.validate_every": 2}
OWN = {
    "finetune-vae": {"optim.accumulate": 2},
    "build-base": {"optim.steps": 5},  # a new head passes no gradient on in its first steps
    "instruct-lora": {"optim.accumulate": 2},
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


def data_sets(data: Path, count: int = 8) -> None:
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


def moved(before: str, after: str) -> set[str]:
    """What differs between two models, by the first part of a name that says what it is."""
    one, other = weights(before), weights(after)
    assert one.keys() == other.keys()
    names = {name for name in one if not torch.equal(one[name], other[name])}
    return {name.split(".")[0 if not name.startswith("model.") else 1] for name in names}


def test_the_folder_has_the_stages_of_the_paper():
    assert {name for name in shelved() if name.startswith("7b/")} == {f"7b/{n}" for n in ORDER}


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
    for stage in ORDER:
        sets = TOY | OWN.get(stage, {})
        changes = [f"--set={key}={value}" for key, value in sets.items()]
        run(*command_in(f"7b/{stage}"), *changes)

    assert moved("orthus-7b", "orthus-7b-vae") == {"vqmodel"}
    assert moved("orthus-7b-vae", "orthus-7b-base") == {"mlp_head", "codebook_in", "embed_tokens"}
    for stage in ("instruct", "edit", "story"):
        everything = {"mlp_head", "codebook_in", "embed_tokens", "layers", "norm", "lm_head"}
        assert moved("orthus-7b-base", f"orthus-7b-{stage}") == everything
    assert moved("chameleon-7b", "chameleon-7b-dagger") == {
        *("embed_tokens", "layers", "norm", "lm_head"),
    }
    for folder in ("orthus-7b-instruct", "chameleon-7b-dagger"):
        read = json.loads((tmp_path / folder / "metrics.jsonl").read_text().splitlines()[-1])
        named = {key.partition("/")[2] for key in read if key.startswith("epochs/")}
        assert named == {"llava", "sharegpt4v", "journeydb", "laion"}
        assert not any(value for key, value in read.items() if key.startswith("unusable/"))

    draw = ("--steps", "3", "--seed", "1", "--device", "cpu")
    picture(0).save("start.png")
    opening = ("--image", "start.png", "Once upon a time.", "--panels", "2")
    run("story", *opening, "-m", "orthus-7b-story", "-o", "told", *draw)
    assert len(list(Path("told").glob("*.png"))) >= 2
    run("edit", "start.png", "make it blue", "-m", "orthus-7b-edit", "-o", "edited.png", *draw)
    prompt = ("generate", "a red square")
    run(*prompt, "-m", "orthus-7b-base", "--lora", "orthus-7b-lora", "-o", "lora.png", *draw)
    run(*prompt, "-m", "chameleon-7b-dagger", "-o", "dagger.png", "--seed", "1", "--device", "cpu")
    for name in ("edited", "lora", "dagger"):
        assert Image.open(f"{name}.png").size == (16, 16)
