"""`orthus distill guidance`: what is learnt is what drawing mixes, one stream then draws it, and
nothing can be guided twice.
"""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orthus_core import Orthus, OrthusPipeline
from orthus_core.api.loaded import load_model
from orthus_core.checkpoint.adapters import GUIDANCE
from orthus_core.checkpoint.describe import describe
from orthus_core.checkpoint.headers import ADAPTER_WEIGHTS
from orthus_core.checkpoint.merge import merge
from orthus_core.checkpoint.model_folder import open_model, open_orthus, save_model
from orthus_core.data.collate import collate, with_features
from orthus_core.data.document import Document, turn
from orthus_core.data.encode import TokenIds, encode
from orthus_core.data.pictures import FilePicture
from orthus_core.distill.guidance import distill_guidance, taught_guidance
from orthus_core.distill.guidance_loss import GuidanceLoss, Teacher
from orthus_core.distill.guidance_streams import TaughtGuidance, guidance_streams
from orthus_core.errors import ArgumentError, CheckpointError, OrthusError, PromptError
from orthus_core.events import PatchDone, StepDone
from orthus_core.model.diffusion_head import DiffusionHead
from orthus_core.model.orthus import OrthusForConditionalGeneration
from orthus_core.recipe import BuildBaseRecipe, DistillGuidanceRecipe, PosttrainRecipe, load
from orthus_core.recipe.training import LoraRecipe
from orthus_core.samplers.generate import generate
from orthus_core.samplers.params import SamplingParams
from orthus_core.samplers.prompt import Guidance, Prompt
from orthus_core.samplers.prompt_builder import PromptBuilder
from orthus_core.train.freeze import all_but_autoencoder
from orthus_core.train.lora import add_lora
from orthus_core.train.trainings import build_base, posttrain
from tests.conftest import make_tiny_model
from tests.core.server_under_test import asked
from tests.core.toy_data import interleaved, picture

SETS = (
    "optim.batch_size=6",
    "optim.warmup_steps=0",
    "optim.schedule=constant",
    "optim.ema_decay=0",
    "optim.lr=0.001",
    "prefix_noise=0",
    "repeats=4",
    "log.every=1",
    "log.sample_every=0",
    "log.save_every=0",
    "log.validate_every=0",
    "data.held_out=0",
)
SCALES = {"edit_guidance": 3.0, "image_guidance": 1.5, "story_guidance": 2.5}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return interleaved(tmp_path_factory.mktemp("data") / "rows", count=6)


def train(base: Path, source: Path, output: Path, *sets: str, stop_at: int = 0, **options):
    """The figures of each step of a distillation; `stop_at` stops it after that step, 0 never."""
    found: list[dict[str, float]] = []
    sets = (*SETS, f"data.source={json.dumps(str(source))}", *sets)
    options["should_stop"] = lambda: len(found) == stop_at > 0
    recipe = load(DistillGuidanceRecipe, None, sets)
    for event in distill_guidance(recipe, base, output, **options):
        if isinstance(event, StepDone):
            found.append(dict(event.metrics))
    return found


@pytest.fixture(scope="module")
def guided(tiny_folder, source, tmp_path_factory) -> Path:
    """The tiny model, which draws guidance 2 by itself as well as 40 steps teach it."""
    place = tmp_path_factory.mktemp("guided") / "guided"
    figures = train(tiny_folder, source, place, "optim.steps=40")
    assert figures[0]["image"] == pytest.approx(figures[0]["unguided"], rel=1e-3)
    assert figures[0]["text"] == pytest.approx(0, abs=1e-5) and figures[0]["unguided"] > 0
    assert left(figures) < 0.4
    return place


def left(figures: list[dict[str, float]]) -> float:
    """The share of the guidance that is missing in the last steps."""
    image, unguided = (sum(each[n] for each in figures[-5:]) for n in ("image", "unguided"))
    return image / unguided


# What is learnt


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"guidance_interval": [200, 800]}, True),
        ({"guidance_schedule": "linear"}, True),
        ({"guidance_schedule": "constant"}, False),
        ({}, False),
    ],
)
def test_guidance_that_is_not_learnt_is_said(tiny_folder, source, tmp_path, sampling, said):
    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    config = json.loads((base / "config.json").read_text())
    config["sampling"] = {**(config.get("sampling") or {}), **sampling}
    (base / "config.json").write_text(json.dumps(config))
    recipe = load(DistillGuidanceRecipe, None, (*SETS, f"data.source={json.dumps(str(source))}"))
    events = distill_guidance(recipe, base, tmp_path / "out")
    first = [str(event) for event in islice(events, 2)]
    events.close()
    assert "guidance to learn: " in first[0]
    assert ("interval or schedule of guidance is not learnt" in first[1]) is said


class LinearHead(DiffusionHead):
    """A head that is linear in the condition, as no real one is."""

    def forward(self, x_NC, t_N, cond_ND):
        return self.input_proj(x_NC).mean(-1, keepdim=True) + self.cond_embed(cond_ND)[..., :64]


def shown(tmp_path: Path) -> list[FilePicture]:
    places = [tmp_path / f"{number}.png" for number in range(4)]
    for number, place in enumerate(places):
        picture(number).save(place)
    return [FilePicture(place) for place in places]


@pytest.mark.parametrize("packing", [False, True])
def test_one_stream_of_a_linear_head_is_guided_as_the_streams_of_drawing_are(
    tiny_folder, tmp_path, packing
):
    """Where the head is linear, guidance of the hidden states is guidance of its predictions: the
    loss is 0 exactly where the one stream has the mix of those that drawing reads.
    """
    opened = open_orthus(tiny_folder, device="cpu", dtype="fp32")
    model, tokenizer = opened.model, opened.processor.tokenizer
    config, patches = model.config, model.config.patches
    torch.manual_seed(0)
    head = LinearHead(config.feature_channels, config.hidden_size, 64, 1)
    head.final_layer = torch.nn.Identity()
    model.mlp_head = head
    builder = PromptBuilder(model, tokenizer)
    recipe = load(DistillGuidanceRecipe, flags={"guidance": 4.0, **SCALES})
    taught = taught_guidance(recipe, config, builder)
    assert taught[:4] == (4.0, 3.0, 1.5, 2.5)

    # 1. A picture, a question, a story and an edit, as rows, and as the prompts that draw them.
    fox, dog, cat, owl = shown(tmp_path)
    documents = [
        Document(turn("user", "a red fox") + turn("model", fox)),
        Document(turn("user", owl, "what is this?") + turn("model", "a fox")),
        Document(
            turn("user", "a snowman") + turn("model", "is this a red fox? " * 2, dog, "a", owl)
        ),
        Document(turn("user", cat, "a red fox") + turn("model", "what", fox)),
    ]
    params = SamplingParams.resolve(config, guidance=4.0)
    edits = SamplingParams.resolve(config, "edit", guidance=3.0, image_guidance=1.5)
    stories = SamplingParams.resolve(config, "story", guidance=2.5)
    prompts = [
        builder.picture("a red fox", params),
        builder.story(["a snowman"], stories),
        builder.story(["a snowman"], stories),
        builder.edit([cat], "a red fox", edits),
    ]
    drawn = [fox, dog, owl, fox]
    ids = TokenIds.of(config)
    rows = [encode(each, tokenizer, ids, patches) for each in documents]
    batch = collate(rows, ids, packing=packing, own_pictures=True)
    batch = with_features(batch, builder.features(batch.pictures))
    if packing:
        assert len(batch.ids_BS) < len(rows)

    # 2. The loss of the student that has the mixed hidden states, and of the one that has its own.
    teacher = Teacher(model)
    loss = GuidanceLoss(model, teacher, taught, ids, repeats=3).eval()
    seeds_M = torch.arange(len(batch.pictures))
    streams = guidance_streams(batch, patches, ids, taught)
    caught = {}

    def catch(hidden, *more):
        caught["hidden"], caught["more"] = hidden, more
        return GuidanceLoss.guided(loss, hidden, *more)

    loss.guided = catch
    with torch.no_grad():
        loss(batch)
        hidden_XD, *others = caught["hidden"]
        wanted_XD = hidden_XD.clone()
        assert streams is not None and len(streams.pictures_M) == 4
        order = sorted(
            range(4), key=lambda n: [p.path for p in batch.pictures].index(drawn[n].path)
        )
        for place in streams.pictures_M.tolist():
            path = batch.pictures[place].path
            seen = [n for n in order if drawn[n].path == path]
            number = seen[0]
            if path == fox.path:  # the edit's, if a picture is shown before it in its row
                is_edit = place > 0 and batch.pictures[place - 1].path == cat.path
                number = 3 if is_edit else 0
            features_PC = builder.features([drawn[number]])[0]
            index_P = batch.image_index_N[place * patches : (place + 1) * patches]
            mixed = prompts[number].guidance.weights[0] * hidden_XD[index_P]
            for weight, context in zip(
                prompts[number].guidance.weights[1:], prompts[number].negatives, strict=True
            ):
                slots = (config.boi_token_id, *[config.image_token_id] * patches)
                whole = torch.tensor([[*context.ids, *slots]])
                own = [] if context.features_MPC is None else [context.features_MPC[0]]
                read = torch.stack([*own, features_PC])
                there_SD = model.run_backbone(whole, read).hidden_BSD[0]
                mixed = mixed + weight * there_SD[len(context.ids) :][:patches]
            wanted_XD[index_P] = mixed
        image, unguided = GuidanceLoss.guided(loss, (wanted_XD, *others), *caught["more"])
        assert float(image) < 1e-8 * float(unguided)
    assert len(seeds_M) == 6

    # 3. The sum that is minimised, when the student's words have moved too.
    weights = {"lambda_image": 3.0, "text_weight": 5.0}
    with torch.no_grad():
        model.lm_head.weight *= 1.5
        losses = GuidanceLoss(model, teacher, taught, ids, **weights).eval()(batch)
    assert losses.text > 0 and losses.image > 0
    assert losses.total.item() == pytest.approx(float(3 * losses.image + 5 * losses.text))


def test_a_scale_of_1_needs_no_other_stream(tiny_folder, tmp_path):
    ids = TokenIds(0, 2, 1, 5, 6, 7, 8)
    fox, *_ = shown(tmp_path)
    rows = with_features_of(fox, ids)
    none = TaughtGuidance(1.0, 1.0, 1.0, 1.0, (0, 9, 5), (0, 9, 5))
    streams = guidance_streams(rows, 4, ids, none)
    assert streams is not None and not len(streams.ids_BS)
    assert streams.weights_M3.tolist() == [[1.0, 0.0, 0.0]]
    assert guidance_streams(rows.__class__(**vars(rows) | NOTHING_DRAWN), 4, ids, none) is None


def test_all_streams_read_pictures_with_the_same_noise(tiny_folder, tmp_path):
    """So a stream with the row's own words predicts the same as the row."""
    model = open_orthus(tiny_folder, device="cpu", dtype="fp32").model
    ids = TokenIds.of(model.config)
    fox, *_ = shown(tmp_path)
    rows, unguided = with_features_of(fox, ids), []
    for word in (9, 10):
        away = (ids.bos, word, ids.sep)
        taught = TaughtGuidance(3.0, 1.0, 1.0, 1.0, away, away)
        loss = GuidanceLoss(model, Teacher(model), taught, ids, prefix_noise=3.0).train()
        unguided.append(loss(rows).unguided.item())
    assert unguided[0] < 1e-6 * unguided[1]


NOTHING_DRAWN = {"image_targets_N": torch.zeros(4, dtype=torch.bool)}


def with_features_of(fox: FilePicture, ids: TokenIds):
    from orthus_core.data.encode import EncodedRow

    slots = [ids.boi, *[ids.image] * 4, ids.eoi]
    row = EncodedRow([ids.bos, 9, ids.sep, *slots, ids.eos], [-100] * 10, (fox,), (True,))
    return with_features(collate([row], ids, own_pictures=True), torch.zeros(1, 4, 8))


# What is trained


@pytest.mark.parametrize("rank", [0, 2])
def test_the_teacher_stays_what_it_was_while_the_student_moves(rank, tiny_folder):
    model = open_orthus(tiny_folder, device="cpu", dtype="fp32").model
    ids = torch.arange(9)[None]
    patch_C = torch.ones(1, model.config.feature_channels)

    def predicted(by: OrthusForConditionalGeneration, head: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            hidden_XD = by.run_backbone(ids, None).hidden_BSD[0]
            return head(patch_C.repeat(9, 1), torch.full((9,), 500), hidden_XD)

    before = predicted(model, model.diffusion_head)
    teacher = Teacher(model, shares_backbone=bool(rank))
    moved = add_lora(model, LoraRecipe(rank=rank)) if rank else all_but_autoencoder(model)
    for parameter in moved:
        parameter.data += 0.1
    with teacher.at_work() as by:
        assert predicted(by, teacher.head).equal(before)
    after = predicted(model, model.diffusion_head)
    assert not after.isclose(before, atol=1e-3).all()
    assert all(parameter.requires_grad for parameter in moved)
    if rank:  # of the backbone's adapters too, which have been off
        assert not predicted(model, teacher.head).isclose(before, atol=1e-3).all()


def features(folder: Path, *, guidance: float | None = None, lora: tuple = ()) -> torch.Tensor:
    """Features of three patches-by-patch drawings: [N, P, C]."""
    orthus = Orthus.open(folder, device="cpu", lora=lora)
    params = SamplingParams.resolve(orthus.model.config, guidance=guidance)
    prompts = [
        orthus.builder.picture(f"a {name} square, number {n}", params)._replace(seed=n)
        for n, name in enumerate(("red", "green", "blue"))
    ]
    streams = {len(prompt.contexts) for prompt in prompts}
    assert streams == {1 if params.guidance == 1 else 2}
    found = [[torch.zeros(0)] * 4 for _ in prompts]
    for event in generate(orthus.model, prompts, params):
        if isinstance(event, PatchDone):
            found[event.row][event.done - 1] = event.feature_C
    return torch.stack([torch.stack(each) for each in found])


@pytest.mark.gradients
def test_the_student_draws_in_one_stream_what_the_teacher_draws_in_two(tiny_folder, guided):
    wanted, without, own = (
        features(tiny_folder),
        features(tiny_folder, guidance=1),
        features(guided),
    )
    assert (own - wanted).norm() < 0.75 * (without - wanted).norm()
    config = json.loads((guided / "config.json").read_text())
    assert config["distilled_guidance"] == 2.0
    assert config["sampling"] == {"steps": 4, "guidance": 1.0, "image_guidance": 1.0}
    assert "distilled_guidance" not in json.loads((tiny_folder / "config.json").read_text())
    facts = describe(guided).facts
    assert facts["guided_inside"] == "2, in one stream"
    assert facts["origin"]["distilled_guidance"].startswith("2 for pictures, 2 and 1.5 for edits")
    assert "| distilled guidance | 2 for pictures" in (guided / "README.md").read_text()
    assert "guided_inside" not in describe(tiny_folder).facts


@pytest.mark.gradients
def test_a_stopped_training_goes_on_to_the_bit(tiny_folder, source, tmp_path):
    sets = (
        "head=frozen",
        "optim.steps=6",
        "prefix_noise=0.3",
        "patch_share=0.5",
        "optim.ema_decay=0.5",
    )
    whole = train(tiny_folder, source, tmp_path / "whole", *sets)
    assert train(tiny_folder, source, tmp_path / "parts", *sets, stop_at=2) == whole[:2]
    assert train(tiny_folder, source, tmp_path / "parts", *sets, resume=True) == whole[2:]
    one, other = (
        {
            name: t
            for file in (tmp_path / name).glob("*.safetensors")
            for name, t in load_file(file).items()
        }
        for name in ("whole", "parts")
    )
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)
    assert [each["text"] for each in whole[1:]] != [0.0] * 5  # the backbone has moved
    before = load_file(tiny_folder / "model.safetensors")
    heads = [name for name in one if name.startswith("mlp_head.")]
    assert heads and all(one[name].equal(before[name]) for name in heads)


@pytest.mark.gradients
def test_adapters_hold_guidance(tiny_folder, source, tmp_path):
    place = tmp_path / "adapters"
    base = {path: path.read_bytes() for path in tiny_folder.iterdir()}
    sets = ("lora.rank=8", "optim.steps=30")
    figures = train(tiny_folder, source, place, *sets, "guidance=3")
    assert figures[0]["image"] == pytest.approx(figures[0]["unguided"], rel=1e-3)
    assert left(figures) < 0.7
    assert base == {path: path.read_bytes() for path in tiny_folder.iterdir()}
    assert (place / ADAPTER_WEIGHTS).is_file()
    card = (place / "README.md").read_text()
    assert "--lora adapters " in card and ":0.5" not in card, "it names only what is possible"
    loaded = open_model(tiny_folder, device="cpu", lora=[place]).model
    list(merge(tiny_folder, [place], tmp_path / "merged"))
    merged = open_model(tmp_path / "merged", device="cpu").model
    for model in (loaded, merged):
        assert model.config.distilled_guidance == 3.0
        assert SamplingParams.resolve(model.config, "edit").guidance == 1.0
    assert features(tmp_path / "merged").equal(features(tiny_folder, lora=(str(place),)))
    with pytest.raises(CheckpointError, match="hold guidance 3, which is learnt whole"):
        open_model(tiny_folder, device="cpu", lora=[f"{place}:0.5"])
    weights = load_file(place / ADAPTER_WEIGHTS)
    for number in ("nan", "inf", "-1", "much"):
        save_file(weights, place / ADAPTER_WEIGHTS, metadata={GUIDANCE: number})
        with pytest.raises(CheckpointError, match=f"cannot be used: .*{number}"):
            open_model(tiny_folder, device="cpu", lora=[place])


# What is refused


def refusal(run) -> OrthusError:
    with pytest.raises(OrthusError) as caught:
        run()
    return caught.value


def test_a_model_that_is_guided_inside_is_guided_by_nothing_else(guided, start):
    orthus, config = (
        Orthus.open(guided, device="cpu"),
        open_model(guided, device="cpu").model.config,
    )
    resolve = SamplingParams.resolve
    for task in ("picture", "edit", "story"):
        params = resolve(config, task)
        assert params.guidance == params.image_guidance == 1.0
        assert resolve(config, task, guidance=1).guidance == 1
        own = {"negative_prompt": params.negative_prompt}
        assert resolve(config, task, **own) == params
    assert resolve(config, guidance=2.0) == resolve(config)
    for task, asked_for, named in (
        ("picture", {"guidance": 3.0}, "guidance 3.0"),
        ("story", {"guidance": 1.5}, "guidance 1.5"),
        ("edit", {"guidance": 2.0}, "guidance 2.0"),
        ("edit", {"image_guidance": 1.5}, "image guidance 1.5"),
        ("picture", {"guidance_interval": (200, 800)}, "guidance interval (200, 800)"),
        ("picture", {"guidance_schedule": "linear"}, "guidance schedule 'linear'"),
        ("picture", {"negative_prompt": "a dog"}, "negative prompt 'a dog'"),
    ):
        error = refusal(lambda t=task, a=asked_for: resolve(config, t, **a))
        assert isinstance(error, PromptError) and error.where in asked_for
        assert f"{named}, and this model draws guidance 2 by itself" in error.message
        assert "distilled from" in error.hint
    # The classes of Python, diffusers, transformers and the server ask the same.
    drawn = orthus.generate("a fox", steps=1).images[0]
    for run in (
        lambda: orthus.generate("a fox", guidance_scale=3),
        lambda: orthus.edit(start, "a fox", image_guidance=2),
        lambda: orthus.story("a fox", guidance=3),
    ):
        assert "by itself, in one stream" in refusal(run).message
    pipe = OrthusPipeline.from_pretrained(guided)
    pipe.set_progress_bar_config(disable=True)
    for kept in ({}, {"guidance_scale": 2.0}, {"guidance_scale": 1.0}):
        assert len(pipe("a fox", num_inference_steps=1, **kept).images) == 1
    for more in ({"guidance_scale": 5.0}, {"negative_prompt": "blurry"}):
        assert "in one stream" in refusal(lambda m=more: pipe("a fox", **m)).message
    ids = orthus.builder.tokenizer("a fox", return_tensors="pt").input_ids
    error = refusal(
        lambda: orthus.model.generate(ids, generation_mode="image", negative_prompt_ids=[0, 5])
    )
    assert isinstance(error, ArgumentError) and "negative_prompt_ids" in error.where
    with asked(load_model(guided, device="cpu")) as (client, _):
        answer = client.post("/v1/images/generations", json={"prompt": "a fox", "guidance": 7})
        assert answer.status_code == 400 and "by itself, in one stream" in answer.text
    other = orthus.builder.context("a dog")
    two = Prompt(orthus.builder.context("a fox"), 0, Guidance.text(3), (other,))
    error = refusal(lambda: list(generate(orthus.model, [two], resolve(config))))
    assert "other streams to guide by" in error.message
    assert drawn.size == (16, 16)


def test_what_cannot_be_distilled_is_refused_before_anything_is_trained(
    tiny_folder, guided, source, tmp_path
):
    place = tmp_path / "out"
    error = refusal(lambda: train(guided, source, place))
    assert "already draws guidance 2 in one stream" in error.message
    error = refusal(lambda: train(tiny_folder, source, place, "guidance=1"))
    assert "guidance 1 is none" in error.message
    for key, said in (
        ("data.own_pictures=false", "own_pictures"),
        ("lora={rank = 2, embeddings = true}", "lora.embeddings"),
        ("lora={rank = 2}", "set lora.head instead"),
    ):
        keys = ("optim.steps=1", key, *(("head=frozen",) if "instead" in said else ()))
        assert said in refusal(lambda k=keys: train(tiny_folder, source, place, *k)).message
    for changes, said in (
        ({"image_head": "mse"}, "regresses features"),
        ({"flow_map_head": True}, "takes few steps"),
    ):
        other = save_model(make_tiny_model(**changes), None, tmp_path / str(*changes))
        assert said in refusal(lambda o=other: train(o, source, place, "optim.steps=1")).message
    assert not place.with_name("out.training").exists()
    # Its guidance is not trained away again; its words may be trained.
    for training, recipe in ((posttrain, PosttrainRecipe), (build_base, BuildBaseRecipe)):
        error = refusal(lambda t=training, r=recipe: list(t(load(r), guided, place)))
        assert "would take that away again" in error.message
    sets = (f"data.source={json.dumps(str(source))}", "objective=understanding", "optim.steps=1")
    sets = (*sets, "optim.batch_size=2", "data.held_out=0", "log.sample_every=0")
    list(posttrain(load(PosttrainRecipe, None, sets), guided, place))
    assert json.loads((place / "config.json").read_text())["distilled_guidance"] == 2.0
