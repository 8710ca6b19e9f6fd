"""`model publish`: upload a model's folder to the Hugging Face hub."""

from collections.abc import Callable
from pathlib import Path

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from template.cli.model_flags import HubConfig
from template.commands.model_latest import model_folder
from template.errors import ConfigError, StoreError, Unavailable
from template.secret import REDACTED, Secret
from template.training.card import CARD_FILE, FACTS_FILE
from template.training.companions import COMPANIONS
from template.training.model_folder import INDEX_FILE, WEIGHTS
from template.training.published import CONFIG_FILE

Say = Callable[[str], None]
FILES = (
    CONFIG_FILE, INDEX_FILE, CARD_FILE, FACTS_FILE, *sorted(COMPANIONS), WEIGHTS,
)  # fmt: skip
"""All that is uploaded; whatever else lies in the folder stays there."""
REFUSED = (401, 403)


def run_publish(config: HubConfig, say: Say) -> str:
    """Upload the model; the address of the repository's page.

    ConfigError if the hub refuses the token, Unavailable if it does not answer. No message has the
    token.
    """
    with model_folder(config.source, say) as folder:
        return upload(folder, config)


def upload(folder: Path, config: HubConfig) -> str:
    """As `run_publish`, of a folder."""
    token = config.token.reveal() if config.token is not None else None
    api = HfApi(endpoint=config.endpoint, token=token)
    try:
        api.create_repo(config.repo, private=config.is_private, exist_ok=True)
        api.upload_folder(
            repo_id=config.repo,
            folder_path=folder,
            commit_message="Model of a Tessera run",
            allow_patterns=list(FILES),
            delete_patterns=WEIGHTS,
        )
    except HfHubHTTPError as error:
        raise _refused(error, config) from None
    except (OSError, ValueError, httpx2.HTTPError) as error:
        raise Unavailable(f"--hub {config.repo}: {hidden(error, config.token)}") from None
    return f"{api.endpoint}/{config.repo}"


def _refused(error: HfHubHTTPError, config: HubConfig) -> ConfigError | StoreError:
    words = hidden(error, config.token)
    status = error.response.status_code if error.response is not None else 0
    if status in REFUSED:
        return ConfigError(
            f"--hub {config.repo}: the hub refuses the token ({words}): set HF_TOKEN to one that "
            "may write to this repository, or `hf auth login`"
        )
    return Unavailable(f"--hub {config.repo}: the hub did not take the model ({words})")


def hidden(error: Exception, token: Secret | None) -> str:
    """An error's words without the token, whatever a library puts into them."""
    words = str(error)
    return words if token is None else words.replace(token.reveal(), REDACTED)
