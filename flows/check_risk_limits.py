"""Check each portfolio's positions and open orders against its limits. Each breach becomes an event."""

import csv
from pathlib import Path
from typing import Any

from pgprefect.events import log_workflow_event
from prefect import flow, get_run_logger, task
from trading import database, step, upsert

SAMPLE = Path(__file__).parent / "sample"

# One row for each limit and the value compared with it. Filled orders make the positions, valued at the last close.
CHECKS = """
WITH chosen AS (
    SELECT * FROM public.portfolios WHERE name = ANY (coalesce(%(portfolios)s, ARRAY[name]))
), last_prices AS (
    SELECT DISTINCT ON (symbol) symbol, close FROM public.market_data ORDER BY symbol, trade_date DESC
), positions AS (
    SELECT o.portfolio, o.symbol, i.currency, p.close,
           sum(CASE o.side WHEN 'buy' THEN o.quantity ELSE -o.quantity END) AS quantity,
           sum(CASE o.side WHEN 'buy' THEN -o.quantity ELSE o.quantity END * o.filled_price) AS cash
      FROM public.orders o JOIN chosen c ON c.name = o.portfolio
      JOIN public.stock_info i USING (symbol) LEFT JOIN last_prices p USING (symbol)
     WHERE o.status = 'filled'
     GROUP BY o.portfolio, o.symbol, i.currency, p.close
), valued AS (
    SELECT c.*, c.opening_cash + coalesce(sum(p.cash + p.quantity * p.close), 0) AS value,
           coalesce(sum(abs(p.quantity * p.close)), 0) AS gross
      FROM chosen c LEFT JOIN positions p ON p.portfolio = c.name
     GROUP BY c.name, c.currency, c.opening_cash, c.max_position_weight, c.max_exposure, c.max_order_value, c.created_at
), checks AS (
    SELECT v.name AS portfolio, p.symbol, 'max_position_weight' AS limit_name,
           abs(p.quantity * p.close) / nullif(v.value, 0) AS value, v.max_position_weight AS threshold
      FROM positions p JOIN valued v ON v.name = p.portfolio WHERE p.quantity <> 0
    UNION ALL
    SELECT name, NULL, 'max_exposure', gross / nullif(value, 0), max_exposure FROM valued
    UNION ALL
    SELECT o.portfolio, o.symbol, 'max_order_value', o.quantity * coalesce(o.limit_price, l.close), c.max_order_value
      FROM public.orders o JOIN chosen c ON c.name = o.portfolio LEFT JOIN last_prices l USING (symbol)
     WHERE o.status IN ('pending', 'submitted')
    UNION ALL
    -- Currencies are not converted: a position in another one makes the portfolio's value meaningless.
    SELECT p.portfolio, p.symbol, 'same_currency', (p.currency <> c.currency)::int, 0
      FROM positions p JOIN chosen c ON c.name = p.portfolio WHERE p.quantity <> 0
)
-- A value that cannot be computed (no price, no equity left) is a breach too: the limit could not be checked.
SELECT portfolio, symbol, limit_name, round(value, 4)::float8, threshold::float8,
       coalesce(value > threshold OR value < 0, true)
  FROM checks ORDER BY portfolio, limit_name, symbol
"""


@task
def load_sample() -> dict[str, int]:
    """Write the sample portfolio and its orders, unless they exist."""
    with database() as cursor:
        written = {}
        for table, key in (("portfolios", "name"), ("orders", "client_order_id")):
            with open(SAMPLE / f"{table}.csv", newline="") as file:
                header, *rows = csv.reader(file)
            written[table] = upsert(
                cursor,
                f"INSERT INTO public.{table} ({', '.join(header)}) VALUES %s ON CONFLICT ({key}) DO NOTHING",
                [tuple(value or None for value in row) for row in rows],
            )
    return written


@task
def check(portfolios: list[str] | None) -> list[dict[str, Any]]:
    """Return the result of every check."""
    names = ("portfolio", "symbol", "limit", "value", "threshold", "breached")
    with database() as cursor:
        cursor.execute("SELECT name FROM public.portfolios ORDER BY name")
        known = [name for (name,) in cursor.fetchall()]
        if missing := sorted(set(portfolios or []) - set(known)):
            raise ValueError(f"There is no portfolio {', '.join(missing)}; there are: {', '.join(known) or 'none'}.")
        cursor.execute(CHECKS, {"portfolios": portfolios})
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


@flow
def check_risk_limits(portfolios: list[str] | None = None, with_sample: bool = False) -> list[dict[str, Any]]:
    """Check portfolios against their limits, log each breach as an event, and return the breaches.

    Args:
        portfolios: Names of portfolios; all if not given.
        with_sample: Write the sample portfolio and its orders first. They need the sample's market data.
    """
    logger = get_run_logger()
    if with_sample:
        with step("sample_portfolio_loaded") as event:
            event.update(load_sample())
    with step("risk_limits_checked", portfolios=portfolios) as event:
        checks = check(portfolios or None)
        breaches = [item for item in checks if item["breached"]]
        event.update(checks=len(checks), breaches=len(breaches))
    with database() as cursor:
        for breach in breaches:
            what = breach["portfolio"] + (f", {breach['symbol']}" if breach["symbol"] else "")
            value = "cannot be valued" if breach["value"] is None else f"is {breach['value']:g}"
            message = f"{what}: {breach['limit']} {value}, allowed is {breach['threshold']:g}"
            logger.warning(message)
            log_workflow_event(
                event_type="risk_limit_breached",
                status="breached",
                level="WARNING",
                message=message,
                metadata=breach,
                cursor=cursor,
            )
    logger.info("%s checks, %s breaches.", len(checks), len(breaches))
    return breaches
