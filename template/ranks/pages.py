"""Pages of a batch, handed out to the ranks."""

import numpy as np
import torch
from torch import Tensor

from template.ranks.group import Group


def share_pages(
    group: Group, counts: list[int], page_tokens: int, given: np.ndarray | None
) -> Tensor:
    """This rank's pages, int64; rank 0 is given all, and `counts` has the number of each rank."""
    if given is None:
        room = torch.empty((counts[group.rank], page_tokens), dtype=torch.int64)
        group.exchange([], [(0, room)])
        return room
    parts = torch.from_numpy(np.ascontiguousarray(given)).split(counts)
    group.exchange(list(enumerate(parts))[1:], [])
    return parts[0]
