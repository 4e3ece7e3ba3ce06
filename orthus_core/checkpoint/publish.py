"""Upload a model to the Hugging Face hub with all that its page and its users need.

    orthus.push_to_hub("me/my-orthus", license="apache-2.0", private=True)

The upload is a folder as `save_model` writes it: weights, tokenizer and picture processor, the
module for `trust_remote_code`, and a card.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import ChameleonProcessor

from orthus_core.checkpoint.card import model_card
from orthus_core.checkpoint.model_folder import open_processor, save_model
from orthus_core.errors import HubError
from orthus_core.model.interleaved import InterleavedModel


def push_model(
    model: InterleavedModel,
    processor: ChameleonProcessor | None,
    repo_id: str,
    *,
    license: str = "other",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload an Orthus",
    max_shard_size: str = "5GB",
) -> str:
    """Create the repository unless it exists, and upload the model; returns the commit's address.

    Args:
        model: Model to upload.
        processor: Its tokenizer and picture processor; None takes those of the folder that the
            model was opened from, if it is still there.
        repo_id: Name on the hub, `owner/name`.
        license: Licence of the weights, as the hub spells it; "other" stands for the terms of the
            model that they were made from.
        private, token, revision, create_pr, commit_message: As for `huggingface_hub.HfApi`.
        max_shard_size: Size limit of a weight file.

    Raises:
        HubError: When the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi, errors

    opened_from = Path(model.name_or_path or "/nowhere")
    if processor is None and opened_from.is_dir():
        processor = open_processor(opened_from, model.config.image_token_id)
    with TemporaryDirectory() as place:
        name = repo_id.rpartition("/")[2]
        card = {"README.md": model_card(model.config, name, license=license, repo_id=repo_id)}
        folder = Path(place) / name
        save_model(model, processor, folder, texts=card, max_shard_size=max_shard_size)
        api = HfApi(token=token)
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            done = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise HubError(
                f"the hub did not take {repo_id}: {reason}",
                where=f"https://huggingface.co/{repo_id}",
                hint="log in with `hf auth login`, and name a repository that you may write to",
            ) from error
    return str(getattr(done, "commit_url", done))
