"""Compute trading signals from public.market_data into public.trading_signals."""

import datetime
from typing import Annotated, Any, Literal

from prefect import flow, get_run_logger, task
from pydantic import Field
from trading import Symbol, database, step

Window = Annotated[int, Field(ge=2, le=400)]

# Each statement reads the prices once and writes the days whose signal is new or has changed.
UPSERT = """
INSERT INTO public.trading_signals AS known (symbol, trade_date, strategy, signal, indicators)
SELECT symbol, trade_date, %(strategy)s, signal, indicators FROM signals
 WHERE trade_date >= coalesce(%(since)s, trade_date)
ON CONFLICT (symbol, trade_date, strategy) DO UPDATE
   SET signal = excluded.signal, indicators = excluded.indicators, updated_at = now()
 WHERE (known.signal, known.indicators) IS DISTINCT FROM (excluded.signal, excluded.indicators)
"""

# The signal is the crossing, not which average is higher.
SMA_CROSSOVER = f"""
WITH averages AS (
    SELECT symbol, trade_date, count(*) OVER slow AS days,
           round(avg(adjusted_close) OVER fast, 6) AS fast, round(avg(adjusted_close) OVER slow, 6) AS slow
      FROM public.market_data
     WHERE symbol = ANY (coalesce(%(symbols)s, ARRAY[symbol]))
    WINDOW fast AS (PARTITION BY symbol ORDER BY trade_date ROWS %(fast)s - 1 PRECEDING),
           slow AS (PARTITION BY symbol ORDER BY trade_date ROWS %(slow)s - 1 PRECEDING)
), sides AS (
    SELECT *, sign(fast - slow) AS side, lag(sign(fast - slow)) OVER (PARTITION BY symbol ORDER BY trade_date) AS before
      FROM averages
     WHERE days = %(slow)s
), signals AS (
    SELECT symbol, trade_date, jsonb_build_object('fast', fast, 'slow', slow) AS indicators,
           CASE WHEN side > 0 AND before <= 0 THEN 'buy'
                WHEN side < 0 AND before >= 0 THEN 'sell' ELSE 'hold' END AS signal
      FROM sides
)
{UPSERT}"""

# Relative strength with plain averages (Cutler's), so that a day's value depends only on its window.
RSI = f"""
WITH moves AS (
    SELECT symbol, trade_date,
           adjusted_close - lag(adjusted_close) OVER (PARTITION BY symbol ORDER BY trade_date) AS move
      FROM public.market_data
     WHERE symbol = ANY (coalesce(%(symbols)s, ARRAY[symbol]))
), sums AS (
    SELECT symbol, trade_date, count(move) OVER days AS days,
           sum(greatest(move, 0)) OVER days AS gains, sum(greatest(-move, 0)) OVER days AS losses
      FROM moves
    WINDOW days AS (PARTITION BY symbol ORDER BY trade_date ROWS %(window)s - 1 PRECEDING)
), strengths AS (
    SELECT symbol, trade_date, round(coalesce(100 * gains / nullif(gains + losses, 0), 50), 2) AS rsi
      FROM sums
     WHERE days = %(window)s
), signals AS (
    SELECT symbol, trade_date, jsonb_build_object('rsi', rsi) AS indicators,
           CASE WHEN rsi <= 30 THEN 'buy' WHEN rsi >= 70 THEN 'sell' ELSE 'hold' END AS signal
      FROM strengths
)
{UPSERT}"""


@task
def compute(statement: str, **values: Any) -> int:
    """Run a statement, and return the number of rows written."""
    with database() as cursor:
        cursor.execute(statement, values)
        written: int = cursor.rowcount
    return written


@flow
def compute_trading_signals(
    strategies: list[Literal["sma", "rsi"]] = ["sma", "rsi"],  # noqa: B006 (Prefect shows it as the default)
    symbols: list[Symbol] | None = None,
    since: datetime.date | None = None,
    fast: Window = 10,
    slow: Window = 30,
    rsi_window: Window = 14,
) -> dict[str, int]:
    """Compute the signals of each strategy for each day that has enough prices before it.

    Args:
        strategies: sma: a fast moving average crosses a slow one; rsi: the relative strength is extreme.
        symbols: Symbols of instruments; all if not given.
        since: First day to write; all days if not given.
        fast: Days of the fast moving average.
        slow: Days of the slow moving average.
        rsi_window: Days of the relative strength.
    """
    if fast >= slow:
        raise ValueError(f"fast ({fast}) must be shorter than slow ({slow}).")
    common = {"symbols": symbols or None, "since": since}
    written = {}
    for strategy in dict.fromkeys(strategies):
        if strategy == "sma":
            name, statement, values = f"sma-{fast}-{slow}", SMA_CROSSOVER, {"fast": fast, "slow": slow}
        else:
            name, statement, values = f"rsi-{rsi_window}", RSI, {"window": rsi_window}
        with step("signals_computed", strategy=name) as event:
            written[name] = event["signals_written"] = compute(statement, strategy=name, **common, **values)
        get_run_logger().info("%s: %s signals were new or had changed.", name, written[name])
    return written
