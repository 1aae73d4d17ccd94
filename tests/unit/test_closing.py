"""How a connection ends: the codes, their meanings, and what the default does about each."""

import pytest

from resilient_ws.api.close_codes import (
    CLOSE_CODES,
    CloseCode,
    CloseOrigin,
    CloseRule,
    check_close,
    describe,
    rule_for,
)

RULES = {
    CloseRule.RETRY: (1000, 1001, 1005, 1006, 1011, 1012, 1014, 3000, 3999, 4000, 4321, 4999),
    CloseRule.RETRY_SLOW: (1013,),
    CloseRule.RETRY_UNLESS_REPEATED: (1002, 1007, 1009, 1004, 1015, 1016, 2999, 0, -1, 999, 5000, 65535),
    CloseRule.STOP_IF_REJECTED: (1003, 1008, 1010),
}


@pytest.mark.parametrize("rule,code", [(rule, code) for rule, codes in RULES.items() for code in codes])
def test_each_code_has_its_default(rule, code):
    assert rule_for(code) is rule


def test_every_code_of_the_registry_is_described():
    assert set(CLOSE_CODES) == set(CloseCode) == set(range(1000, 1016))
    for code in CloseCode:
        facts = CLOSE_CODES[code]
        assert code.meaning == facts.meaning
        assert code.meaning.endswith(".")
        assert code.sender == facts.sender
        assert code.sender in {"either", "server", "client", "nobody"}
        assert code.default is facts.rule is rule_for(code)


def test_codes_that_must_not_be_sent_have_no_sender():
    nobody = {code for code in CloseCode if code.sender == "nobody"}
    assert nobody == {1004, 1005, 1006, 1015}  # RFC 6455 7.4.1


def test_a_code_is_an_int():
    assert CloseCode.GOING_AWAY == 1001
    assert CloseCode(1001) is CloseCode.GOING_AWAY


@pytest.mark.parametrize(
    "code,text",
    [
        (1001, "1001 Going Away"),
        (CloseCode.ABNORMAL_CLOSURE, "1006 Abnormal Closure"),
        (3000, "3000 registered code"),
        (3999, "3999 registered code"),
        (4000, "4000 application code"),
        (4999, "4999 application code"),
        (2999, "2999 undefined code"),
        (5000, "5000 undefined code"),
    ],
)
def test_a_code_is_described_with_its_name(code, text):
    assert describe(code) == text


def test_the_origins():
    assert [origin.value for origin in CloseOrigin] == [
        "peer",
        "local",
        "network",
        "heartbeat",
        "protocol",
        "setup",
    ]


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999, CloseCode.NORMAL_CLOSURE])
def test_codes_for_applications_may_be_sent(code):
    checked, reason = check_close(code, "bye")
    assert (checked, type(checked), reason) == (code, int, "bye")


@pytest.mark.parametrize("code", [0, 999, 1002, 1005, 1006, 1009, 1015, 2999, 5000, -1])
def test_other_codes_may_not_be_sent(code):
    with pytest.raises(ValueError, match=rf"code must be 1000, 1001 or 3000-4999, got {code}$"):
        check_close(code, "")


@pytest.mark.parametrize(
    "code,name", [(None, "NoneType"), ("1000", "str"), (1000.0, "float"), (True, "bool")]
)
def test_a_code_is_a_whole_number(code, name):
    with pytest.raises(TypeError, match=f"code must be an int, got {name}"):
        check_close(code, "")


def test_a_reason_is_text():
    with pytest.raises(TypeError, match="reason must be a str, got bytes"):
        check_close(1000, b"")


def test_a_reason_fits_a_control_frame():
    assert check_close(1000, "é" * 61 + "x") == (1000, "é" * 61 + "x")
    with pytest.raises(ValueError, match="reason must be at most 123 bytes of UTF-8, got 124"):
        check_close(1000, "é" * 62)


def test_a_reason_can_be_encoded():
    with pytest.raises(ValueError, match="reason must be encodable as UTF-8"):
        check_close(1000, "\udcff")
