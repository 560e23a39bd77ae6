"""Which connections a model server keeps: a crowd without the token must keep no device out."""

from __future__ import annotations

from agents.models.lan.admission import MAX_SHOWN, MAX_UNSHOWN, MAX_UNSHOWN_PER_ADDRESS, SHOW_S, Admission


def test_the_oldest_of_a_crowded_address_makes_room() -> None:
    admission: Admission[int] = Admission()
    assert admission.accept(-1, "device", 0.0) is None
    for number in range(MAX_UNSHOWN_PER_ADDRESS):
        assert admission.accept(number, "stranger", 0.0) is None
    assert [admission.accept(100 + number, "stranger", 0.0) for number in range(3)] == [0, 1, 2]
    assert not admission.show(0)
    assert admission.show(-1)


def test_of_a_full_server_the_address_of_the_most_makes_room() -> None:
    admission: Admission[int] = Admission()
    assert admission.accept(-1, "device", 0.0) is None
    for number in range(MAX_UNSHOWN - 1):
        assert admission.accept(number, f"stranger {number // MAX_UNSHOWN_PER_ADDRESS}", 0.0) is None
    assert admission.accept(100, "another device", 0.0) == 0
    assert admission.show(-1) and admission.show(100)


def test_who_has_shown_the_token_is_bounded_apart() -> None:
    admission: Admission[int] = Admission()
    for number in range(MAX_SHOWN):
        assert admission.accept(number, "device", 0.0) is None
        assert admission.show(number)
    assert admission.accept(100, "device", 0.0) is None
    assert not admission.show(100)
    admission.remove(0)
    assert admission.accept(101, "device", 0.0) is None
    assert admission.show(101)


def test_who_shows_none_in_time_is_closed_once() -> None:
    admission: Admission[int] = Admission()
    admission.accept(1, "a", 0.0)
    admission.accept(2, "a", 1.0)
    admission.accept(3, "a", 0.0)
    assert admission.show(3)
    assert admission.overdue(SHOW_S - 0.1) == ()
    assert admission.overdue(SHOW_S) == (1,)
    assert admission.overdue(SHOW_S) == ()
    assert not admission.show(1)
    admission.remove(2)
    assert admission.overdue(100.0) == ()
