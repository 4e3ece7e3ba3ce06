"""What `describe` finds out from headers."""

from __future__ import annotations

from pathlib import Path

import pytest

from orthus_core.checkpoint.describe import describe
from orthus_core.errors import CheckpointError


def parts(path: Path) -> dict[str, int]:
    return {part.name: part.parameters for part in describe(path).parts}


def test_a_chameleon_lacks_a_head_and_a_decoder(chameleon, chameleon_folder: Path):
    found = describe(chameleon_folder)
    assert (found.kind, found.layout) == ("discrete Chameleon", "Hugging Face")
    assert [missing.part for missing in found.missing] == ["diffusion head", "pixel decoder"]
    assert found.missing[0].next == f"orthus convert {chameleon_folder} -o DIR"
    assert found.parameters == sum(weight.numel() for weight in chameleon.state_dict().values())
    assert found.bytes == 4 * found.parameters
    assert found.facts["image_tokens"] == found.facts["codes"] == 32


def test_an_orthus_is_described_with_its_settings_and_its_origin(chameleon_folder, converted):
    made = converted(chameleon_folder, "embedding.temperature=0.5")
    found = describe(made.folder)
    assert found.kind == "Orthus" and found.parts == made.parts
    assert [missing.part for missing in found.missing] == ["pixel decoder"]
    assert found.facts["temperature"] == 0.5 and found.facts["patches"] == 16
    assert found.facts["origin"]["made_from"] == "chameleon"
    assert found.facts["schedule"].startswith("scaled_linear 0.00085 to 0.012, 1000 steps")


def test_a_released_orthus_is_described_with_the_size_of_its_head(golden_folder: Path):
    found = describe(golden_folder)
    assert found.kind == "Orthus, as released"
    assert (found.facts["head_width"], found.facts["head_depth"]) == (64, 3)
    assert [missing.part for missing in found.missing] == ["tokenizer"]
    assert all(part.dtypes == ("bf16",) for part in found.parts)


@pytest.mark.parametrize("files", [1, 2])
def test_metas_layout_has_the_same_parts(chameleon_folder, make_chameleon, meta_folder, files):
    folder = meta_folder(make_chameleon(norms=files), files=files)
    found = describe(folder)
    assert found.kind == "discrete Chameleon with a pixel decoder"
    assert found.layout == "Meta's own"
    decoder = parts(folder).pop("pixel decoder")
    assert parts(folder) == parts(chameleon_folder) | {"pixel decoder": decoder}


def test_pickled_weights_are_described_too(chameleon, chameleon_folder: Path):
    import torch

    expected = parts(chameleon_folder)
    torch.save(chameleon.state_dict(), chameleon_folder / "pytorch_model.bin")
    (chameleon_folder / "model.safetensors").unlink()
    assert parts(chameleon_folder) == expected


def test_a_vqgan_checkpoint_is_an_autoencoder(vqgan_file: Path):
    found = describe(vqgan_file)
    assert found.kind == "vision autoencoder"
    assert [part.name for part in found.parts] == [
        "vision encoder",
        "vision codebook",
        "pixel decoder",
    ]


def test_a_folder_that_is_nothing_is_said_to_be_nothing(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        describe(tmp_path)
