"""The model of a finished localnet run, fetched as any stranger fetches it.

`tessera model latest` does the work: chain and buckets alone are read, and votes prove the
checkpoint.
"""

from collections.abc import Callable
from pathlib import Path

from localnet.onchain import NETUID
from template.cli.model_flags import RunSource
from template.commands.model_latest import MODEL_FOLDER, fetch_into
from template.protocol.spec import RunSpec
from template.settings import ChainConfig
from template.training.card import Facts


def fetch_model(
    spec: RunSpec, endpoint: str, out: Path, say: Callable[[str], None]
) -> Facts | None:
    """Write the newest published checkpoint into `out`/model; None for a run too short for one.

    The loss is measured on the pages of the validators' loss curve. Raises as `model latest`.
    """
    if spec.schedule.num_windows < spec.checkpoint.every_windows:
        return None
    source = RunSource(
        run=out / "run.toml",
        spec=spec,
        chain=ChainConfig(network=endpoint, netuid=NETUID),
        loss_pages=spec.evaluation.curve_pages,
        device="cpu",
    )
    return fetch_into(source, out / MODEL_FOLDER, say)
