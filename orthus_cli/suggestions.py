"""What a mistyped command or an option of another tool probably means.

The tables list words by meaning; spelling alone would lead from `--width` to nothing, and from
`train` to `pretrain`. A suggestion names only commands and options that exist (a test reads them).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

COMMANDS = {
    "generate": "gen draw paint create make image imagine dream txt2img text2img text-to-image "
    "text2image t2i sample inference infer predict run synthesize synthesise render diffuse prompt",
    "edit": "img2img image2image image-to-image i2i inpaint instruct-edit modify change transform "
    "pix2pix instructpix2pix variation variations edit-image",
    "caption": "describe ask vqa question answer captions img2txt image2text image-to-text i2t "
    "interrogate read tag blip chat understand",
    "story": "tell stories interleave interleaved comic panels",
    "posttrain": "train finetune fine-tune tune fit lora sft dreambooth train-lora "
    "instruction-tune textual-inversion",
    "finetune-vae": "vae finetune-decoder train-vae tune-vae",
    "convert": "import export transform-model conversion quantize quantise",
    "eval": "evaluate test score geneval metrics benchmark-quality judge fid",
    "bench": "benchmark speed time profile timing perf",
    "plan": "memory estimate fit-memory vram size requirements",
    "info": "show inspect metadata exif about what stat identify models model",
    "generate --continue": "outpaint continue extend",
    "recipes validate": "validate lint check-recipe",
    "replay": "reproduce redo repeat again verify rerun redraw",
    "doctor": "check-env env diagnose devices gpus gpu system setup report selftest status",
    "recipes ls": "ls list configs presets config",
    "data check": "dataset datasets check validate-data data-check check-data",
    "plugins": "extensions plugin addons",
    "--version": "version ver --ver -V",
    "--help": "help man usage",
}
"""Words of other tools, by what they are called here."""

SUBCOMMANDS = {
    "ls": "list dir index all names",
    "cat": "show print view read open get",
    "cp": "copy new init export save edit",
    "validate": "check lint test verify",
    "keys": "schema options help-keys fields",
    "check": "validate lint verify test inspect",
    "prepare": "make build download create export",
    "world": "sprites mini small-world",
    "emoji": "sprite sprites pack",
}
"""The same of the commands within `recipes` and `data`."""

ONE_SIZE = "a model draws pictures of one size, see `orthus info MODEL`; --scale 4 enlarges them"
ON_CUDA = "--device cuda, or leave it out: the fastest device is taken by itself"

OPTIONS = {
    ONE_SIZE: "--size --width --height -W -H -w --resolution --res --image-size --img-size "
    "--aspect-ratio --ar --dimensions --output-size",
    "--steps": "--num-steps --sampling-steps --inference-steps --sample-steps --ddim-steps "
    "--ddim_steps --num_inference_steps --n-steps --iterations -s",
    "--scheduler": "--sampler --sampling-method --solver --sampler-name --scheduler-type",
    "--guidance": "--cfg --cfg_scale --scale --guidance_scale --cfg-guidance --guide "
    "--unconditional-guidance-scale",
    "--image-guidance": "--image-cfg --image-guidance-scale --image_guidance_scale --cfg-image "
    "--image-cfg-scale",
    "--negative-prompt": "--negative --neg --neg-prompt --negative_prompt --uncond -np",
    "--output": "--out --save --save-to --outdir --out-dir --output-dir --output_dir --outfile "
    "--output-file --file --save-path --dest --filename -O",
    "--num-images": "--num-samples --num_samples --count --number --n-samples --n_samples --images "
    "--num --num-images-per-prompt --num_images_per_prompt --n-iter -c -N "
    "--samples --n",
    "--batch-size": "--batch --bs --batchsize --batch_size -b",
    "--seed": "--seeds --random-seed --manual-seed --rng-seed -S",
    ON_CUDA: "--gpu --gpus --cuda --use-gpu --gpu-id",
    "--device cpu": "--cpu --no-cuda --use-cpu --no-gpu --cpu-only",
    "--device mps": "--mps --metal",
    "--dtype fp16": "--fp16 --half --float16",
    "--dtype bf16": "--bf16 --bfloat16",
    "--dtype fp32": "--fp32 --full --float32 --full-precision --no-half",
    "--dtype": "--precision --torch-dtype --torch_dtype --weight-dtype",
    "--model": "--model-path --ckpt --checkpoint --model-id --model-name --model_path "
    "--pretrained-model-name-or-path --weights --model-dir --ckpt-path --from-pretrained -M",
    "--quantize": "--load-in-8bit --load-in-4bit --int8 --int4 --bits --quantise --quant --8bit "
    "--4bit --q",
    "--low-memory": "--lowvram --medvram --low-vram --cpu-offload --offload --sequential-offload "
    "--enable-model-cpu-offload --low-ram",
    "--overwrite": "--force -f --replace --clobber -y --yes",
    "--skip-existing": "--skip --no-clobber --keep-existing --resume --continue-run",
    "--prompt-file": "--prompts --from-file --prompts-file --prompt_file --prompt-list",
    "--image": "--input --init-image --init_image --init-img --input-image --image-path -i --img "
    "--ref --reference",
    "--max-new-tokens": "--max-tokens --max_new_tokens --max-length --num-tokens --new-tokens",
    "--panels": "--num-panels --pages --pictures --frames --num-pictures --chapters -n",
    "--temperature": "--temp --heat",
    "--config-from": "--config --from-image --params-from --config-file",
    "--recipe": "--yaml --toml --conf --settings --preset-file",
    "--format json": "--json --as-json --output-format",
    "--format quiet": "--silent --only-paths --print-paths",
    "--set": "--override --overrides",
    "--grid": "--sheet --contact-sheet --make-grid --montage",
    "--no-metadata": "--no-exif --strip --strip-metadata",
    "--question": "--ask --query --text",
    "--init-from": "--from --start-from --init --base-model --pretrained",
}
"""Options of other tools, by what they are called here, or by what is to be said instead."""

ON_FASTEST = "a training takes the fastest device by itself; CUDA_VISIBLE_DEVICES chooses a GPU"

TRAINING_OPTIONS = {
    ON_FASTEST: "--device --gpu --gpus --cuda --use-gpu --gpu-id --num-gpus --device-id --cpu",
    "--resume": "--resume-from-checkpoint --resume-from --continue --continue-from --restart",
    "--set optim.lr=1e-5": "--lr --learning-rate --base-lr --max-lr",
    "--set optim.steps=1000": "--steps --max-steps --num-steps --max-train-steps --train-steps "
    "--total-steps --iterations --max-iters --epochs --num-epochs --num-train-epochs",
    "--set optim.batch_size=8": "--batch-size --batch --bs --train-batch-size -b "
    "--per-device-train-batch-size --micro-batch-size",
    "--set optim.accumulate=2": "--gradient-accumulation-steps --grad-accum --accumulate "
    "--accumulation-steps --accumulate-grad-batches",
    "--set optim.warmup_steps=100": "--warmup --warmup-steps --lr-warmup-steps --num-warmup-steps",
    "--set seed=1": "--seed --random-seed --manual-seed -S",
    "--set data.source=DIR": "--data --dataset --data-dir --data-path --train-data-dir "
    "--dataset-name --train-data --instance-data-dir",
    "--set log.save_every=500": "--save-every --save-steps --checkpointing-steps --save-interval",
}
"""The same of the trainings, whose values are recipe keys without options of their own."""

CLOSE = 0.7
"""How alike two words must be for a typing error: below it `--lora` comes near `--format`."""

AS_ARGUMENTS = ("-p", "--prompt", "--text", "--caption", "--instruction", "--txt")
"""Options of other tools for what is an argument here."""


def suggest_command(word: str, known: Iterable[str]) -> str:
    """What to say of an unknown command; empty if nothing comes near.

    Args:
        known: Names of the commands, and of subcommands where the word stood in a group.
    """
    known = list(known)
    if any(char.isspace() for char in word) and "generate" in known:
        return 'a prompt stands after a command, as in: orthus generate "a snowman"'
    low = word.lower().replace("_", "-")
    meant = [name for name, words in COMMANDS.items() if low in words.split()]
    meant = [name for name in meant if name.startswith("-") or name.partition(" ")[0] in known]
    meant += [name for name, words in SUBCOMMANDS.items() if name in known and low in words.split()]
    joined = low.replace("-", "")
    meant += [name for name in known if joined == name.replace("-", "") and name not in meant]
    if low not in known and not meant:
        meant = get_close_matches(low, known, cutoff=CLOSE)
        meant = meant or [name for name in known if len(low) > 2 and name.startswith(low)]
    elif low in known:
        meant = [low]
    return f"did you mean {' or '.join(map(repr, meant))}?" if meant else ""


def suggest_option(word: str, command: Any) -> str:
    """What to say of an unknown option of a command; empty if nothing comes near.

    Args:
        command: The command as Typer holds it; only options that it has are suggested.
    """
    if hasattr(command, "commands") and "generate" in command.commands:
        drawing = {*OPTIONS, *(each for words in OPTIONS.values() for each in words.split())}
        if word in (*drawing, *AS_ARGUMENTS):
            return 'options stand after a command, as in: orthus generate "a snowman" --steps 20'
    has = {spelling for each in command.params for spelling in (*each.opts, *each.secondary_opts)}
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    low = word if len(word) == 2 else word.lower().replace("_", "-")
    if low in AS_ARGUMENTS and arguments and "--question" not in has:
        example = {"edit": "orthus edit cat.png 'add a hat'"}.get(
            command.name, f"orthus {command.name} 'a snowman'"
        )
        return f"it is an argument, without an option: {example}"
    trains = {"--resume", "--set"} <= has
    for meant, words in (*(TRAINING_OPTIONS.items() if trains else ()), *OPTIONS.items()):
        if low not in (
            each if len(each) == 2 else each.replace("_", "-") for each in words.split()
        ):
            continue
        if meant == ON_FASTEST or (meant == ONE_SIZE and "--steps" in has):
            return meant
        if meant.split()[0].strip(",") in has or (meant.startswith("--format") and has):
            return meant if meant == ON_CUDA else f"did you mean {meant}?"
    if low in has:  # other case, or _ for -
        return f"did you mean {low}?"
    # Without the dashes, in which all options are alike.
    long = sorted(each[2:] for each in has if each.startswith("--"))
    near = get_close_matches(low.lstrip("-"), long, cutoff=CLOSE)
    return f"did you mean {' or '.join(f'--{each}' for each in near)}?" if near else ""


def suggest_value(value: str) -> str:
    """What to say of an unknown device or precision, or of a device's number, as in `cuda:1`."""
    from orthus_core.recipe.load import OTHER_WORDS

    kind, _, number = value.partition(":")
    if kind == "cuda" and number.isdecimal():
        return f"one GPU of several is chosen with: CUDA_VISIBLE_DEVICES={number} orthus ..."
    meant = OTHER_WORDS.get(kind.lower())
    return f"did you mean {meant!r}?" if meant else ""
