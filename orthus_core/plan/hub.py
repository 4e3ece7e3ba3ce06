"""The hub: which models are on this machine already, and whether it can be reached."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from orthus_core.checkpoint.hub import HUB_ALIASES


class Reach(NamedTuple):
    """What the hub answered about one model.

    answer: "yes", or why not, in words.
    reached: Whether anybody answered.
    """

    alias: str
    hub_id: str
    answer: str
    reached: bool = True


def cached() -> dict[str, bool]:
    """Whether each alias of a hub model is in the hub's cache here; asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    return {
        alias: isinstance(try_to_load_from_cache(hub_id, "config.json"), str)
        for alias, hub_id in HUB_ALIASES.items()
    }


def cache_folder() -> Path:
    """Where downloaded models lie."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def reach() -> list[Reach]:
    """Asks the hub about each model that has an alias; stops at the first that nobody answers."""
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
        # The transport's own errors are of many kinds, and all mean that nobody answered.
        except Exception as error:
            why = f"out of reach: {type(error).__name__}"
            found.append(Reach(alias, hub_id, why, reached=False))
            break
        found.append(Reach(alias, hub_id, answer))
    return found
