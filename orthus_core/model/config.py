"""The configuration of a model: validated when it is made, and saved as config.json.

`InterleavedConfig` adds to Chameleon's configuration what every model needs that writes text and
draws images: the tokens around an image, its grid, and the model's own sampling defaults.
`DiscreteConfig` adds nothing more. `OrthusConfig` adds the soft embedding, the diffusion head and
the noise schedule. Released folders lack most of these fields; the defaults here are the released
values (2412.00127).
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import ChameleonConfig, ChameleonVQVAEConfig
from transformers.configuration_utils import PreTrainedConfig

from orthus_core.errors import CheckpointError
from orthus_core.recipe.drawing import UNCONDITIONAL_PROMPT, SamplingDefaults

if TYPE_CHECKING:
    from orthus_core.model.schedule import Schedule

# Chameleon's own names for the tokens around a picture (its text tokenizer's vocabulary).
BOI_TOKEN = "<racm3:break>"
EOI_TOKEN = "<eoss>"
SEP_TOKEN = "<reserved08706>"
IMAGE_TOKEN = "<image>"

# The target of a position where nothing is to be predicted; torch's cross-entropy skips it.
IGNORE = -100

PACKED_ATTENTION = "orthus_packed"
"""The attention of a model that trains, by transformers' name of it: `sdpa`, and by document where
rows are packed. A model is opened with `sdpa`; the losses set this (see `packed_attention.py`).
"""

# The sampling values of the released scripts (DDIM in 100 steps, guidance 5, unscaled noise), which
# a converted model begins with.
RELEASED_SAMPLING: dict[str, Any] = asdict(SamplingDefaults())

# The sampling values of Meta's own Chameleon (facebookresearch/chameleon, `Options.Image`). A code
# is chosen in one step; the scale of the noise on its logits is the temperature.
CHAMELEON_SAMPLING: dict[str, Any] = {
    "steps": 1,
    "guidance": 3.0,
    "image_guidance": 1.2,
    "noise_scale": 0.7,
    "code_top_k": 0,
    "code_top_p": 0.9,
    "unconditional_prompt": UNCONDITIONAL_PROMPT,
}


def code_of_token_name(name: str) -> int | None:
    """The code j that a vocabulary name stands for, or None: `IMGIMGBACZ` is code 102.

    Chameleon writes the decimal digits of j as the letters A-J between `IMGIMG` and `Z`.
    """
    if not (name.startswith("IMGIMG") and name.endswith("Z")):
        return None
    letters = name[len("IMGIMG") : -1]
    if not letters or any(letter not in "ABCDEFGHIJ" for letter in letters):
        return None
    return int("".join(str(ord(letter) - ord("A")) for letter in letters))


def token_name_of_code(code: int) -> str:
    """Chameleon's vocabulary name of code j: `token_name_of_code(102) == "IMGIMGBACZ"`."""
    return "IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z"


@strict
class OrthusVQConfig(ChameleonVQVAEConfig):
    """Configuration of Chameleon's vision autoencoder.

    Attributes:
        has_decoder: Whether the model has a pixel decoder; False for models converted from a
            source without one (facebook/chameleon-7b).
        norm_num_groups: Groups of every group normalisation. Chameleon has 32; a small model with
            32 channels at full resolution needs fewer, because groups of one channel erase colour.
    """

    model_type = "orthus_vqgan"
    has_decoder: bool = True
    norm_num_groups: int = 32

    @property
    def downsampling(self) -> int:
        """Pixels along one side of a patch: 16 for the released models."""
        return 2 ** (len(self.channel_multiplier) - 1)


@strict
class InterleavedConfig(ChameleonConfig):
    """Configuration of every model that writes text and draws images.

    Attributes:
        kind_sampling: Sampling defaults of this kind of model.
        boi_token_id, eoi_token_id, sep_token_id: Ids of [BOI], [EOI] and SEP, which ends a prompt;
            by default the ids that the vocabulary gives them.
        sampling: The model's own sampling defaults; `kind_sampling` fills in missing keys.
        origin: Description of the model's source, for `orthus info`.
    """

    if TYPE_CHECKING:  # what these are once the parents' wider declarations have been settled
        vq_config: Any = None
        eos_token_id: Any = 2
        image_token_id: int | None = None

    kind_sampling: ClassVar[dict[str, Any]]
    sub_configs_defaults = {"vq_config": OrthusVQConfig}

    boi_token_id: int | None = None
    eoi_token_id: int | None = None
    sep_token_id: int | None = None
    sampling: dict | None = None
    origin: dict | None = None

    def __post_init__(self, **kwargs):
        if isinstance(self.vq_config, PreTrainedConfig) and not isinstance(
            self.vq_config, OrthusVQConfig
        ):
            self.vq_config = self.vq_config.to_dict()
        if self.vq_config is None or isinstance(self.vq_config, dict):
            # A Chameleon folder names its own class here; ours reads the same fields.
            fields = {k: v for k, v in (self.vq_config or {}).items() if k != "model_type"}
            self.vq_config = OrthusVQConfig(**fields)
        super().__post_init__(**kwargs)
        names = self.vocabulary_map or {}
        if self.boi_token_id is None:
            self.boi_token_id = names.get(BOI_TOKEN)
        if self.eoi_token_id is None:
            self.eoi_token_id = names.get(EOI_TOKEN)
        if self.sep_token_id is None:
            self.sep_token_id = names.get(SEP_TOKEN)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in one picture."""
        side = self.vq_config.resolution // self.vq_config.downsampling
        return side, side

    @property
    def patches(self) -> int:
        """P, the patches of one picture."""
        rows, columns = self.grid
        return rows * columns

    @property
    def feature_channels(self) -> int:
        """C, the channels of one patch feature."""
        return self.vq_config.embed_dim

    @property
    def num_codes(self) -> int:
        """K, the codes of the autoencoder's codebook."""
        return self.vq_config.num_embeddings

    @property
    def code_token_ids(self) -> list[int]:
        """Token id of each code j = 0..K-1, as the vocabulary's IMGIMG names give it.

        Raises: CheckpointError when the vocabulary is missing or lacks a code.
        """
        if not self.vocabulary_map:
            raise CheckpointError(
                "the configuration has no vocabulary_map, so image codes have no token ids",
                where="config.json",
                hint="open a folder made by `orthus convert`, or set it to tokenizer.get_vocab()",
            )
        id_of_code: dict[int, int] = {}
        for name, token_id in self.vocabulary_map.items():
            code = code_of_token_name(name)
            if code is not None:
                id_of_code[code] = token_id
        missing = [code for code in range(self.num_codes) if code not in id_of_code]
        if missing:
            raise CheckpointError(
                f"the vocabulary names no token for {len(missing)} of {self.num_codes} codes, "
                f"the first is {token_name_of_code(missing[0])}",
                where="config.json: vocabulary_map",
                hint="the tokenizer must be the checkpoint's own, with Chameleon's IMGIMG tokens",
            )
        return [id_of_code[code] for code in range(self.num_codes)]

    @property
    def end_token_ids(self) -> tuple[int | None, ...]:
        """Tokens that end a sequence: [EOS], of which there may be several, and SEP."""
        eos = self.eos_token_id
        return (*eos, self.sep_token_id) if isinstance(eos, list) else (eos, self.sep_token_id)

    @property
    def denoises(self) -> bool:
        """Whether a patch is drawn from noise in steps, and not at once."""
        return False

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        """This model's sampling values; those of its kind fill in missing keys."""
        return self.kind_sampling | (self.sampling or {})


@strict
class DiscreteConfig(InterleavedConfig):
    """Configuration of a discrete Chameleon, as in its Hugging Face folders (2405.09818)."""

    model_type = "chameleon"
    kind_sampling = CHAMELEON_SAMPLING


@strict
class OrthusConfig(InterleavedConfig):
    """Configuration of an Orthus; the defaults of its own fields are the released 7B's values.

    Attributes:
        embedding: How a feature is embedded: "softmax" over code distances, or the paper's
            ablations "argmin" and "linear".
        embedding_temperature: tau of that softmax, in squared feature units.
        embedding_distance: "exact" (fp32, without the |z|^2 that cancels) or "release" (rounded as
            in the released code).
        image_head: What predicts the next feature: "diffusion", or "mse", which regresses it (see
            `RegressionHead`). The released layout has no such field, so only "mse" is written.
        flow_map_head: Whether the diffusion head knows where a step ends (see `FlowMapHead`), as
            `orthus distill head` makes it. Other heads have no such field.
        head_width, head_depth: Width of the head, and number of its blocks.
        latent_scale: Factor on features before diffusion; they are divided by it afterwards.
        prediction: What the head predicts: "v" (released) or "epsilon" (paper, eq. 3).
        num_train_timesteps, beta_start, beta_end, beta_schedule, zero_terminal_snr: The noise
            schedule (see `make_schedule`).
        distilled_guidance: Guidance that the model draws with by itself, in one stream (`orthus
            distill guidance`); None for a model that is guided from outside. Only a number is
            written.
    """

    model_type = "orthus"
    kind_sampling = RELEASED_SAMPLING

    embedding: str = "softmax"
    embedding_temperature: float | int = 1.0
    embedding_distance: str = "exact"
    image_head: str = "diffusion"
    flow_map_head: bool = False
    head_width: int = 1536
    head_depth: int = 3
    latent_scale: float | int = 0.1
    prediction: str = "v"
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    zero_terminal_snr: bool = True
    distilled_guidance: float | int | None = None

    @property
    def denoises(self) -> bool:
        return self.image_head == "diffusion"

    @property
    def sampling_defaults(self) -> dict[str, Any]:
        values = super().sampling_defaults
        return values if self.denoises else values | {"steps": 1}

    def to_dict(self) -> dict[str, Any]:
        fields = super().to_dict()
        if fields.get("image_head") == "diffusion":
            del fields["image_head"]
        if not fields.get("flow_map_head"):
            fields.pop("flow_map_head", None)
        if fields.get("distilled_guidance") is None:
            fields.pop("distilled_guidance", None)
        return fields

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Nothing: transformers, where code is trusted, would copy this file into saved folders."""

    def validate_choices(self) -> None:
        """Checks the fields that hold a choice.

        Raises: CheckpointError when a field holds a value that does not exist.
        """
        choices = {
            "embedding": ("softmax", "argmin", "linear"),
            "embedding_distance": ("exact", "release"),
            "image_head": ("diffusion", "mse"),
            "prediction": ("v", "epsilon"),
            "beta_schedule": ("scaled_linear", "linear"),
        }
        for field, allowed in choices.items():
            value = getattr(self, field)
            if value not in allowed:
                raise CheckpointError(
                    f"{field} is {value!r}",
                    where="config.json",
                    hint=f"use one of {', '.join(allowed)}",
                )
        if self.flow_map_head and (self.image_head, self.prediction) != ("diffusion", "v"):
            raise CheckpointError(
                f"flow_map_head is true, image_head is {self.image_head!r} and prediction is "
                f"{self.prediction!r}",
                where="config.json",
                hint='a flow map head is a diffusion head that predicts "v"',
            )
        if not self.embedding_temperature > 0:
            raise CheckpointError(
                f"embedding_temperature is {self.embedding_temperature}, it must be above 0",
                where="config.json",
                hint='for a hard lookup set embedding = "argmin"',
            )
        learnt = self.distilled_guidance
        if learnt is not None and not 0 <= learnt < math.inf:
            raise CheckpointError(
                f"distilled_guidance is {learnt}, and guidance is a number from 0",
                where="config.json",
                hint="set it to the guidance that was distilled, or take it out if none was",
            )
        if not (0 <= self.beta_start <= self.beta_end < 1 and 0 < self.num_train_timesteps <= 1e6):
            raise CheckpointError(
                f"the noise schedule goes from beta_start = {self.beta_start} to beta_end = "
                f"{self.beta_end} in num_train_timesteps = {self.num_train_timesteps}",
                where="config.json",
                hint="betas are between 0 and 1 and do not fall; the released models have 0.00085, "
                "0.012 and 1000",
            )


def check_drawable(schedule: Schedule) -> None:
    """Check that drawing can begin from noise alone on this schedule.

    Raises:
        CheckpointError: For epsilon without signal at the last step: there x_0 does not follow from
            the noise, as x_0 = (x_t - sqrt(1 - a_t) eps) / sqrt(a_t) divides by 0.
    """
    if schedule.prediction == "epsilon" and schedule.alphas_cumprod_T[-1] == 0:
        raise CheckpointError(
            "a head that predicts noise cannot start from a step without any signal",
            where='config.json: prediction = "epsilon" with zero_terminal_snr = true',
            hint="convert its Chameleon again with --set diffusion.zero_terminal_snr=false (or "
            "diffusion.prediction=v), and train that",
        )
