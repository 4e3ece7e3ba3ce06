"""The small world's kinds of pictures in records: a single sprite, and a scene.

{"sprite": "2603", "background": [255, 255, 255], "mirror": false, "grey": false, "pack": "..."}
{"scene": {"backdrop": "white", "things": [...]}}
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from orthus_core.data.pictures import register_picture_kind
from orthus_core.errors import DataError
from orthus_core.world.scene import Scene, SceneImage
from orthus_core.world.sprite_image import SpriteImage
from orthus_core.world.sprites import WHITE, SpritePack, starter_packs

Packs = Mapping[str, SpritePack]


def register_picture_kinds(packs: Packs | None = None) -> None:
    """Registers sprites and scenes, so that records can describe them.

    Args:
        packs: Sprite packs by style, such as `{"3d": pack}`; None uses the bundled ones, which are
            opened when the first picture is read.
    """
    open_packs = cache(starter_packs) if packs is None else lambda: packs
    register_picture_kind("scene", lambda value: _scene_from(value["scene"], open_packs()))
    register_picture_kind("sprite", lambda value: _sprite_from(value, open_packs()))


def is_of_world(key: str) -> bool:
    """Whether a picture is of one of these kinds, by its key."""
    return key.startswith((SceneImage.KIND, SpriteImage.KIND))


def _sprite_from(value: Mapping[str, Any], packs: Packs) -> SpriteImage:
    sprite, digest = value["sprite"], value.get("pack")
    # Without a pack's digest the style is 3d. The same key is another picture in another pack.
    named = [pack for pack in packs.values() if pack.digest == digest]
    pack = packs.get("3d") if digest is None else next(iter(named), None)
    if pack is None or not isinstance(sprite, str) or sprite not in pack:
        raise DataError(
            f"{sprite!r} is not a known sprite", hint="register the pack that contains it"
        )
    try:
        red, green, blue = value.get("background", WHITE)
        bytes((red, green, blue))  # raises an error unless each is an integer from 0 to 255
    except (TypeError, ValueError) as error:
        raise DataError("'background' must be three levels of 0 to 255") from error
    mirror, grey = bool(value.get("mirror")), bool(value.get("grey"))
    return SpriteImage(pack, sprite, (red, green, blue), mirror, grey)


def _scene_from(value: Any, packs: Packs) -> SceneImage:
    if not isinstance(value, Mapping):
        raise DataError(f"a scene is a {type(value).__name__}, not an object")
    try:
        scene = Scene.of(value)
        unknown = [t for t in scene.things if t.sprite not in packs.get(t.style, ())]
    except TypeError as error:  # a list where a name belongs
        raise DataError(f"cannot read the scene: {error}") from error
    if unknown:
        sprite, style = unknown[0].sprite, unknown[0].style
        raise DataError(
            f"{sprite!r} is not a known sprite in style {style!r}",
            hint="register the pack of this style",
        )
    return SceneImage(packs, scene)
