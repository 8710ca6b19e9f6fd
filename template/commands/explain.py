"""`explain`: a hotkey's payslip of a window, from public objects alone."""

from template.chain.health import redact_endpoint
from template.cli.public_flags import ExplainConfig
from template.cli.terminal import complain, say, say_json
from template.commands.newcomer import existing_subnet
from template.commands.reading import check_window, follow_run
from template.context import ReadContext
from template.errors import EXIT_ENDED, EXIT_INTERRUPTED, SubnetError, Unavailable, exit_status
from template.public.gather import Gatherer
from template.public.payslip import payslip
from template.public.payslip_json import payslip_json
from template.public.payslip_text import payslip_lines
from template.public.statements import Commands, Payslip
from template.public.view import RunView


def run_explain(config: ExplainConfig) -> int:
    """Print a payslip; the exit status."""
    try:
        with follow_run(config.run, config.chain, config.spec) as context:
            existing_subnet(context.chain)
            slip = explain(context, config)
    except SubnetError as error:
        complain(f"explain: {error}")
        return exit_status(error)
    except KeyboardInterrupt:
        complain("explain: interrupted")
        return EXIT_INTERRUPTED
    if config.as_json:
        say_json(payslip_json(slip))
    else:
        for line in payslip_lines(slip):
            say(line)
    return EXIT_ENDED


def explain(context: ReadContext, config: ExplainConfig) -> Payslip:
    """The payslip by the chain and the buckets of a context.

    Unavailable before the votes on the run's first window are final.
    """
    network = redact_endpoint(config.chain.network)
    gatherer = Gatherer(context, netuid=config.chain.netuid, network=network)
    window = gatherer.last_counted() if config.window is None else config.window
    check_window(context.run, "--window", config.window)
    if window < 0:
        first = context.schedule.vote_block(0)
        raise Unavailable(
            f"no window has been voted on yet: the votes on window 0 count at block {first}"
        )
    facts = gatherer.read_for_payslip(window)
    commands = Commands(facts=facts, run_file=str(config.run))
    return payslip(RunView(facts), config.hotkey, window, commands)
