"""The trading flows, run by Prefect against the application's tables."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

Query = Callable[..., list[tuple[Any, ...]]]
RunFlow = Callable[..., dict[str, Any]]

NO_DELAY = {"collect_market_data:download.retry_delay_seconds": 0}


def events(database: Query) -> list[tuple[Any, ...]]:
    return database("SELECT event_type, workflow_name, status FROM system_logs ORDER BY id")


def test_the_sample_is_collected_once(run_flow: RunFlow, database: Query) -> None:
    run = run_flow("collect_market_data", source="sample")
    assert run["state"] == "COMPLETED", run["message"]
    assert run["result"] == {"instruments_written": 3, "prices_written": 384}
    assert any("Source: the sample" in line for line in run["logs"])
    assert database("SELECT symbol, count(*), min(trade_date) FROM market_data GROUP BY 1 ORDER BY 1") == [
        (symbol, 128, datetime.date(2025, 1, 2)) for symbol in ("ACME", "GLBX", "INIT")
    ]
    assert database("SELECT DISTINCT source FROM stock_info") == [("sample",)]
    before = database("SELECT xmin, symbol, trade_date FROM market_data ORDER BY 2, 3")

    run = run_flow("collect_market_data", source="sample")
    assert run["result"] == {"instruments_written": 0, "prices_written": 0}
    assert database("SELECT xmin, symbol, trade_date FROM market_data ORDER BY 2, 3") == before

    database("UPDATE market_data SET close = close + 1 WHERE symbol = 'ACME' AND trade_date = '2025-01-02'")
    assert run_flow("collect_market_data", source="sample")["result"]["prices_written"] == 1


def test_each_step_is_an_event(run_flow: RunFlow, database: Query) -> None:
    run_flow("collect_market_data", source="sample", symbols=["ACME"], start="2025-02-01", end="2025-02-28")
    assert events(database) == [
        ("batch_collection", "collect-market-data", "success"),
        ("market_data_stored", "collect-market-data", "success"),
    ]
    [(metadata, run_id)] = database(
        "SELECT metadata, flow_run_id FROM system_logs WHERE event_type = 'batch_collection'"
    )
    assert metadata["records_collected"] == 20 and metadata["source"] == "sample"
    assert run_id is not None


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"source": "bloomberg"}, "source"),
        ({"source": "sample", "symbols": ["no symbol"]}, "symbols"),
        ({"source": "sample", "symbols": ["MSFT"]}, "The sample has no MSFT; it has ACME, GLBX, INIT."),
        ({"source": "sample", "start": "yesterday"}, "start"),
        ({"source": "sample", "start": "2025-03-01", "end": "2025-02-01"}, "must not be later"),
        ({"source": "yahoo"}, "Name the symbols"),
    ],
)
def test_bad_parameters_are_refused(
    run_flow: RunFlow, database: Query, parameters: dict[str, Any], complaint: str
) -> None:
    run = run_flow("collect_market_data", **parameters)
    assert run["state"] == "FAILED"
    assert complaint in run["message"]
    assert database("SELECT count(*) FROM market_data") == [(0,)]


def test_without_a_network_yahoo_fails_after_its_retries(run_flow: RunFlow, database: Query) -> None:
    run = run_flow("collect_market_data", NO_DELAY, source="yahoo", symbols=["MSFT"], start="2025-01-02")
    assert run["state"] == "FAILED"
    assert "Yahoo Finance gave no prices of MSFT" in run["message"]
    assert "source='sample'" in run["message"]
    assert sum("Retry" in line for line in run["logs"]) == 3
    assert events(database) == [("batch_collection", "collect-market-data", "failed")]


class Yahoo(BaseHTTPRequestHandler):
    """The chart endpoint as Yahoo Finance answers it, for two trading days in New York and one that is not over."""

    days = (1735828200, 1735914600, 1736173800)  # 2025-01-02, -03 and -06, 09:30

    def do_GET(self) -> None:
        symbol = urlsplit(self.path).path.rsplit("/", 1)[-1]
        if "period1" in parse_qs(urlsplit(self.path).query):
            prices: list[float | None] = [100.0, 102.5, None]
            answer = {
                "timestamp": self.days,
                "indicators": {
                    "quote": [dict.fromkeys(("open", "high", "low", "close"), prices) | {"volume": [10, 20, None]}],
                    "adjclose": [{"adjclose": [99.0, 101.5, None]}],
                },
            }
        else:
            answer = {}
        meta = {
            "currency": "GBp" if symbol.endswith(".L") else "USD",
            "symbol": symbol,
            "exchangeName": "NMS",
            "fullExchangeName": "NasdaqGS",
            "instrumentType": "EQUITY",
            "longName": "Microsoft Corporation",
            "exchangeTimezoneName": "America/New_York",
            "timezone": "EST",
            "gmtoffset": -18000,
            "priceHint": 2,
            "dataGranularity": "1d",
            "validRanges": ["1d", "5d"],
        }
        body = json.dumps({"chart": {"result": [{"meta": meta, **answer}], "error": None}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def yahoo() -> Iterator[dict[str, Any]]:
    """yfinance itself, pointed at an endpoint of ours."""
    server = HTTPServer(("127.0.0.1", 0), Yahoo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield {"yfinance.base:_BASE_URL_": url, "yfinance.scrapers.history:_BASE_URL_": url}
    server.shutdown()
    server.server_close()


def test_yahoo_is_collected(run_flow: RunFlow, database: Query, yahoo: dict[str, Any]) -> None:
    run = run_flow(
        "collect_market_data", NO_DELAY | yahoo, symbols=["MSFT", "VOD.L"], start="2025-01-02", end="2025-01-06"
    )
    assert run["state"] == "COMPLETED", run["message"]
    assert any("Source: Yahoo Finance" in line for line in run["logs"])
    assert database("SELECT symbol, name, exchange, currency, instrument_type, source FROM stock_info ORDER BY 1") == [
        ("MSFT", "Microsoft Corporation", "NasdaqGS", "USD", "EQUITY", "yahoo"),
        ("VOD.L", "Microsoft Corporation", "NasdaqGS", "GBP", "EQUITY", "yahoo"),
    ]
    assert database(
        "SELECT symbol, trade_date::text, close::float, adjusted_close::float, volume FROM market_data ORDER BY 1, 2"
    ) == [
        ("MSFT", "2025-01-02", 100.0, 99.0, 10),
        ("MSFT", "2025-01-03", 102.5, 101.5, 20),
        ("VOD.L", "2025-01-02", 1.0, 0.99, 10),
        ("VOD.L", "2025-01-03", 1.025, 1.015, 20),
    ]


def closes(database: Query, *prices: float) -> None:
    """One instrument with these closing prices, a day each."""
    database("INSERT INTO stock_info (symbol, name, currency, source) VALUES ('TEST', 'Test', 'USD', 'test')")
    database(
        "INSERT INTO market_data SELECT 'TEST', date '2025-01-01' + i::int - 1, p, p, p, p, p, 0, 'test'"
        " FROM unnest(%s::numeric[]) WITH ORDINALITY AS t (p, i)",
        list(prices),
    )


def signals(database: Query) -> list[tuple[Any, ...]]:
    return database("SELECT strategy, extract(day FROM trade_date)::int, signal FROM trading_signals ORDER BY 1, 2")


def test_moving_averages_signal_where_they_cross(run_flow: RunFlow, database: Query) -> None:
    closes(database, 10, 9, 8, 7, 10, 13, 12, 8, 5)
    run = run_flow("compute_trading_signals", strategies=["sma"], fast=2, slow=3)
    assert run["state"] == "COMPLETED", run["message"]
    # By hand: fast - slow = -0.5 -0.5 +0.17 +1.5 +0.83 -1 -1.83 from the third day on.
    expected = ["hold", "hold", "buy", "hold", "hold", "sell", "hold"]
    assert signals(database) == [("sma-2-3", day, signal) for day, signal in enumerate(expected, start=3)]
    assert run["result"] == {"sma-2-3": 7}
    assert run_flow("compute_trading_signals", strategies=["sma"], fast=2, slow=3)["result"] == {"sma-2-3": 0}


def test_relative_strength_signals_extremes(run_flow: RunFlow, database: Query) -> None:
    closes(database, 10, 11, 12, 11, 10, 9, 9, 9, 9)
    run = run_flow("compute_trading_signals", strategies=["rsi"], rsi_window=3, since="2025-01-05")
    assert run["state"] == "COMPLETED", run["message"]
    # By hand, gains / (gains + losses) of three moves: 1/3, 0, 0, 0, and 50 where nothing moved.
    assert signals(database) == [
        ("rsi-3", day, s) for day, s in enumerate(["hold", "buy", "buy", "buy", "hold"], start=5)
    ]
    assert database("SELECT indicators->>'rsi' FROM trading_signals WHERE trade_date = '2025-01-05'") == [("33.33",)]


@pytest.mark.usefixtures("database")
def test_windows_must_make_sense(run_flow: RunFlow) -> None:
    assert "must be shorter" in run_flow("compute_trading_signals", fast=30, slow=10)["message"]
    assert run_flow("compute_trading_signals", fast=0)["state"] == "FAILED"


def test_the_sample_portfolio_breaks_a_limit(run_flow: RunFlow, database: Query) -> None:
    run_flow("collect_market_data", source="sample")
    run = run_flow("check_risk_limits", with_sample=True)
    assert run["state"] == "COMPLETED", run["message"]
    # By hand: 350 ACME at 103.71 and 300 GLBX at 65.72, and the cash that they left of 100,000.
    value = 350 * 103.71 + 300 * 65.72 + 100_000 - 350 * 120 - 400 * 48.5 + 100 * 47
    weight = round(350 * 103.71 / value, 4)
    breach = {
        "portfolio": "sample",
        "symbol": "ACME",
        "limit": "max_position_weight",
        "value": weight,
        "threshold": 0.35,
    }
    assert run["result"] == [{**breach, "breached": True}]
    assert database("SELECT level, status, message FROM system_logs WHERE event_type = 'risk_limit_breached'") == [
        ("WARNING", "breached", f"sample, ACME: max_position_weight is {weight}, allowed is 0.35")
    ]

    database("UPDATE portfolios SET max_position_weight = 0.4, max_order_value = 3999, max_exposure = 0.5")
    run = run_flow("check_risk_limits", with_sample=True, portfolios=["sample"])
    assert [(b["limit"], b["symbol"]) for b in run["result"]] == [("max_exposure", None), ("max_order_value", "INIT")]
    assert database("SELECT count(*) FROM orders") == [(4,)]


def test_what_cannot_be_valued_is_a_breach(run_flow: RunFlow, database: Query) -> None:
    database(
        "INSERT INTO stock_info (symbol, name, currency, source) VALUES ('TEST', 'Test', 'EUR', 'test');"
        "INSERT INTO portfolios VALUES ('p', 'USD', 1000, 0.5, 1, 100), ('idle', 'USD', 1000, 0.5, 1, 100);"
        "INSERT INTO orders (client_order_id, portfolio, symbol, side, quantity, status, filled_at, filled_price)"
        " VALUES ('1', 'p', 'TEST', 'buy', 1, 'filled', now(), 10)"
    )
    run = run_flow("check_risk_limits")
    assert [(b["portfolio"], b["limit"], b["value"]) for b in run["result"]] == [
        ("p", "max_position_weight", None),
        ("p", "same_currency", 1),
    ]


def test_an_unknown_portfolio_is_refused(run_flow: RunFlow, database: Query) -> None:
    run = run_flow("check_risk_limits", portfolios=["nobody's"])
    assert run["state"] == "FAILED"
    assert "There is no portfolio nobody's; there are: none." in run["message"]
    assert events(database) == [("risk_limits_checked", "check-risk-limits", "failed")]
