"""Tables that depend on no input are equal or wrong, to the last bit."""

from __future__ import annotations

import torch
from fastvideo_port.parity.tables import first_difference, table_names

SIGMAS = torch.linspace(1, 0, 5, dtype=torch.float64)


def test_an_output_that_no_input_moves_is_a_table() -> None:
    base = {"sigmas": SIGMAS, "latents": torch.ones(3)}
    moved = {"sigmas": SIGMAS.clone(), "latents": torch.full((3,), 2.0)}
    assert table_names(base, [moved]) == ["sigmas"]


def test_where_nothing_moves_or_nothing_was_perturbed_there_is_no_table() -> None:
    base = {"sigmas": SIGMAS, "latents": torch.ones(3)}
    assert table_names(base, []) == []
    assert table_names(base, [base]) == []


def test_one_bit_is_a_difference_and_its_place_is_named() -> None:
    other = SIGMAS.float().clone()
    other[3] = torch.nextafter(other[3], torch.tensor(1.0))
    text = first_difference(other, SIGMAS.float())
    assert text is not None and "1 of 5 entries differ, first at index 3" in text and "0.25" in text


def test_equal_tables_of_two_dtypes_do_not_differ_and_shapes_are_somebody_elses_matter() -> None:
    assert first_difference(SIGMAS.float(), SIGMAS) is None
    assert first_difference(SIGMAS[:3], SIGMAS) is None
    assert first_difference(torch.tensor([1, 2]), torch.tensor([1, 3])) is not None


def test_a_table_in_half_precision_or_cut_to_integers_differs() -> None:
    """The official values are not first cut down to what the port can hold."""
    fine = torch.tensor([999.0, 833.3, 500.5])
    assert first_difference(fine.bfloat16(), fine) is not None
    assert first_difference(fine.long(), fine) is not None
    assert first_difference(torch.tensor([999, 500]), torch.tensor([999.0, 500.0])) is None
    assert first_difference(fine.double() + 1e-9, fine) is None
