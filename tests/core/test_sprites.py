"""Sprite packs: the one that ships, packs built anew, and packs from strangers."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orthus_core.errors import DataError
from orthus_core.world.emoji import build_pack, fluent_3d, iconify
from orthus_core.world.sprites import MAX_NAMES_BYTES, STARTER_PACK, STARTER_STYLES, SpritePack

RED, GREEN = (255, 0, 0), (0, 255, 0)


@pytest.fixture(scope="module")
def pack() -> SpritePack:
    return SpritePack.open()


def png(rgba: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(buffer, "PNG")
    return buffer.getvalue()


def half_red() -> bytes:
    """Left half red, right half transparent over a green that must never show."""
    rgba = np.zeros((32, 32, 4), dtype=np.uint8)
    rgba[:, :16] = (*RED, 255)
    rgba[:, 16:] = (*GREEN, 0)
    return png(rgba)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_the_bundled_pack_fits_its_budget_and_names_its_sources():
    assert STARTER_PACK.stat().st_size < 9_000_000
    words = " ".join(path.read_text("utf-8") for path in STARTER_PACK.parent.glob("*.txt"))
    for source in ("Microsoft Corporation", "Miles Johnson", "UNICODE LICENSE V3"):
        assert source in words


def test_the_bundled_pack_has_sprites_tones_and_no_flags(pack: SpritePack):
    by_label = {sprite.label: sprite for sprite in pack}
    assert len(pack) > 2000
    assert by_label["snowman"].subgroup == "sky-weather"
    assert "flags" not in {sprite.group for sprite in pack}
    toned = [sprite for sprite in pack if sprite.skin]
    assert len(toned) > 400
    assert all(pack[sprite.base].skin == "" for sprite in toned)
    assert by_label["woman farmer"].neutral == by_label["farmer"].key


def test_every_picture_of_the_bundled_pack_is_drawn_on_its_background(pack: SpritePack):
    for sprite in list(pack)[::40]:
        pixels_HW3 = pack.image(sprite, 64, background=(10, 20, 30))
        assert pixels_HW3.shape == (64, 64, 3) and pixels_HW3.dtype == np.uint8
        assert pixels_HW3.std() > 5, sprite.label


def test_colour_under_transparent_pixels_never_bleeds_into_the_edge(tmp_path: Path):
    path = write_tar(tmp_path / "p.tar", {"a.json": b'{"label":"half"}', "a.png": half_red()})
    pixels_HW3 = SpritePack.open(path).image("a", 16, background=(0, 0, 0))
    assert pixels_HW3[..., 1].max() == 0
    assert tuple(pixels_HW3[8, 2]) == RED and tuple(pixels_HW3[8, 13]) == (0, 0, 0)


def test_a_mirrored_sprite_is_the_same_from_right_to_left(pack: SpritePack):
    plain = pack.image("2603", 32)
    assert np.array_equal(pack.image("2603", 32, mirror=True), plain[:, ::-1])


def test_a_pack_survives_pickling(pack: SpritePack):
    copy = pickle.loads(pickle.dumps(pack))
    assert np.array_equal(copy.image("2603", 16), pack.image("2603", 16))


@pytest.mark.parametrize(
    "members, complaint",
    [
        ({"../a.json": b"{}"}, "does not belong"),
        ({"a.exe": b""}, "does not belong"),
        ({"a.json": b" " * (MAX_NAMES_BYTES + 1)}, "bytes long"),
        ({"a.json": b'{"label":"a"}'}, "lacks its picture"),
        ({"a.json": b'{"label":3}', "a.png": b"x"}, "cannot read the names"),
        ({"a.json": b'{"label":""}', "a.png": b"x"}, "no label"),
        ({"a.json": b"nonsense", "a.png": b"x"}, "cannot read the names"),
        ({"a.json": b"[]", "a.png": b"x"}, "cannot read the names"),
    ],
)
def test_a_strange_pack_is_refused(tmp_path: Path, members: dict[str, bytes], complaint: str):
    with pytest.raises(DataError, match=complaint):
        SpritePack.open(write_tar(tmp_path / "p.tar", members))


def test_a_link_in_a_pack_is_refused(tmp_path: Path):
    path = tmp_path / "p.tar"
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DataError, match="does not belong"):
        SpritePack.open(path)


def test_a_file_that_is_no_tar_and_a_missing_one_are_told_apart_from_packs(tmp_path: Path):
    (tmp_path / "p.tar").write_text("hello")
    for path in (tmp_path / "p.tar", tmp_path / "missing.tar"):
        with pytest.raises(DataError, match="cannot open the sprite pack"):
            SpritePack.open(path)


def test_a_broken_picture_names_its_sprite(tmp_path: Path):
    members = {"a.json": b'{"label":"a"}', "a.png": half_red()[:60]}
    with pytest.raises(DataError, match="cannot read sprite 'a'"):
        SpritePack.open(write_tar(tmp_path / "p.tar", members)).image("a", 16)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[Path, Path]:
    """Two emoji, one of them a hand in five tones, and a flag."""
    assets, names = tmp_path / "assets", tmp_path / "names"
    for folder in (assets, names / "en", names / "meta"):
        folder.mkdir(parents=True)
    hand = [
        {"label": "hand", "hexcode": f"270B-{code}", "tone": tone}
        for tone, code in enumerate(("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"), start=1)
    ]
    emoji = [
        {"label": "hand", "hexcode": "270B", "group": 1, "subgroup": 16, "skins": hand},
        {"label": "snowman", "hexcode": "2603-FE0F", "group": 5, "subgroup": 59, "tags": ["cold"]},
        {"label": "flag", "hexcode": "1F3C1", "group": 9, "subgroup": 97},
        {"label": "splatter", "hexcode": "1FADF", "group": 5, "subgroup": 59},
    ]
    groups = {
        "groups": {"1": "people-body", "5": "travel-places", "9": "flags"},
        "subgroups": {"16": "hand-fingers-open", "59": "sky-weather", "97": "flag"},
    }
    (names / "en" / "data.json").write_text(json.dumps(emoji))
    (names / "meta" / "groups.json").write_text(json.dumps(groups))
    for code in ("270b", "2603", "1f3c1", *(tone["hexcode"].lower() for tone in hand)):
        Image.open(io.BytesIO(half_red())).save(assets / f"{code}.webp", lossless=True)
    return assets, names


def test_building_a_pack_twice_gives_the_same_bytes(sources, tmp_path: Path):
    first, second = tmp_path / "1.tar", tmp_path / "2.tar"
    for out in (first, second):
        build_pack(fluent_3d(sources[0]), sources[1], out, size=16)
    assert first.read_bytes() == second.read_bytes()


def test_a_built_pack_keeps_three_tones_and_leaves_flags_out(sources, tmp_path: Path):
    assets, names = sources
    summary = build_pack(fluent_3d(assets), names, tmp_path / "p.tar", size=16)
    assert (summary.untoned, summary.toned) == (2, 3)
    assert summary.without_picture == ("splatter",)
    pack = SpritePack.open(summary.path)
    assert [s.skin for s in pack if s.label == "hand"] == ["", "light", "medium", "dark"]
    assert pack["270b-1f3fb"].base == "270b"
    assert pack["2603"].tags == ("cold",)


def test_a_missing_source_leaves_no_half_written_pack(sources, tmp_path: Path):
    assets, _ = sources
    with pytest.raises(DataError, match="cannot read the emoji names"):
        build_pack(fluent_3d(assets), tmp_path / "nowhere", tmp_path / "p.tar")
    with pytest.raises(DataError, match="no .webp pictures"):
        fluent_3d(tmp_path / "nowhere")
    (assets / "2603.webp").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot read the picture"):
        build_pack(fluent_3d(assets), sources[1], tmp_path / "p.tar", size=16)
    assert not list(tmp_path.glob("p.tar*"))


def test_a_pack_without_tones_keeps_the_plain_ones(sources, tmp_path: Path):
    assets, names = sources
    summary = build_pack(fluent_3d(assets), names, tmp_path / "p.tar", size=16, tones=False)
    assert (summary.untoned, summary.toned) == (2, 0)


def test_drawings_become_pictures_with_alpha_and_stay_square(sources, tmp_path: Path):
    pytest.importorskip("resvg_py")
    package = tmp_path / "drawings"
    package.mkdir()
    icon = {"body": '<rect width="10" height="20" fill="#f00"/>', "width": 10, "height": 20}
    (package / "icons.json").write_text(json.dumps({"icons": {"man-of-snow": icon}, "width": 16}))
    (package / "chars.json").write_text('{"2603-FE0F": "man-of-snow", "1f3c1": "gone"}')
    build_pack(iconify(package), sources[1], tmp_path / "p.tar", size=16)
    pack = SpritePack.open(tmp_path / "p.tar")
    assert [sprite.label for sprite in pack] == ["snowman"]
    alpha = np.asarray(pack.rgba("2603"))[..., 3]
    assert alpha.shape == (16, 16)
    assert alpha[:, 5:11].min() > 200 and alpha[:, :3].max() == alpha[:, -3:].max() == 0


def test_drawings_need_something_that_draws_them(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match="SVG"):
        iconify(tmp_path)


def test_the_bundled_styles_show_the_same_things():
    packs = {style: SpritePack.open(path) for style, path in STARTER_STYLES.items()}
    in_all = {s.key for s in packs["3d"]} & {s.key for s in packs["flat"]}
    assert len(in_all) > 1500
    assert all(packs["3d"][key].label == packs["flat"][key].label for key in in_all)
