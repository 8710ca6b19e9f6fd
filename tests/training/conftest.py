"""The smallest run that has all parts: one Llama layer, pages of 16 tokens."""

import dataclasses

import pytest

from simulation.swarm import small_plan, synthetic_corpus
from simulation.world import hotkey_of
from template.commands.plan import RunChoices, prepare_run
from template.protocol.payload import PayloadFormat
from template.protocol.spec import RunSpec
from template.training.model import Params, initial_params, tensor_shapes
from template.training.outer import OuterState, first_state, state_digest


@pytest.fixture(scope="session")
def spec() -> RunSpec:
    plan = small_plan(model__hidden_size=16, model__intermediate_size=24, data__page_tokens=16)
    choices = RunChoices(owner_hotkey=hotkey_of("owner"), start_block=16)
    return prepare_run(plan, synthetic_corpus(20_000), choices).spec


@pytest.fixture(scope="session")
def other_spec(spec: RunSpec) -> RunSpec:
    return dataclasses.replace(spec, name="another run")


@pytest.fixture(scope="session")
def theta0(spec: RunSpec) -> Params:
    return initial_params(spec, seed=3)


@pytest.fixture(scope="session")
def form(spec: RunSpec) -> PayloadFormat:
    return PayloadFormat(
        run_id=spec.run_id, shapes=tensor_shapes(spec), top_k=spec.compression.top_k
    )


@pytest.fixture
def state(theta0: Params, spec: RunSpec) -> OuterState:
    """A state with something in every field, as it stands where a checkpoint is published."""
    norms = {name: 0.1 + i / 3 for i, name in enumerate(theta0)}
    state = dataclasses.replace(
        first_state(theta0, spec.run_id),
        window=8,
        accepted_norms=((5, (norms, dict.fromkeys(norms, 1e-7))), (7, (norms,))),
        reference_rao=2**62,
    )
    return dataclasses.replace(state, checkpoint_digest=state_digest(state))
