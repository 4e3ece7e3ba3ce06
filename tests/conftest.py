"""What tests share: the released implementation's tensors, and a small random model to reason
about.

`golden`, `golden_exact`, `preproc` are dictionaries of tensors, `golden_model` the model that made
them, `golden_folder` the same as a released-style folder. `tiny_model` is random, calm and quick,
for everything that needs no golden.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# On some processors a matrix product rounds by the number of threads and of rows, so whether images
# drawn alone and in a batch are equal to the bit is tested on one thread, here and in subprocesses.
os.environ["OMP_NUM_THREADS"] = "1"
# Trainings that are to be equal up to rounding are compared in fp32, whatever processor this is.
os.environ["ORTHUS_CPU_BF16"] = "0"

import torch  # noqa: E402
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    PreTrainedTokenizerFast,
)

from orthus_core.checkpoint.model_folder import save_model
from orthus_core.data.known_words import VOCABULARY, WORDS, vocabulary_of
from orthus_core.data.tokenizer import train_tokenizer
from orthus_core.model.config import OrthusConfig, OrthusVQConfig, token_name_of_code
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe.training import AutoencoderRecipe, OptimRecipe
from orthus_core.world.listed_words import word_list
from orthus_core.world.world import World

GOLDEN = Path(__file__).parent / "golden"
WORKERS = 2

TINY_AUTOENCODER = AutoencoderRecipe(
    resolution=16,
    base_channels=32,
    channel_multiplier=(1, 1, 1),
    embed_dim=8,
    latent_channels=8,
    num_embeddings=16,
    optim=OptimRecipe(lr=1e-3, steps=4, batch_size=4),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs on two processes, file by file: each of them on one thread (above), it
    would leave the second of two processors idle. Single files, `-n` and `--pdb` are as always.
    """
    option = config.option
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    is_worker = hasattr(config, "workerinput")  # workers ask this hook too
    if not is_whole or is_worker or not config.pluginmanager.hasplugin("xdist"):
        return
    if option.numprocesses is None and not (option.usepdb or option.collectonly):
        option.numprocesses, option.dist = min(WORKERS, os.cpu_count() or 1), "loadfile"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run with --slow"))
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs an accelerator"))


@pytest.fixture(scope="session", autouse=True)
def cache_of_this_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The cache folder of this run and of the commands that it starts: they fit the judge once, and
    read nothing that an earlier run has left.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # this folder is the worker's, in that of the run
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORTHUS_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """Tensors of the release; logits hold the 640 text tokens only (see `text_columns`)."""
    return load_file(GOLDEN / "golden.safetensors")


@pytest.fixture(scope="session")
def golden_exact() -> dict[str, Tensor]:
    """The release without the rounding of its code distances: match these tightly."""
    return load_file(GOLDEN / "golden_exact.safetensors")


@pytest.fixture(scope="session")
def preproc() -> dict[str, Tensor]:
    """Pictures before and after the release's image processor."""
    return load_file(GOLDEN / "preproc.safetensors")


@pytest.fixture(scope="session")
def text_columns() -> Tensor:
    """Token ids of the golden logits' columns: the vocabulary without its image codes."""
    return torch.cat([torch.arange(0, 4), torch.arange(4 + 8192, 8832)])


@pytest.fixture(scope="session")
def golden_weights() -> dict[str, Tensor]:
    """The golden model's bf16 weights under the released names."""
    return _read_golden_weights()


@pytest.fixture(scope="session")
def golden_config() -> dict:
    """The released-style config.json of the golden model: no head width or depth in it."""
    return json.loads((GOLDEN / "config.json").read_text())


@pytest.fixture(scope="session")
def golden_model(
    golden_config: dict, golden_weights: dict[str, Tensor]
) -> OrthusForConditionalGeneration:
    """The model that made the goldens, in fp32, with exact distances. Do not change it in place."""
    return _golden_model(golden_config, golden_weights, "exact")


@pytest.fixture(scope="session")
def golden_model_release(
    golden_config: dict, golden_weights: dict[str, Tensor]
) -> OrthusForConditionalGeneration:
    """The same with the release's rounding of distances."""
    return _golden_model(golden_config, golden_weights, "release")


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory: pytest.TempPathFactory, golden_weights) -> Path:
    """A released-style folder: model_type "chameleon", no head sizes, no tokenizer."""
    folder = tmp_path_factory.mktemp("released") / "orthus-golden"
    folder.mkdir()
    save_file(golden_weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_bytes((GOLDEN / "config.json").read_bytes())
    return folder


@pytest.fixture(scope="session")
def world() -> World:
    """The small world that trainings see. Do not change it in place."""
    return World.open()


@pytest.fixture(scope="session")
def word_files(world: World) -> dict[str, str]:
    """The files in which a model of the small world lists its words, by name."""
    listed = word_list(world)
    return {WORDS: listed.text(), VOCABULARY: vocabulary_of(listed.phrases)}


@pytest.fixture(scope="session")
def testing_world() -> World:
    """The small world of what is held out from trainings. Do not change it in place."""
    return World.open(testing=True)


@pytest.fixture
def tiny_config() -> OrthusConfig:
    """A configuration of its own for each test: 4 patches an image, 32 codes, context 96."""
    return make_tiny_config()


@pytest.fixture(scope="session")
def tiny_model() -> OrthusForConditionalGeneration:
    """A random Orthus with a calm head. Do not change it in place."""
    return make_tiny_model()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Orthus as a whole folder with a tokenizer, to run commands on. Leave it as it is."""
    tokenizer = train_tokenizer(["a snowman", "a red fox", "what is this?"] * 3, 300, num_codes=32)
    vocabulary = tokenizer.get_vocab()
    sampling = {"steps": 4, "guidance": 2.0}
    model = make_tiny_model(
        vocab_size=len(vocabulary),
        vocabulary_map=vocabulary,
        max_position_embeddings=256,
        sampling=sampling,
    )
    size = {"height": 16, "width": 16}
    pictures = ChameleonImageProcessorPil(size={"shortest_edge": 16}, crop_size=size)
    processor = ChameleonProcessor(pictures, tokenizer, image_seq_length=4)
    return save_model(model, processor, tmp_path_factory.mktemp("models") / "tiny")


def lines_of_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl, without the figures of speed, which differ from run to run."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if not name.startswith("speed/")}
        for line in lines
    ]


def make_tiny_config(**changes) -> OrthusConfig:
    codes, first_code = 32, 4
    words = first_code + codes
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocabulary |= {token_name_of_code(code): first_code + code for code in range(codes)}
    special = ["<eoss>", "<racm3:break>", "<reserved08706>", "<image>"]
    vocabulary |= {name: words + index for index, name in enumerate(special)}
    vocabulary |= {f"w{index}": words + len(special) + index for index in range(56)}
    fields = {
        "vocab_size": len(vocabulary),
        "vocabulary_map": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 96,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "head_width": 24,
        "head_depth": 2,
        "vq_config": OrthusVQConfig(
            embed_dim=8,
            latent_channels=8,
            num_embeddings=codes,
            resolution=16,
            base_channels=32,
            channel_multiplier=[1, 1, 1, 1],
            num_res_blocks=1,
            attn_resolutions=[],
            attn_type="vanilla",
        ),
    }
    return OrthusConfig(**(fields | changes))


def make_tiny_model(seed: int = 0, **changes) -> OrthusForConditionalGeneration:
    """A random model in which 1e-7 of noise stays small over the patches of an image.

    Fresh AdaLN layers are zero and would predict nothing, so they are drawn too; `cond_embed` is
    scaled down, because a random head that hangs on its condition amplifies rounding from patch to
    patch.
    """
    random = torch.Generator().manual_seed(seed)
    model = OrthusForConditionalGeneration(make_tiny_config(**changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "norm" not in name:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5, generator=random)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.02, generator=random)
        if model.config.denoises:
            model.diffusion_head.cond_embed.weight.mul_(0.1)
    return model


def _golden_model(
    fields: dict, weights: dict[str, Tensor], distance: str
) -> OrthusForConditionalGeneration:
    fields = {name: value for name, value in fields.items() if name != "model_type"}
    config = OrthusConfig(**fields, head_width=64, head_depth=3, embedding_distance=distance)
    config.dtype = torch.float32
    model = OrthusForConditionalGeneration(config).float().eval()
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model


def _read_golden_weights() -> dict[str, Tensor]:
    spec = importlib.util.spec_from_file_location("shrink", GOLDEN / "shrink.py")
    assert spec and spec.loader
    shrink = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(shrink)
    return shrink.read_weights(GOLDEN / "model.npz")


def config_of(tokenizer: PreTrainedTokenizerFast, codes: int) -> OrthusConfig:
    """A configuration whose token ids are those of a tokenizer that was trained here."""
    return OrthusConfig(
        vocabulary_map=tokenizer.get_vocab(),
        vq_config={"num_embeddings": codes},
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
