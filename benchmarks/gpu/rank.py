"""The one rank of `benchmarks.gpu.ranks`.

    torchrun --standalone --nproc-per-node 1 -m benchmarks.gpu.rank 150m cuda <folder>

Model and moments by FSDP2; theta and error feedback on the device, as with
`--neuron.offload device`. Prints a JSON line.
"""

import json
import math
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from benchmarks.gpu.training import COMPARED_PAGES, WINDOW
from benchmarks.gpu.world import HEADER, SIZES, World, with_batch
from template.base.feedback import RETURNED_SHARE, ErrorFeedback
from template.protocol.payload import decode_payload
from template.ranks.crew import Crew, Duties
from template.ranks.group import Group
from template.settings import Place
from template.training.options import InnerOptions
from template.training.outer import apply_updates
from template.training.spread import digest_of

STEPS, FACTOR = 2, 0.1
STALL_LIMIT_S = 120.0


def main(size: str, kind: str, folder: Path) -> None:
    """A window of a miner."""
    world, group = World(SIZES[size]), Group(Place())
    device = torch.device(kind, 0) if kind != "cpu" else torch.device(kind)
    group.connect(kind, FileStore(str(folder / "meeting"), 1), STALL_LIMIT_S)
    spec = with_batch(world.spec, COMPARED_PAGES)
    duties = Duties(
        spec=spec,
        form=world.form,
        device=device,
        options=InnerOptions(micro_batch=2),
        keeps_on_device=True,
    )
    crew = Crew(group, duties)
    found = work(crew, world)
    found["library"] = dist.get_backend_config()
    crew.end()
    dist.destroy_process_group()
    sys.stdout.write(json.dumps(found) + "\n")


def work(crew: Crew, world: World) -> dict[str, object]:
    """Train, encode, step; each result beside that of one process on the host."""
    theta = crew.spreader.place(world.theta.items())
    batches = [world.pages(COMPARED_PAGES, seed) for seed in range(STEPS)]
    result = crew.trainer().train(theta, WINDOW, batches, lambda: False)
    delta = {name: result.pseudo_gradient[name].cpu() for name in world.form.shapes}
    decay = world.spec.compression.error_feedback_decay
    frame = crew.feedback(decay, {}, RETURNED_SHARE).encode(HEADER, result.pseudo_gradient)
    alone = ErrorFeedback(world.form, decay, {}).encode(HEADER, delta)
    payload = decode_payload(frame, world.form)
    updates = [(payload, dict.fromkeys(world.form.shapes, FACTOR))]
    digests = [digest_of(apply_updates(start, updates)) for start in (theta, world.theta)]
    speed = result.speed
    return {
        "loss": result.mean_loss,
        "loss_is_finite": math.isfinite(result.mean_loss),
        "frame_is_equal": frame == alone,
        "digest_is_equal": digests[0] == digests[1],
        "tokens_per_s": speed.tokens_per_s if speed else None,
        "peak_bytes": speed.peak_bytes if speed else None,
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
