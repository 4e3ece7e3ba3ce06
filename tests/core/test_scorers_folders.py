"""Folders of pictures: features, diversity and CLIP, by hand and on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from orthus_core.errors import DataError, OrthusError
from orthus_core.evaluation import clip_edit, diversity
from orthus_core.evaluation.clip import MEAN, STD, open_clip_folder
from orthus_core.evaluation.inception import Inception2015, inception
from orthus_core.evaluation.official.edit_clip_files import read_edits, score_edits
from orthus_core.evaluation.official.hps_files import hps_encoder, read_pictures, score_hps
from orthus_core.evaluation.official.own_files import score_own_set
from orthus_core.evaluation.official.picture_sets import score_picture_sets
from orthus_core.evaluation.official.task import OfficialScores, ScoringRequest
from orthus_core.evaluation.picture_features import FeatureNetwork
from orthus_core.evaluation.picture_folders import NamedPictures, pictures_in, stretched


def tiny_clip(folder: Path) -> Path:
    """A random CLIP of 32 pixels that knows a few letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder.mkdir(parents=True)
    letters = [*"abcdefgh"]
    words = [*letters, *(f"{each}</w>" for each in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    sides = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sides |= {"num_attention_heads": 2}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    text = {**sides, **ends, "vocab_size": len(words), "max_position_embeddings": 8}
    config = CLIPConfig(
        text_config=text,
        vision_config={**sides, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(1)
    CLIPModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("models") / "clip")


def draw(path: Path, colour, size=(40, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.linear_gradient("L").rotate(90).resize(size).convert("RGB")
    Image.blend(image, Image.new("RGB", size, colour), 0.5).save(path)
    return path


def last(events) -> OfficialScores:
    found = [*events][-1]
    assert isinstance(found, OfficialScores)
    return found


def test_mean_distance_by_hand():
    # A 3-4-5 triangle: distances 3, 4 and 5.
    found = diversity.mean_distance([[0, 0], [3, 0], [0, 4]])
    assert found.value == pytest.approx(4)
    low, high = found.interval
    # The pictures' means are 3.5, 4 and 4.5: twice their standard error is 2 x 0.5 / sqrt(3).
    assert high - 4 == pytest.approx(4 - low) == pytest.approx(2 * 1.959964 * 0.5 / np.sqrt(3))
    assert diversity.mean_distance([[1, 2]] * 4).value == 0
    with pytest.raises(DataError, match="fewer than two"):
        diversity.mean_distance([[1, 2]])


def test_precision_recall_and_coverage_by_hand():
    # On a line with k = 1. Reference 0, 1, 10: radii 1, 1, 9. Drawn 0.5, 2.5, 30: radii 2, 2, 27.5.
    drawn, reference = [[0.5], [2.5], [30.0]], [[0.0], [1.0], [10.0]]
    found = diversity.overlap(drawn, reference, 1, 1)
    assert found.precise == [True, True, False]  # 2.5 is 7.5 from 10, whose radius is 9
    assert found.recalled == [True, True, True]  # 10 is 20 from 30, whose radius is 27.5
    # The nearest drawn one of 10 is 7.5 away, of 0 and 1 0.5.
    assert found.covered == [True, True, True]
    far = diversity.overlap([[1.5], [1.6], [1.7]], reference, 1, 1)
    assert far.precise == [True, True, True]
    assert far.recalled == [False, False, False] and far.covered == [False, True, True]
    swapped = diversity.overlap(reference, drawn, 1, 1)
    assert swapped.precise == found.recalled and swapped.recalled == found.precise
    with pytest.raises(DataError, match="has no 5 neighbours"):
        diversity.overlap(drawn, reference)
    # By default, the third neighbour of 0 is 7 away (the second 3, the fourth 15): -5 is within it,
    # and -12 is not. The fifth of 31 is 31 away (the fourth 30), and so is 62.
    reference = [[0.0], [1.0], [3.0], [7.0], [15.0], [31.0]]
    usual = diversity.overlap([[-5.0], [-12.0], [62.0], [200.0], [300.0], [400.0]], reference)
    assert usual.precise == [True, False, False, False, False, False]
    assert usual.covered == [True, True, True, True, False, True]


def test_distances_of_chunks_are_those_of_the_whole(monkeypatch):
    drawn, reference = np.random.default_rng(0).normal(size=(2, 40, 5))
    whole = diversity.overlap(drawn, reference), diversity.mean_distance(drawn)
    monkeypatch.setattr(diversity, "CHUNK", 7)
    parts = diversity.overlap(drawn, reference), diversity.mean_distance(drawn)
    assert parts[0] == whole[0] and parts[1].value == pytest.approx(whole[1].value)


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path, clip):
    for name in ("b.png", "a/2.png", "a/1.jpg", ".hidden/3.png"):
        draw(tmp_path / name, "red")
    (tmp_path / "notes.txt").write_text("no picture")
    # Names with dots, and what is no picture.
    draw(tmp_path / "c/x.1.png", "red")
    (tmp_path / "c/x.1.txt").write_text("no picture")
    named = NamedPictures(tmp_path)
    assert named.find("c/x") == named.find("c/x.1") == tmp_path / "c/x.1.png"
    (tmp_path / "c/x.1.png").unlink()
    names = [path.relative_to(tmp_path).as_posix() for path in pictures_in(tmp_path)]
    assert names == ["a/1.jpg", "a/2.png", "b.png"]
    assert stretched([tmp_path / "b.png"], 8).shape == (1, 3, 8, 8)
    assert NamedPictures(tmp_path).find("a/1") == tmp_path / "a/1.jpg"
    with pytest.raises(DataError, match="there is no picture for 'a/3'"):
        NamedPictures(tmp_path).find("a/3")
    draw(tmp_path / "a/1.png", "red")
    with pytest.raises(DataError, match="there is 2 pictures"):
        NamedPictures(tmp_path).find("a/1")
    with pytest.raises(DataError, match="without pictures"):
        pictures_in(clip)


def test_sets_of_pictures_are_scored_by_their_features(tmp_path):
    def run(pixels_M3HW):  # the mean colour is both features and logits
        means = pixels_M3HW.mean((2, 3))
        return means, 3 * means

    network = FeatureNetwork("efficientnet-lite0", 16, "hash", run)
    for number in range(8):
        draw(tmp_path / "true" / f"{number}.png", (30 * number, 0, 0))
        draw(tmp_path / "same" / f"{number}.png", (30 * number, 0, 0))
        draw(tmp_path / "far" / f"{number}.png", (0, 30 * number, 250))
    same = last(score_picture_sets(tmp_path / "same", tmp_path / "true", network))
    assert same.metrics["fid"] == pytest.approx(0, abs=1e-6)
    assert same.metrics["precision"] == same.metrics["recall"] == same.metrics["coverage"] == 1
    assert same.metrics["mean_distance"] == same.metrics["reference_mean_distance"] > 0
    assert same.per_category["pictures"] == {"drawn": 8, "reference": 8}
    assert "EfficientNet" in same.notes[0] and "FID of 8 pictures" in same.notes[1]
    far = last(score_picture_sets(tmp_path / "far", tmp_path / "true", network))
    assert far.metrics["fid"] > 0.5 and far.metrics["kid"] > same.metrics["kid"]
    assert far.metrics["precision"] == far.metrics["coverage"] == 0
    assert [sample["scores"]["precision"] for sample in far.samples] == [False] * 8
    assert [path.parent.name for path in far.files] == ["true"] * 8


def test_inception_reads_its_weights_by_name_and_refuses_others(tmp_path):
    network = Inception2015()
    # torchvision's Inception v3 has 27,161,264, of which 3,326,696 are of a head that FID's lacks;
    # FID's has 1008 classes in place of 1000.
    expected = 27_161_264 - 3_326_696 + 8 * 2049
    assert sum(p.numel() for p in network.parameters()) == expected
    path = tmp_path / "weights.pth"
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("tracked")}
    torch.save(state, path)
    opened = inception(path)
    features, logits = opened(torch.rand(1, 3, 299, 299))
    assert features.shape == (1, 2048)
    assert torch.allclose(logits, features @ network.fc.weight.T)
    torch.save({**state, "more": torch.ones(1)}, path)
    with pytest.raises(OrthusError, match="no weights of Inception-2015"):
        inception(path)
    with pytest.raises(OrthusError, match="pt_inception-2015-12-05-6726825d.pth"):
        inception(tmp_path / "missing.pth")


def test_clip_sees_pictures_and_captions_as_transformers_does(tmp_path, clip):
    encoder = open_clip_folder(clip)
    path = draw(tmp_path / "a.png", "red", (64, 32))
    # Cut around the middle: columns 16 to 48 of 64.
    middle = np.array(Image.open(path))[:, 16:48] / 255
    pixels = torch.from_numpy((middle - MEAN) / STD).permute(2, 0, 1)[None].float()
    expected = encoder.model.get_image_features(pixel_values=pixels)
    assert torch.allclose(encoder.pictures([path]), getattr(expected, "pooler_output", expected))
    # A side twice as long stays so: 32 and 64, where 98 * (32 / 49) is a little less.
    assert torch.allclose(
        encoder.pictures([draw(tmp_path / "b.png", "red", (98, 49))]),
        encoder.images([Image.open(tmp_path / "b.png").resize((64, 32), Image.Resampling.BICUBIC)]),
    )
    # The whole picture, without its shape: other pixels.
    stretched_MD = encoder.stretched_pictures([path])
    assert not torch.allclose(stretched_MD, encoder.pictures([path]), atol=1e-4)
    # A short caption beside a long one, and a caption that is cut.
    alone, both = encoder.captions(["a b"]), encoder.captions(["a b", "a b c d e f g h a b c"])
    assert torch.allclose(alone[0], both[0], atol=1e-5)
    (clip.parent / "empty").mkdir(exist_ok=True)
    with pytest.raises(OrthusError, match="lacks config.json, model.safetensors, tokenizer.json"):
        open_clip_folder(clip.parent / "empty")
    with pytest.raises(OrthusError, match="openai/clip-vit-large-patch14"):
        open_clip_folder(None)


def test_hps_is_the_mean_of_pictures(tmp_path, clip):
    encoder = hps_encoder(clip, "v2.0")
    for style, prompts in (("anime", ["a", "b", "c"]), ("photo", ["d"])):
        (tmp_path / f"{style}.json").write_text(json.dumps(prompts))
        for number in range(len(prompts)):
            draw(tmp_path / f"drawn/{style}/{number:05d}.jpg", (80 * number, 9, 99))
    found = last(score_hps(tmp_path / "drawn", tmp_path, encoder))
    scores = [sample["score"] for sample in found.samples]
    texts, pictures = (
        encoder.captions(["c"]),
        encoder.pictures([tmp_path / "drawn/anime/00002.jpg"]),
    )
    assert scores[2] == pytest.approx(float(torch.cosine_similarity(texts, pictures)), abs=1e-6)
    anime, photo = 100 * sum(scores[:3]) / 3, 100 * scores[3]
    assert found.metrics["overall"] == pytest.approx((3 * anime + photo) / 4, abs=1e-4)
    assert found.per_category["anime"] == pytest.approx(anime, abs=1e-4)
    assert found.n == 4 and "concept-art, paintings" in found.notes[1]
    (tmp_path / "drawn/anime/00001.jpg").unlink()
    with pytest.raises(DataError, match="no picture for 'anime/00001'"):
        read_pictures(tmp_path / "drawn", tmp_path)
    with pytest.raises(OrthusError, match="the weights of HPS v2.1 are needed.*") as missing:
        hps_encoder(None, "v2.1")
    assert "HPS_v2.1_compressed.pt" in missing.value.hint
    (tmp_path / "HPS_v2_compressed.pt").write_bytes(b"")
    with pytest.raises(OrthusError, match="OpenCLIP, which is not installed"):
        hps_encoder(tmp_path / "HPS_v2_compressed.pt", "v2.0")


def test_edits_are_scored_as_the_formulas_say(tmp_path, clip):
    encoder = open_clip_folder(clip)
    lines = [
        {"id": n, "image": f"{n}.png", "input": "a", "output": "b c", "edit": "c"} for n in (1, 2)
    ]
    (tmp_path / "edits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for n in (1, 2):
        draw(tmp_path / f"{n}.png", "red")
        draw(tmp_path / f"edited/{n}.png", "blue", (40, 20 * n))
    found = last(score_edits(tmp_path / "edited", tmp_path / "edits.jsonl", encoder))
    before, after = (
        encoder.stretched_pictures([folder / f"{n}.png" for n in (1, 2)])
        for folder in (tmp_path, tmp_path / "edited")
    )
    texts = encoder.captions(["a", "a"]), encoder.captions(["b c", "b c"])
    by_hand = clip_edit.similarities(before, after, *texts)
    assert found.metrics == pytest.approx(
        {
            "clip_t": by_hand["sim_1"],
            "clip_i": by_hand["sim_image"],
            "clip_d": by_hand["sim_direction"],
        },
        abs=1e-6,
    )
    assert [sample["id"] for sample in found.samples] == ["1", "2"]
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match="picture before an edit is missing"):
        last(score_edits(tmp_path / "edited", tmp_path / "edits.jsonl", encoder))


@pytest.fixture
def own(tmp_path):
    """Three questions and two prompts, with answers to the questions."""
    draw(tmp_path / "seen/a.png", "red")
    draw(tmp_path / "seen/p1.png", "red", (40, 20))
    draw(tmp_path / "seen/drawn.jpg", "blue", (60, 20))
    four = ["two", "2", "two", "three"]
    records = [
        {"id": "q1", "image": "a.png", "question": "What?", "answers": ["a dog"] * 4},
        {"id": "q2", "image": "a.png", "question": "How many?", "answers": four},
        {"id": "q3", "question": "Who?", "answers": ["me"] * 4},
        {"id": "p1", "prompt": "a b"},
        {"id": "p2", "prompt": "c", "image": "drawn.jpg"},
    ]
    said = [{"id": "q2", "answer": "three"}, {"id": "q1", "answer": "Dog."}]
    lines(tmp_path / "said.jsonl", [*said, {"id": "q3", "answer": "you"}])
    return lines(tmp_path / "own.jsonl", records)


def lines(path, records):
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def own_scores(data, answers=True, clip=None, allow_missing=False):
    request = ScoringRequest(data.parent / "seen", data, "own", allow_missing)
    return last(score_own_set(request, data.parent / "said.jsonl" if answers else None, clip))


def test_ones_own_set_by_hand(own, clip):
    found = own_scores(own, clip=open_clip_folder(clip))
    # "Dog." is "a dog" and "three" is "3" once both are normalised, "you" is wrong; "three" alone
    # is equal as it is. VQAv2: "three" is one of four: of the three others that are left it has 1,
    # and 0 where it is left out itself: 3 x 1/3 / 4.
    assert found.metrics["accuracy"] == pytest.approx(2 / 3)
    assert found.metrics["exact"] == pytest.approx(1 / 3)
    assert found.metrics["vqa_accuracy"] == pytest.approx((1 + 0.25 + 0) / 3)
    assert (found.metrics["pictures"], found.metrics["median_width"]) == (2, 50)
    assert found.per_category["sizes"] == {"40x20": 1, "60x20": 1}
    encoder = open_clip_folder(clip)
    seen = encoder.pictures([own.parent / "seen/p1.png"]), encoder.captions(["a b"])
    score = 100 * float(torch.cosine_similarity(*seen))
    assert found.samples[3]["scores"]["clip_score"] == pytest.approx(score, abs=1e-3)
    assert [sample["picture"] for sample in found.samples] == [
        "a.png",
        "a.png",
        None,
        "p1.png",
        "drawn.jpg",
    ]
    assert (found.n, found.n_missing, found.n_unparsed) == (5, 0, 0)


def test_ones_own_set_counts_and_refuses(own):
    with pytest.raises(DataError, match="3 questions and no answers"):
        own_scores(own, answers=False)
    lines(own.parent / "said.jsonl", [{"id": "q1", "answer": ""}, {"id": "q2", "answer": "two"}])
    (own.parent / "seen/p1.png").unlink()
    with pytest.raises(DataError, match="1 of 5 pictures are missing, such as .*p1"):
        own_scores(own)
    found = own_scores(own, allow_missing=True)
    assert (found.n_missing, found.n_unparsed) == (2, 1)  # the picture of p1, the answer to q3
    assert found.metrics["pictures"] == 1 and found.metrics["accuracy"] == pytest.approx(1 / 3)
    draw(own.parent / "seen/p1.png", "red")
    with pytest.raises(DataError, match="1 of 3 questions have no prediction, such as q3"):
        own_scores(own)
    for answer in ({}, {"answer": 3}, {"answers": {"a": 1}}):
        lines(own, [{"question": "How many?", **answer}])
        with pytest.raises(DataError, match="question of record 1 has no answer"):
            own_scores(own)
    lines(own, [{"prompt": "a", "id": 1, "image": "a.png"}] * 2)
    with pytest.raises(DataError, match="1 ids occur more than once"):
        own_scores(own)
    lines(own, [{"caption": "a"}])
    with pytest.raises(DataError, match="neither a question nor a prompt"):
        own_scores(own)


def test_the_test_set_of_instructpix2pix_is_the_last_twentieth(tmp_path):
    listed = [[f"{n:07d}", ["7", "8"]] for n in range(40)]
    (tmp_path / "seeds.json").write_text(json.dumps(listed))
    for name, key in (("0000038", "input"), ("0000039", "caption")):
        (tmp_path / name).mkdir()
        prompt = {key: "before", "edit": "do", "output": "after"}
        (tmp_path / name / "prompt.json").write_text(json.dumps(prompt))
    files, edits = read_edits(tmp_path)
    assert [edit.key for edit in edits] == ["0000038", "0000039"] and len(files) == 3
    assert edits[1].caption_before == "before"
    for wrong, message in (
        ([], "there are no edits"),
        ([["0000039"]], "seeds of another layout"),
        ([[39, ["7"]]], "seeds of another layout"),
    ):
        (tmp_path / "seeds.json").write_text(json.dumps(wrong))
        with pytest.raises(DataError, match=message):
            read_edits(tmp_path)
    line = {"id": 1, "image": "a.png", "input": "before", "output": "after"}
    assert read_edits(lines(tmp_path / "edits.jsonl", [line]))[1][0].instruction == ""
    for name in ("image", "input", "output", "edit"):
        with pytest.raises(DataError, match=f"record 1 has no text '{name}'"):
            read_edits(lines(tmp_path / "edits.jsonl", [{**line, name: 5}]))
    assert edits[0].before == tmp_path / "0000038" / "7_0.jpg"
