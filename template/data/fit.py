"""Whether a dataset is large enough for a run spec, and small enough to be joined."""

from template.data.assignment import Paging, max_barred_segments
from template.data.manifest import MAX_MANIFEST_BYTES, Manifest, manifest_bytes
from template.errors import ConfigError
from template.protocol.spec import RunSpec


def check_dataset(manifest: Manifest, spec: RunSpec, max_hotkeys: int) -> None:
    """ConfigError for a run without a way to join, or a text too small for the plan.

    The pages assigned for one window must leave enough held-out pages: those of `max_hotkeys`
    hotkeys at width 1, and those of one hotkey at `training.max_width`. Of a crowd with wide
    payloads the draw bars as many lists, and as long fronts of them, as the text bears.
    """
    num_bytes = len(manifest_bytes(manifest))
    if num_bytes > MAX_MANIFEST_BYTES:
        raise ConfigError(
            f"the text makes {len(manifest.shards)} shards and a manifest of {num_bytes} bytes, "
            f"over {MAX_MANIFEST_BYTES}: prepare the dataset with longer shards"
        )
    held_out_pages = manifest.num_held_out_pages
    if spec.evaluation.curve_pages > held_out_pages:
        raise ConfigError(
            f"run spec: evaluation.curve_pages is {spec.evaluation.curve_pages}, the text holds "
            f"out {held_out_pages} pages: take at most so many"
        )
    pages_per_window, count = spec.training.pages_per_window, spec.evaluation.held_out_pages
    paging = paging_of(manifest)
    most = max_barred_segments(count, paging)
    assigned = max_hotkeys * paging.segments_for(pages_per_window)
    if assigned > most:
        raise ConfigError(
            f"run spec: training.inner_steps x training.batch_pages is {pages_per_window}: "
            f"{max_hotkeys} hotkeys train on up to {assigned} segments of {paging.segment_pages} "
            f"pages a window, and evaluation.held_out_pages ({count}) are drawn from the rest and "
            f"from half of the text at least, so the text of {manifest.num_pages} pages bears "
            f"{max(0, most)}: take a larger text, shorter data.page_tokens, or fewer inner_steps "
            "or batch_pages"
        )
    widest = paging.segments_for(spec.training.most_pages)
    if widest > most:
        bears = most * paging.segment_pages // pages_per_window
        raise ConfigError(
            f"run spec: training.max_width is {spec.training.max_width}: a payload so wide trains "
            f"on up to {widest} segments of {paging.segment_pages} pages, and "
            f"evaluation.held_out_pages ({count}) are drawn from the rest and from half of the "
            f"text at least, so the text of {manifest.num_pages} pages bears {most}: take "
            f"a larger text, or a max_width of at most {bears}"
        )


def paging_of(manifest: Manifest) -> Paging:
    """The train text in segments, as the draw of pages counts them."""
    return Paging(num_segments=manifest.num_segments, segment_pages=manifest.segment_pages)
