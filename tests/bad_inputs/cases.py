"""Inputs that nobody should bring and somebody will: what is typed, and what has to come of it.

A case is a line of words. `says` is a piece of the error it must end in; None means that it must
work; ANY that it may do either, which is all that can be asked of damage drawn at random. Words in
braces are files: `{precious}` is there before, `{folder}` is a folder, `{closed}` is a place where
nobody may write, `{secret.png}` a picture that nobody may read, `{file}/x.png` lies below a file.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.bad_inputs.pictures import BROKEN, GOOD

ANY = "any"
"""Works, or ends in an error of ours."""

DAMAGED = range(40)
DAMAGED_RECORDS = range(30)


class Case(NamedTuple):
    """words: After `orthus`. says: See above. code: Of an error; 2 is for what the shell typed."""

    words: tuple[str, ...]
    says: str | None
    code: int = 1


def case(*words: str, says: str | None, code: int = 1) -> Case:
    return Case(words, says, code)


PROMPTS = [
    case("generate", says="no prompt"),
    case("generate", "", says="prompt is empty"),
    case("generate", " \t\n", says="prompt is empty"),
    case("generate", "\u3000", says="prompt is empty"),
    case("generate", "fox " * 25_000, says="tokens long"),
    case("generate", "x" * 100_000, says="tokens long"),
    case("generate", "🦊" * 25_000, says="tokens long"),
    case("generate", "\udcff\udcfe", says="not UTF-8"),
    case("generate", "🦊 ☃ 雪だるま", says=None),
    case("generate", "a\x00b", says=None),
    case("generate", "\x1b[31mred\x1b[0m", says=None),
    case("generate", "zxqj vwpk ßµ", says=None),
    case("generate", "../../../etc/passwd", says=None),
    case("generate", "CON", says=None),
    case("generate", "a:b*c?d<e>f|g", says=None),
    case("generate", "<image>", says=ANY),
    case("generate", "<s></s><pad><racm3:break><eoss><reserved08706>", says=ANY),
    case("generate", "IMGIMGAZ IMGIMGBZ", says=ANY),
    case("generate", "{prompt} {0} %s $HOME `id`", says=None),
    case("generate", "--", "--steps", says=None),
    case("generate", "--prompt-file", "missing.txt", says="cannot read the prompts"),
    case("generate", "--prompt-file", "{folder}", says="cannot read the prompts"),
    case("generate", "--prompt-file", "{plain.png}", says="not UTF-8"),
    case("generate", "--prompt-file", "{empty.png}", says="no prompt"),
    case("generate", "-", says="no prompt"),
    case("generate", "a fox", "--negative-prompt", "fox " * 25_000, says="tokens long"),
    case("story", says="something to go on from"),
    case("story", "fox " * 25_000, "-o", "told", says=ANY),
    case("edit", "{plain.png}", "", says="instruction is empty"),
    case("edit", "{plain.png}", "fox " * 25_000, says="tokens long"),
    case("caption", "{plain.png}", "--question", " ", says="empty"),
    case("edit", says="no picture to change"),
    case("edit", "{plain.png}", says="there is no instruction"),
    case("edit", "add a hat", says="no picture to change"),
]

NUMBERS = [
    case("generate", "a fox", *words, says=says, code=code)
    for words, says, code in [
        (("--steps", "0"), "steps must be at least 1", 1),
        (("--steps", "-5"), "steps must be at least 1", 1),
        (("--steps", "100000"), "steps must be at most 1000", 1),
        (("--steps", "ten"), "--steps", 2),
        (("--steps", "1.5"), "--steps", 2),
        (("--steps", "9" * 400), "steps", 1),
        (("--guidance", "nan"), "guidance must be a finite number", 1),
        (("--guidance", "inf"), "guidance must be a finite number", 1),
        (("--guidance", "-inf"), "guidance must be a finite number", 1),
        (("--guidance", "strong"), "--guidance", 2),
        (("--guidance", "-3"), None, 0),
        (("--guidance", "1e30"), ANY, 1),
        (("--noise-scale", "-1"), "noise_scale must be at least 0", 1),
        (("--noise-scale", "nan"), "noise_scale must be a finite number", 1),
        (("-n", "1000000000"), "pictures", 1),
        (("-n", "0"), "num_images must be at least 1", 1),
        (("-n", "-1"), "num_images must be at least 1", 1),
        (("--auto-seeds", "0"), "auto-seeds", 2),
        (("--auto-seeds", "1000000000"), "pictures", 1),
        (("--seed", "-1"), "seeds must be at least 0", 1),
        (("--seed", "99999999999999999999"), "cannot be used", 1),
        (("--seed", "1", "--seed", "2", "-n", "3"), "2 seeds for 3 pictures", 1),
        (("--seed", "9223372036854775807"), None, 0),
        (("--batch-size", "0"), "batch", 1),
        (("--batch-size", "-2"), "batch", 1),
        (("--device", "gpu"), "gpu", 2),
        (("--dtype", "int4"), "int4", 2),
        (("--model", "minni"), "did you mean 'mini'", 1),
        (("--model", ""), "model", 1),
        (("--model", "{precious}"), "this is a file", 1),
        (("--model", "{folder}"), "no config.json", 1),
        (("--recipe", "missing.toml"), "there is no recipe", 1),
        (("--recipe", "{plain.png}"), "cannot read the recipe", 1),
        (("--recipe", "posttrain"), "recipe", 1),
        (("--set", "steps"), "needs a key and a value", 1),
        (("--set", "stpes=3"), "did you mean 'steps'", 1),
        (("--set", "steps=[1, 2]"), "steps must be a whole number", 1),
        (("--set", "guidance=nan"), "finite number", 1),
        (("--set", "=3"), "needs a key and a value", 1),
        (("--keep-rows", "1"), "none is named", 1),
        (("--continue", "missing.png"), "no such picture", 1),
        (("-C", "missing.png"), "no such picture", 1),
        (("-C", "{plain.png}"), "does not say how it was made", 1),
        (("--unknown",), "--unknown", 2),
    ]
]

OTHERS = [  # what holds of generate holds of the others
    case("edit", "{plain.png}", "a hat", "--image-guidance", "nan", says="finite number"),
    case("edit", "{plain.png}", "a hat", "--steps", "-5", says="at least 1"),
    case("edit", "{plain.png}", "a hat", "--max-text", "-1", says="at least 0"),
    case("edit", "{plain.png}", "a hat", "-n", "1000000000", says="pictures"),
    case("edit", "{plain.png}", "a hat", "-o", "{precious}", says="already"),
    case("edit", "{plain.png}", "a hat", "-o", "{closed}/x.png", says="may not be written"),
    case("edit", "-C", "{plain.png}", says="does not say how it was made"),
    case("story", "a fox", "--guidance", "nan", says="finite number"),
    case("story", "a fox", "--panels", "0", says="at least 1"),
    case("story", "a fox", "-o", "{precious}", says="this is a file"),
    case("story", "a fox", "-C", "{plain.png}", says="does not say how it was made"),
    case("story", "--from-story", "{folder}", says="no story.json"),
    case("caption", "{plain.png}", "-o", "{folder}", says="this is a folder"),
    case("caption", "{plain.png}", "-o", "{precious}", says="another kind of file"),
    case("caption", "{plain.png}", "-o", "{closed}/x.jsonl", says="may not be written"),
    case("caption", "{plain.png}", "--max-new-tokens", "0", says="at least 1"),
    case("caption", "{plain.png}", "-C", "{plain.png}", says="does not say how it was made"),
    case("replay", "missing.jsonl", says="no such file"),
]

# A picture that is there and may not be looked at.
SECRET = [
    case("edit", "{secret.png}", "a hat", says="may not be read"),
    case("generate", "a fox", "--continue", "{secret.png}", says="may not be read"),
    case("story", "a fox", "--image", "{secret.png}", says="may not be read"),
    case("caption", "{secret.png}", says="may not be read"),
    case("info", "{secret.png}", says="may not be read"),
    case("replay", "{secret.png}", says="may not be read"),
]

PLACES = [
    case("generate", "a fox", *words, says=says)
    for words, says in [
        (("-o", "{precious}"), "already"),
        (("-o", "{folder}"), None),
        (("-o", "{file}/x.png"), "a file is in the way"),
        (("-o", "{closed}/x.png"), "may not be written"),
        (("-o", "out.gif"), "written as PNG"),
        (("-o", "out.tar.gz"), "written as PNG"),
        (("-o", "{sed}.png"), "is unknown"),
        (("-o", "{}.png"), "is unknown"),
        (("-o", "{.png"), "does not read"),
        (("-o", "{prompt.__class__}.png"), "is unknown"),
        (("-o", "{seed:99999}.png"), "longer than"),
        (("-o", "x" * 300 + ".png"), "longer than"),
        (("-o", "é" * 200 + ".png"), "longer than"),
        (("-o", "x" * 250 + ".png"), None),
        (("-o", "-"), ANY),
        (("-o", ""), ANY),
        (("--grid", "{precious}"), "already"),
        (("--grid", "{folder}"), "this is a folder"),
        (("--grid", "{file}/x.png"), "a file is in the way"),
        (("-o", "out.png", "--grid", "out.png"), "same file"),
        (("-o", "out.png", "--metadata", "--grid", "out.json"), "same file"),
    ]
]

RESULTS = [
    case("generate", "a fox", "-o", "a\x00b.png", says="cannot hold the character NUL"),
    case("replay", "missing.png", says="no such picture"),
    case("replay", "{folder}", says="no such file"),
    case("replay", "{precious}", says="cannot read the picture"),
    case("info", "missing.png", says="no such picture"),
    case("info", "missing.json", says="no such file"),
    case("info", "{folder}", says="no checkpoint"),
    case("plan", "missing", says="there is no recipe"),
    case("plan", "generate", "--memory", "-1", says="memory", code=2),
]

PICTURES = [
    case(*words, says=says)
    for says, names in ((None, GOOD), (ANY, BROKEN))
    for name in names
    for words in (
        ("edit", f"{{{name}}}", "a red fox", "-o", "out.png"),
        ("generate", "a fox", "--continue", f"{{{name}}}", "-o", "out.png"),
    )
]

CAPTIONS = [
    case("caption", f"{{{name}}}", "--max-new-tokens", "2", says=None if name in GOOD else ANY)
    for name in (*GOOD, *BROKEN)
]

CASES = [*PROMPTS, *NUMBERS, *OTHERS, *SECRET, *PLACES, *RESULTS, *PICTURES, *CAPTIONS]
