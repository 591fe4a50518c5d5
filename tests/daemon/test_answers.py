# SPDX-License-Identifier: GPL-2.0-or-later
"""What the server answers: paths, methods, content negotiation, validators, age."""

import gzip
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.daemon.answers import OPENMETRICS, TEXT, Answer, Answers, Request, accepts_gzip, prefers_openmetrics
from iommud.daemon.edition import Edition, Piece, gzipped
from iommud.daemon.publication import Board
from tests.daemon.serving import own_metrics, publication

TAKEN = publication().taken_at
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
FORMS = ("/", "/report.json", "/report.txt")


def answers(*, age: float = 12, board: Board | None = None) -> Answers:
    if board is None:
        board = Board()
        board.publish(publication())
    return Answers(board, own_metrics, stale_after=600, clock=lambda: TAKEN + age)


def get(path: str, *, age: float = 12, method: str = "GET", **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answers(age=age).answer(Request(method, path, named))


def head(answer: Answer) -> Mapping[str, str]:
    assert len(answer.headers) == len(dict(answer.headers)), "a header given twice"
    return dict(answer.headers)


def body(answer: Answer) -> bytes:
    found = b"".join(answer.body)
    assert head(answer).get("Content-Length", str(len(found))) == str(len(found))
    return gzip.decompress(found) if head(answer).get("Content-Encoding") == "gzip" else found


@pytest.mark.parametrize("path", ["/favicon.ico", "/metrics/", "//", "", "*", "/report.json/..", "/-/", "http://x/"])
def test_any_other_path_is_not_found(path: str) -> None:
    assert get(path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "\x7f"])
@pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy"])
def test_only_get_and_head_are_allowed(path: str, method: str) -> None:
    answer = get(path, method=method)

    assert (answer.status, head(answer)["Allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/", "/report.json", "/report.txt", "/-/ready"])
def test_before_the_first_report_there_is_nothing_to_see_yet(path: str) -> None:
    answer = answers(board=Board()).answer(Request("GET", path))

    assert (answer.status, body(answer), head(answer)["Retry-After"]) == (503, b"no report yet\n", "5")


def test_before_the_first_report_the_process_is_healthy_and_measured() -> None:
    empty = answers(board=Board())

    assert empty.answer(Request("GET", "/-/healthy")).status == 200
    assert body(empty.answer(Request("GET", "/metrics"))) == own_metrics(False)


def test_a_new_publication_is_served_at_once() -> None:
    board = Board()
    served = answers(board=board)
    board.publish(publication(json=b"1"))
    board.publish(publication(json=b"2"))

    assert body(served.answer(Request("GET", "/report.json"))) == b"2"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text; version=1.0.0", OPENMETRICS),
        (PROMETHEUS, OPENMETRICS),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.1", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=nonsense", TEXT),
        ("APPLICATION/OPENMETRICS-TEXT", OPENMETRICS),
    ],
)
def test_metrics_come_in_the_format_that_the_scraper_prefers(accept: str, kind: str) -> None:
    answer = get("/metrics", accept=accept)

    assert head(answer)["Content-Type"] == kind
    assert body(answer).count(b"# EOF\n") == (kind == OPENMETRICS)
    assert body(answer).startswith(b"# TYPE iommud_groups gauge\niommud_groups 3\n# TYPE own gauge\nown 1\n")


def test_openmetrics_ends_with_its_last_line() -> None:
    assert body(get("/metrics", accept=PROMETHEUS)).endswith(b"own 1\n# EOF\n")


@pytest.mark.parametrize("path", ["/metrics", *FORMS])
def test_gzip_holds_the_same(path: str) -> None:
    answer = get(path, accept_encoding="gzip, deflate, br")

    assert head(answer)["Content-Encoding"] == "gzip"
    assert body(answer) == body(get(path))
    assert "Accept-Encoding" in head(answer)["Vary"]


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False),
        ("identity", False),
        ("gzip", True),
        ("GZip;q=0.2", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*", True),
        ("deflate, br", False),
        (";;;,,,=", False),
    ],
)
def test_gzip_is_sent_to_those_who_ask(header: str, wanted: bool) -> None:
    assert accepts_gzip(header) is wanted


@given(st.text(max_size=200))
def test_no_header_is_too_strange(header: str) -> None:
    assert isinstance(accepts_gzip(header), bool)
    assert isinstance(prefers_openmetrics(header), bool)
    for name in ("if-none-match", "if-modified-since", "accept", "accept-encoding"):
        assert answers().answer(Request("GET", "/report.json", {name: header})).status in (200, 304)


@given(st.lists(st.binary(max_size=3000), max_size=6))
def test_pieces_compressed_apart_are_one_gzip_member_together(parts: list[bytes]) -> None:
    assert gzip.decompress(b"".join(gzipped([Piece.of(part) for part in parts]))) == b"".join(parts)


@pytest.mark.parametrize("encoding", ["", "gzip"])
@pytest.mark.parametrize("path", FORMS)
def test_a_client_that_has_it_gets_no_body(path: str, encoding: str) -> None:
    tag = head(get(path, accept_encoding=encoding))["ETag"]
    for condition in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = get(path, accept_encoding=encoding, if_none_match=condition)

        assert (answer.status, answer.body, head(answer)["ETag"]) == (304, (), tag)
    assert get(path, accept_encoding=encoding, if_none_match='"other"').status == 200


@pytest.mark.parametrize("path", FORMS)
def test_plain_and_compressed_bodies_have_tags_of_their_own(path: str) -> None:
    assert head(get(path))["ETag"] != head(get(path, accept_encoding="gzip"))["ETag"]


def test_the_same_report_taken_again_keeps_its_tag() -> None:
    board = Board()
    served = answers(board=board)
    tags = []
    for generation in (1, 2):
        board.publish(publication(generation=generation, taken_at=TAKEN + generation))
        tags.append(head(served.answer(Request("GET", "/report.json")))["ETag"])

    assert tags[0] == tags[1]


@pytest.mark.parametrize("path", ["/report.json", "/report.txt"])
def test_the_date_of_the_report_validates_it(path: str) -> None:
    date = head(get(path))["Last-Modified"]

    assert date == "Mon, 12 Jan 1970 13:46:40 GMT"
    assert get(path, if_modified_since=date).status == 304
    assert get(path, if_modified_since="Mon, 12 Jan 1970 13:46:39 GMT").status == 200
    assert get(path, if_modified_since=date, if_none_match='"other"').status == 200


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Mon, 99 Jan 1970 99:99:99 GMT", "0", "Mon, 12 Jan 99999 13:46:40 GMT"]
)
def test_an_unreadable_date_validates_nothing(date: str) -> None:
    assert get("/report.json", if_modified_since=date).status == 200


def test_a_report_that_another_may_follow_within_its_second_has_no_date_yet() -> None:
    assert "Last-Modified" not in head(get("/report.json", age=0.7))


def test_the_page_grows_older_than_its_report() -> None:
    date = head(get("/"))["Last-Modified"]

    assert get("/", if_modified_since=date).status == 200
    assert head(get("/", age=12))["ETag"] != head(get("/", age=14))["ETag"]


@pytest.mark.parametrize(
    ("age", "words"),
    [(-5, "0 seconds"), (12, "12 seconds"), (61, "1 minute"), (7199, "1 hour"), (2 * 86400, "2 days")],
)
def test_the_page_tells_its_age(age: float, words: str) -> None:
    page = body(get("/", age=age)).decode()

    assert f"his report is {words} old" in page
    assert "<!--age-->" not in page


@pytest.mark.parametrize(("age", "stale"), [(600, False), (601, True)])
def test_a_report_that_nobody_renews_is_served_as_stale(age: float, stale: bool) -> None:
    assert (b"Stale" in body(get("/", age=age))) is stale
    assert body(get("/report.txt", age=age)).startswith(b"Stale: this report is 10 minutes old") is stale
    assert (b"Stale" in body(get("/-/ready", age=age))) is stale
    assert get("/-/ready", age=age).status == 200
    assert body(get("/report.json", age=age)) == publication().json
    assert head(get("/report.json", age=age))["Iommud-Stale"] == str(stale).lower()


def test_a_stale_text_that_grows_older_is_another_text() -> None:
    date = head(get("/report.txt", age=601))["Last-Modified"]

    assert head(get("/report.txt", age=601))["ETag"] != head(get("/report.txt", age=700))["ETag"]
    assert get("/report.txt", age=601, if_modified_since=date).status == 200


def test_a_program_learns_when_the_snapshot_was_taken_and_how_check_would_exit() -> None:
    found = head(get("/report.json"))

    assert (found["Iommud-Snapshot-Timestamp"], found["Iommud-Exit-Status"]) == ("1000000.250", "0")


@pytest.mark.parametrize("path", ["/metrics", *FORMS, "/-/healthy", "/-/ready", "/nowhere"])
def test_every_answer_carries_the_security_headers(path: str) -> None:
    found = head(get(path))

    assert found["X-Content-Type-Options"] == "nosniff"
    assert found["Cache-Control"] == "no-cache"
    assert found["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "default-src 'none'" in found["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in found["Content-Security-Policy"]


def test_the_page_may_use_its_own_style_and_nothing_else() -> None:
    # printf 'p{color:red}' | openssl dgst -sha256 -binary | base64
    policy = head(get("/"))["Content-Security-Policy"]

    assert "style-src 'sha256-p0bF+un5yUb9MBO6xRb8kPHlY2BdpHVtLiFkDrZPF64='" in policy
    assert "script" not in policy
    assert "unsafe" not in policy


def test_a_page_without_style_or_age_is_served_as_it_is() -> None:
    board = Board()
    board.publish(publication(page=b"<p>bare</p>"))

    assert b"bare" in body(answers(board=board).answer(Request("GET", "/")))


def test_slow_clients_share_the_bytes_of_an_answer() -> None:
    served = answers()
    first, second = (served.answer(Request("GET", "/", {"accept-encoding": "gzip"})) for _ in range(2))

    assert first.body[1] is second.body[1]


def test_an_edition_holds_each_form_in_both_codings() -> None:
    edition = Edition.of(publication())

    assert gzip.decompress(b"".join(gzipped([edition.json]))) == publication().json


@pytest.mark.parametrize(("age", "stale"), [(3599, "false"), (3601, "true")])
def test_without_an_age_of_its_own_the_server_takes_the_collectors(age: float, stale: str) -> None:
    board = Board()
    board.publish(publication(stale_after=3600.0))
    found = Answers(board, own_metrics, clock=lambda: TAKEN + age)

    assert head(found.answer(Request("GET", "/report.txt", {})))["Iommud-Stale"] == stale


@pytest.mark.parametrize(("seconds", "status"), [(0.0, 200), (59.0, 200), (61.0, 503)])
def test_a_look_at_the_machine_that_does_not_end_is_not_healthy(seconds: float, status: int) -> None:
    found = Answers(Board(), own_metrics, busy_for=lambda: seconds)

    assert found.answer(Request("GET", "/-/healthy", {})).status == status
