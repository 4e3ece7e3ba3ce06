"""Resolve a model name: a folder, an alias, or an id on the Hugging Face hub.

Nothing is downloaded unless the name is a hub id or an alias of one.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from orthus_core.errors import CheckpointError, HubError
from orthus_core.user_files import user_path


class Reach(NamedTuple):
    """The hub's response for one model.

    Attributes:
        answer: "yes", or the reason why not.
        reached: Whether the hub responded.
    """

    alias: str
    hub_id: str
    answer: str
    reached: bool = True


def cached() -> dict[str, bool]:
    """Whether each alias of a hub model is in the local hub cache; uses no network."""
    from huggingface_hub import try_to_load_from_cache

    return {
        alias: isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
        for alias, hub_id in HUB_ALIASES.items()
    }


def cache_folder() -> Path:
    """Folder of the downloaded models."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def reach() -> list[Reach]:
    """Query the hub for each model that has an alias; stop at the first without a response."""
    from huggingface_hub import HfApi, errors

    api, found = HfApi(), []
    for alias, hub_id in HUB_ALIASES.items():
        try:
            api.auth_check(hub_id)
            answer = "yes"
        except errors.GatedRepoError:
            answer = "gated: accept its terms on its page, then `hf auth login`"
        except errors.RepositoryNotFoundError:
            answer = "not there, or private: `hf auth login`"
        # The transport raises many kinds of errors; all of them mean that there was no response.
        except Exception as error:
            why = f"out of reach: {type(error).__name__}"
            found.append(Reach(alias, hub_id, why, reached=False))
            break
        found.append(Reach(alias, hub_id, answer))
    return found


HUB_ALIASES = {
    "base": "SJTU-Deng-Lab/Orthus-7B-base",
    "instruct": "SJTU-Deng-Lab/Orthus-7B-instruct",
    "chameleon-7b": "facebook/chameleon-7b",
    "anole-7b": "leloykun/Anole-7b-v0.1-hf",
}
BUNDLED = ("mini", "mini-fast", "chameleon-mini")
DIFFERENCES = "differences-*.safetensors"
"""The weights of a bundled model that is stored as what differs from the first one."""

_STARTER = Path(__file__).parents[1] / "starter"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Weights, configuration, tokenizer and licence in any supported layout. Pickled `.bin` copies of
# safetensors are not downloaded.
_WANTED = ("*.json", "*.jinja", "*.model", "*.txt", "*.safetensors", "*.pth", "*.ckpt", "*.yaml")
_TERMS = ("LICENSE*", "USE_POLICY*", "NOTICE*")


def resolve(source: str | Path) -> Path:
    """Resolve a name to a folder. An existing folder takes precedence over an alias, and an alias
    over a hub id.

    Args:
        source: A folder, an alias (`mini`, `mini-fast`, `chameleon-mini`, `base`, `instruct`,
            `chameleon-7b`, `anole-7b`), or a hub id such as `facebook/chameleon-7b`, which is
            downloaded unless the hub's cache has it.

    Raises:
        CheckpointError: When the name is none of these.
        HubError: When the hub is unreachable, has no such model, or requires its terms to be
            accepted.
    """
    name = str(source)
    if not name.strip():
        raise CheckpointError(
            "the model's name is empty", hint="`.` is the folder you are in, `mini` is bundled"
        )
    path = user_path(source)
    if path.is_dir():
        return path
    if name in BUNDLED:
        return _bundled(name)
    if path.is_file():
        raise CheckpointError(
            "this is a file, and a model is a folder",
            where=name,
            hint="give the folder that holds config.json",
        )
    if name in HUB_ALIASES:
        return _download(HUB_ALIASES[name])
    if _HUB_ID.fullmatch(name) and not name.startswith("."):
        return _download(name)
    known = [*BUNDLED, *HUB_ALIASES]
    close = difflib.get_close_matches(name, known, n=1)
    raise CheckpointError(
        f"there is no model {name!r}" + (f", did you mean {close[0]!r}?" if close else ""),
        hint=f"give a folder that exists, a hub id (owner/name), or one of {', '.join(known)}",
    )


def is_here(source: str | Path) -> bool:
    """Whether a name means a local folder or a bundled model, which `resolve` opens without the
    network.
    """
    return user_path(source).is_dir() or str(source) in BUNDLED


def _bundled(name: str) -> Path:
    folder = _STARTER / name
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"this installation came without the model {name!r}",
            where=str(folder),
            hint="install the package again, or name another model with --model",
        )
    if not any(folder.glob(DIFFERENCES)):
        return folder
    from orthus_core.checkpoint.differences import whole_of

    return whole_of(folder, _bundled(BUNDLED[0]))


def _download(hub_id: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    address = f"https://huggingface.co/{hub_id}"
    try:
        return Path(snapshot_download(hub_id, allow_patterns=[*_WANTED, *_TERMS]))
    except errors.GatedRepoError as error:
        raise HubError(
            f"{hub_id} is gated: its terms have to be accepted before it can be downloaded",
            where=address,
            hint="accept them there while logged in, then run `hf auth login` here and try again",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise HubError(
            f"there is no folder {hub_id} here, and no public model of that name on the hub",
            where=address,
            hint="check the spelling; for a private model run `hf auth login` first",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise HubError(
            f"{hub_id} is not on this machine, and the hub cannot be reached",
            where=address,
            hint=f"where there is a connection run `hf download {hub_id} --local-dir FOLDER`, "
            "bring that folder here and give its path",
        ) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise HubError(
            f"the hub did not give {hub_id}: {reason[0]}",
            where=address,
            hint="try again later, or give a folder",
        ) from error
