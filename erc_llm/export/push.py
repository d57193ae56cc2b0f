"""Push: uploads an export to a model repository of the hub, in one commit.

Input: an export folder and the id of a repository. Output: the address of the commit.
Does not depend on: models, how an export was made.
"""

from __future__ import annotations

from pathlib import Path

from erc_llm.errors import RunError, UserError
from erc_llm.runs.exported import check_weights, export_files, read_record


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

    record = read_record(folder)
    if record is None:
        raise RunError(f"{folder}: is no export; `erc-llm export RUN` makes one")
    check_weights(folder, record)
    api = HfApi()
    try:
        found = api.model_info(repository) if api.repo_exists(repository) else None
        there = {file.rfilename for file in (found and found.siblings) or ()} - {".gitattributes"}
        if there and not force:
            raise UserError(
                f"{repository}: holds {len(there)} files already, such as {min(there)}; add --force to replace them, "
                "or choose another repository"
            )
        if private and found is not None and not found.private:
            raise UserError(
                f"{repository}: exists, and everybody can read it; make it private on the hub, or leave --private out"
            )
        api.create_repo(repository, private=private, exist_ok=True)
        files = {path.name: path for path in export_files(folder, record)}
        added = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
        removed = [CommitOperationDelete(name) for name in sorted(there - files.keys())]
        done = api.create_commit(
            repository,
            [*added, *removed],
            commit_message=f"Upload {folder.name} ({record.form})",
            parent_commit=None if found is None else found.sha,  # refused if somebody else has written meanwhile
        )
    except UserError:
        raise
    except Exception as error:  # the hub client also raises the errors of the HTTP library that it uses
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise UserError(
            f"{repository}: the hub at {api.endpoint} did not take it: {reason}. Log in with `hf auth login`, with a "
            "token that may write there; no file was changed"
        ) from error
    return str(done.commit_url)
