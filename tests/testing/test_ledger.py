import pytest

from resilient_ws.testing import leading_number, numbered, report_messages, report_numbers


@pytest.mark.parametrize("message,number", [("12", 12), ("7 ....", 7), (b" 3x", 3), ("x3", None), ("", None)])
def test_the_number_of_a_message_is_the_one_it_begins_with(message, number):
    assert leading_number(message) == number


def test_a_numbered_message_has_at_least_the_size_asked_for():
    assert numbered(5) == "5"
    assert numbered(5, 6) == "5 ...."
    assert numbered(123456, 3) == "123456"
    assert leading_number(numbered(42, 100)) == 42


def test_a_sequence_that_came_whole_is_ok():
    report = report_numbers(range(5), 5)
    assert report.ok
    assert str(report) == "5 numbered messages, 5 different; lost 0; duplicated 0; reordered 0; unexpected 0"


def test_loss_duplicates_and_reordering_are_told_apart():
    report = report_numbers([0, 1, 3, 2, 1, 9, None], 6)
    assert not report.ok
    assert report.lost == (4, 5)
    assert report.duplicated == (1,)
    assert report.reordered == (2,)
    assert report.unexpected == (9,)
    assert (report.total, report.unique, report.unnumbered) == (6, 5, 1)
    assert "lost 2 (4, 5); duplicated 1 (1)" in str(report)


def test_a_repetition_is_no_reordering():
    assert report_numbers([0, 1, 2, 0, 1, 2, 3]).reordered == ()


def test_without_an_expectation_only_gaps_count_as_lost():
    assert report_numbers([5, 7]).lost == (6,)
    assert report_numbers([]).ok


def test_expected_numbers_may_be_named():
    assert report_numbers([2, 4], [2, 4, 6]).lost == (6,)


def test_a_long_list_is_cut_in_the_text():
    assert "lost 20 (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)" in str(report_numbers([20], 21))


def test_messages_are_counted_by_a_function_of_ones_own():
    assert report_messages(["a=0", "a=1"], 2, lambda message: int(str(message)[2:])).ok
