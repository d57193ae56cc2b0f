"""Push: uploads an export to a model repository of the hub, in one commit.

Input: an export folder and the id of a repository. Output: the address of the commit.
Does not depend on: models, how an export was made.
"""

from __future__ import annotations

from pathlib import Path

from erc_llm.errors import RunError, UserError
from erc_llm.runs.exported import check_weights, read_record


def push(folder: Path, repository: str, *, force: bool = False, private: bool = False) -> str:
    """Upload an export; returns the address of the commit. The token is that of `hf auth login` or of HF_TOKEN.

    Args:
        folder: The export.
        repository: Id of the model repository, OWNER/NAME; it is created if it does not exist.
        force: Replace what the repository holds; its history stays.
        private: Create the repository as a private one.

    Raises:
        RunError: The folder is no complete export.
        UserError: The repository holds files and `force` is False, the id is wrong, or the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    record = read_record(folder)
    if record is None:
        raise RunError(f"{folder}: is no export; `erc-llm export RUN` makes one")
    check_weights(folder, record)
    api = HfApi()
    try:
        there = set(api.list_repo_files(repository)) - {".gitattributes"} if api.repo_exists(repository) else set()
        if there and not force:
            raise UserError(
                f"{repository}: holds {len(there)} files already, such as {min(there)}; add --force to replace them, "
                "or choose another repository"
            )
        api.create_repo(repository, private=private, exist_ok=True)
        files = {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}
        added = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        removed = [CommitOperationDelete(name) for name in sorted(there - files.keys())]
        done = api.create_commit(repository, [*added, *removed], commit_message=f"Upload {folder.name} ({record.form})")
    except (HfHubHTTPError, HFValidationError, OSError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UserError(
            f"{repository}: the hub at {api.endpoint} did not take it: {reason}. Log in with `hf auth login`, with a "
            "token that may write there; nothing was changed"
        ) from error
    return str(done.commit_url)
