"""Streams that take no output, or only some letters: the work is done, and what is lost is said."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from orthus_cli.app import app
from orthus_cli.prompts import as_text, read_prompts
from orthus_core.errors import PromptError
from orthus_core.shell_words import shell_quoted

ROOT = Path(__file__).parents[2]


def orthus(*words: object, charset: str = "utf-8", stdin: bytes | None = None):
    runner = CliRunner(charset=charset)
    return runner.invoke(app, [str(word) for word in words], input=stdin, prog_name="orthus")


@pytest.fixture
def snow(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A picture whose prompt has letters that few encodings have."""
    monkeypatch.chdir(tmp_path)
    model = ["--model", tiny_folder, "--device", "cpu"]
    done = orthus("generate", "雪 it's snow", "--seed", 1, "--steps", 1, "-o", "snow.png", *model)
    assert done.exit_code == 0, done.output
    return tmp_path / "snow.png"


def in_a_shell(line: str, folder: Path, shell: str = "bash") -> subprocess.CompletedProcess[bytes]:
    """Runs a line in which `orthus` is this tree's."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable}
    function = 'orthus() { "$PYTHON" -m orthus_cli "$@"; }; '
    return subprocess.run(
        [shell, "-c", function + line], cwd=folder, env=environment, capture_output=True
    )


@pytest.mark.parametrize("charset", ["cp1252", "ascii", "shift_jis"])
def test_a_command_that_an_encoding_cannot_hold_reads_the_picture_instead(snow, charset) -> None:
    told = orthus("info", snow.name, "--format", "quiet", charset=charset)
    command = told.stdout_bytes.decode("ascii")
    assert command.startswith("orthus generate -C snow.png -m ")
    full = orthus("info", snow.name, charset=charset)
    assert "printed as ?" in full.stderr or charset == "shift_jis"
    assert "orthus generate '雪 it'\"'\"'s snow'" in orthus("info", snow.name).stdout
    import shlex

    again = orthus(*shlex.split(command)[1:], "-o", "again.png")
    assert again.exit_code == 0 and orthus("replay", "again.png").exit_code == 0
    assert "雪 it's snow" in orthus("info", "again.png").stdout


def test_a_file_name_that_an_encoding_cannot_hold_is_escaped(snow) -> None:
    other = snow.with_name("雪!.png")
    snow.rename(other)
    command = orthus("info", other.name, "--format", "quiet", charset="cp1252").stdout
    assert r"""-C "$(printf %b '\0351\0233\0252\0041.png')" """ in command


@pytest.mark.parametrize("shell", ["bash", "dash"])
@pytest.mark.parametrize(
    "word",
    [
        "a 'b' \"c\" $HOME `ls` !! %d \\n",
        "two\nlines\n\n",
        "\t\x1b[31m雪",
        "-n",
        "caf\udce9",
        "50%\x07",
    ],
)
def test_quoted_words_come_back_from_a_shell_byte_by_byte(word, shell) -> None:
    line = "printf '%s' " + shell_quoted([word], "ascii")
    try:
        done = subprocess.run([shell, "-c", line], capture_output=True, check=True)
    except FileNotFoundError:
        pytest.skip(f"{shell} is not installed")
    assert done.stdout == os.fsencode(word)
    assert line.isascii() and all(char.isprintable() or char == "\n" for char in line)


# The next file must not get the number of a closed stream: what is said aside would land in it.
OCCUPIED = (
    "import sys; from orthus_cli.streams import occupy_closed; occupy_closed(); "
    "sys.stderr.write('x'); assert open(sys.executable, 'rb').fileno() > 2"
)


def test_streams_that_take_nothing_are_said_and_no_traceback_shows(tmp_path) -> None:
    # One shell, because each start of Python takes a moment; nothing here imports torch.
    lines = {
        "full": "orthus recipes ls >/dev/full",
        "closed": "orthus recipes ls >&-",
        "no stderr": "orthus recipes ls 2>&- >list.txt",
        "usage, full": "orthus nonsense 2>/dev/full",
        "usage, closed": "orthus nonsense 2>&-",
        "version": "orthus --version >/dev/full",
        "help": "orthus --help >/dev/full",
        "pipe": "(sleep 1; orthus recipes keys generate; echo $? >&2) | true",
        "occupied": f'"$PYTHON" -c "{OCCUPIED}" <&- 2>&-',
    }
    ran = "; ".join(f"echo '[{name}]' >&2; {line}; echo $? >&2" for name, line in lines.items())
    done = in_a_shell(ran, tmp_path)
    said = dict(part.split("]", 1) for part in done.stderr.decode().split("[")[1:])
    assert "Traceback" not in done.stderr.decode() and "Exception" not in done.stderr.decode()
    for name in ("full", "closed", "version", "help"):
        assert "the result could not be printed" in said[name], (name, said)
        assert said[name].split()[-1] == "1", (name, said)
    assert said["no stderr"].split() == ["0"] and (tmp_path / "list.txt").stat().st_size
    assert said["usage, full"].split() == said["usage, closed"].split() == ["2"]
    assert said["pipe"].split() == ["1", "0"] and said["occupied"].split() == ["0"]


class Refusing(io.StringIO):
    """A stream on a full disk, or a pipe whose reader left."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize(
    ("stream", "number", "code"), [("stdout", 28, 1), ("stdout", 32, 1), ("stderr", 28, 0)]
)
def test_pictures_are_kept_whatever_a_stream_takes(
    tiny_folder, tmp_path, monkeypatch, stream, number, code
) -> None:
    monkeypatch.setattr(sys, stream, Refusing(number))
    words = ["generate", "a fox", "--steps", "1", "-m", str(tiny_folder), "--device", "cpu", "-n2"]
    with pytest.raises(SystemExit) as ended:
        app([*words, "-v", "-o", str(tmp_path / "{number}.png")], prog_name="orthus")
    assert ended.value.code == code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.png", "2.png"]


def test_a_recipe_goes_through_any_pipe_byte_by_byte(tmp_path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_bytes('# ein Schneemann 雪 é\r\ncommand = "generate"\r\n\r\n'.encode())
    for charset in ("utf-8", "cp1252", "ascii"):
        assert orthus("recipes", "cat", recipe, charset=charset).stdout_bytes == recipe.read_bytes()


def test_a_name_in_a_pipe_is_its_bytes(tmp_path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.toml"
    done = orthus("recipes", "cp", "generate", os.fsdecode(name), "--format", "quiet")
    if done.exit_code:
        pytest.skip("this file system takes UTF-8 names alone")
    assert done.stdout_bytes == name + b"\n"


def test_drawn_tables_fit_an_ascii_pipe() -> None:
    done = orthus("recipes", "ls", "--format", "human", charset="ascii")
    assert done.exit_code == 0 and "generate" in done.stdout and done.stdout.isascii()


@pytest.mark.parametrize(
    ("typed", "encoding", "prompts"),
    [
        (b"\xef\xbb\xbfa cat\r\n\r\na dog\r\n", "utf-8", ["a cat", "a dog"]),
        ("雪\n".encode(), "ascii", ["雪"]),
        (b"caf\xe9\n", "cp1252", ["café"]),
    ],
)
def test_prompts_are_read_from_standard_input(monkeypatch, typed, encoding, prompts) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed), encoding))
    assert read_prompts(["-"], None) == prompts


@pytest.mark.parametrize(
    ("typed", "message"),
    [(None, "is closed"), (b"", "holds no prompt"), (b"caf\xe9", "not UTF-8 text, from byte 3")],
)
def test_standard_input_without_prompts_is_named(monkeypatch, typed, message) -> None:
    stream = None if typed is None else io.TextIOWrapper(io.BytesIO(typed), "utf-8")
    monkeypatch.setattr(sys, "stdin", stream)
    for said, file in ((["-"], None), ([], Path("-"))):
        if typed:
            stream.seek(0)  # type: ignore[union-attr]
        with pytest.raises(PromptError, match=message):
            read_prompts(said, file)


def test_a_pipe_without_a_dash_is_pointed_at_and_a_terminal_is_told(
    monkeypatch, capsys, tmp_path
) -> None:
    reads, writes = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(reads))
    with pytest.raises(PromptError) as found:
        read_prompts([], None)
    assert "orthus generate -" in found.value.hint
    with pytest.raises(SystemExit):
        app(["story", "-o", str(tmp_path / "story")], prog_name="orthus")
    assert "orthus story -" in capsys.readouterr().err
    os.close(writes)
    terminal = SimpleNamespace(isatty=lambda: True, buffer=io.BytesIO(b"a fox\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", terminal)
    assert read_prompts(["-"], None) == ["a fox"]
    assert "from this terminal" in capsys.readouterr().err


def test_arguments_in_an_ascii_locale_are_text(monkeypatch) -> None:
    monkeypatch.setattr(os, "fsencode", lambda said: said.encode("ascii", "surrogateescape"))
    assert as_text("雪".encode().decode("ascii", "surrogateescape")) == "雪"
    with pytest.raises(PromptError, match="not UTF-8"):
        as_text("caf\udce9")
