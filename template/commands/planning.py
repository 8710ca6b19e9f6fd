"""`tessera plan`: the planner's answer as tables, as one JSON object, and as a picture.

The plan of `template.commands.plan` is something else: the owner's file that becomes a run spec.
"""

from dataclasses import replace

from rich.console import Console

from template.cli.plan_flags import PlanConfig
from template.cli.terminal import complain, say_json
from template.commands.planning_table import render
from template.errors import EXIT_ENDED, EXIT_OPERATOR, ConfigError
from template.files import reason, remedy
from template.planning.case import Case
from template.planning.outlook import Outlook, best_cut, look_ahead, to_json
from template.planning.ranges import parts_of

WIDTH_CHARS = 100


def case_of(config: PlanConfig) -> Case:
    """The question that the flags ask; ConfigError for more parts than the model bears."""
    case = Case(
        spec=config.spec,
        machine=config.machine,
        line=config.line,
        peers=config.peers,
        validators=config.validators,
        block_s=config.block_s,
        frozen=config.frozen,
    )
    if config.parts is None:
        return best_cut(case) or case
    try:
        parts_of(case.spec, config.parts)
    except ValueError as error:
        raise ConfigError(f"--parts {config.parts}: {error}") from error
    return replace(case, parts=config.parts)


def run_planning(config: PlanConfig) -> int:
    """Print the answer; the exit status.

    2 if the miner's model does not fit, the dataset is too long, or the picture has no place.
    """
    try:
        outlook = look_ahead(case_of(config), config.dataset_tokens)
    except ConfigError as error:
        complain(f"plan: {error}")
        return EXIT_OPERATOR
    if config.is_json:
        say_json(to_json(outlook))
    else:
        console = Console(width=WIDTH_CHARS, highlight=False)
        for part in render(outlook):
            console.print(part)
    try:
        _draw(outlook, config)
    except ConfigError as error:
        complain(f"plan: {error}")
        return EXIT_OPERATOR
    if not outlook.fits:
        complain(f"plan: {outlook.faults[0]}")
        return EXIT_OPERATOR
    return EXIT_ENDED


def _draw(outlook: Outlook, config: PlanConfig) -> None:
    if config.picture is None:
        return
    # matplotlib takes a second to load, and only a picture needs it.
    from template.commands.planning_picture import draw

    try:
        draw(outlook, config.picture)
    except IsADirectoryError as error:
        raise ConfigError(
            f"--picture {config.picture}: cannot be written ({reason(error)}); name a file in it"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"--picture {config.picture}: cannot be written ({reason(error)}); "
            f"{remedy(config.picture, error)}"
        ) from error
