"""Collect daily prices into public.market_data and public.stock_info."""

import csv
import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from prefect import flow, get_run_logger, task
from prefect.tasks import exponential_backoff
from trading import Symbol, database, step, upsert

SAMPLE = Path(__file__).parent / "sample"
# Yahoo quotes some exchanges in hundredths of their currency.
HUNDREDTHS = {"GBp": "GBP", "ILA": "ILS", "ZAc": "ZAR"}


class Instrument(NamedTuple):
    symbol: str
    name: str
    exchange: str | None
    currency: str
    instrument_type: str
    source: str


class Price(NamedTuple):
    symbol: str
    trade_date: datetime.date
    open: float
    high: float
    low: float
    close: float
    adjusted_close: float
    volume: int
    source: str


class Collected(NamedTuple):
    instrument: Instrument
    prices: list[Price]


@task(retries=3, retry_delay_seconds=exponential_backoff(backoff_factor=2), task_run_name="download {symbol}")
def download(symbol: str, start: datetime.date, end: datetime.date) -> Collected:
    """Download one symbol's daily prices from Yahoo Finance, both days included."""
    import yfinance  # takes a second and imports pandas, so it is imported only here

    yfinance.config.debug.hide_exceptions = False
    ticker = yfinance.Ticker(symbol)
    try:
        history = ticker.history(start=start, end=end + datetime.timedelta(days=1), auto_adjust=False, actions=False)
        metadata = ticker.history_metadata
    except Exception as error:
        raise RuntimeError(
            f"Yahoo Finance gave no prices of {symbol} ({type(error).__name__}: {error}). Check the symbol and that "
            "this host reaches query2.finance.yahoo.com; without a network, run the flow with source='sample'."
        ) from error
    return from_yahoo(symbol, history, metadata)


def from_yahoo(symbol: str, history: Any, metadata: dict[str, Any]) -> Collected:
    """Convert yfinance's metadata and DataFrame, whose index is the day's start in the exchange's time zone."""
    currency = metadata["currency"]
    unit = 100 if currency in HUNDREDTHS else 1
    instrument = Instrument(
        symbol=symbol,
        name=metadata.get("longName") or metadata.get("shortName") or symbol,
        exchange=metadata.get("fullExchangeName") or metadata.get("exchangeName"),
        currency=HUNDREDTHS.get(currency, currency),
        instrument_type=metadata.get("instrumentType") or "EQUITY",
        source="yahoo",
    )
    complete = history[
        ["Open", "High", "Low", "Close", "Adj Close", "Volume"]
    ].dropna()  # today's values may be missing
    prices = [
        Price(
            symbol=symbol,
            trade_date=day.date(),
            open=first / unit,
            high=high / unit,
            low=low / unit,
            close=last / unit,
            adjusted_close=adjusted / unit,
            volume=int(volume),
            source="yahoo",
        )
        for day, first, high, low, last, adjusted, volume in complete.itertuples()
    ]
    return Collected(instrument, prices)


@task
def read_sample(symbols: list[str] | None, start: datetime.date | None, end: datetime.date | None) -> list[Collected]:
    """Read the sample's prices of fictitious companies."""
    with open(SAMPLE / "stock_info.csv", newline="") as file:
        instruments = {row["symbol"]: Instrument(**row, source="sample") for row in csv.DictReader(file)}
    missing = sorted(set(symbols or []) - set(instruments))
    if missing:
        raise ValueError(f"The sample has no {', '.join(missing)}; it has {', '.join(instruments)}.")
    collected = {symbol: Collected(instruments[symbol], []) for symbol in symbols or instruments}
    with open(SAMPLE / "market_data.csv", newline="") as file:
        for row in csv.DictReader(file):
            day = datetime.date.fromisoformat(row.pop("trade_date"))
            symbol, volume = row.pop("symbol"), int(row.pop("volume"))
            if symbol in collected and (start or day) <= day <= (end or day):
                values = {name: float(value) for name, value in row.items()}
                collected[symbol].prices.append(
                    Price(symbol=symbol, trade_date=day, volume=volume, source="sample", **values)
                )
    return list(collected.values())


@task
def store(collected: list[Collected]) -> dict[str, int]:
    """Write instruments and prices that are new or have changed, in one transaction."""
    with database() as cursor:
        instruments = upsert(
            cursor,
            """
            INSERT INTO public.stock_info AS known (symbol, name, exchange, currency, instrument_type, source)
            VALUES %s
            ON CONFLICT (symbol) DO UPDATE
               SET name = excluded.name, exchange = excluded.exchange, currency = excluded.currency,
                   instrument_type = excluded.instrument_type, source = excluded.source, updated_at = now()
             WHERE (known.name, known.exchange, known.currency, known.instrument_type, known.source)
                   IS DISTINCT FROM
                   (excluded.name, excluded.exchange, excluded.currency, excluded.instrument_type, excluded.source)
            """,
            [item.instrument for item in collected],
        )
        prices = upsert(
            cursor,
            """
            INSERT INTO public.market_data AS known
                   (symbol, trade_date, open, high, low, close, adjusted_close, volume, source)
            VALUES %s
            ON CONFLICT (symbol, trade_date) DO UPDATE
               SET open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
                   adjusted_close = excluded.adjusted_close, volume = excluded.volume, source = excluded.source,
                   updated_at = now()
             WHERE (known.open, known.high, known.low, known.close, known.adjusted_close, known.volume, known.source)
                   IS DISTINCT FROM
                   (excluded.open, excluded.high, excluded.low, excluded.close, excluded.adjusted_close,
                    excluded.volume, excluded.source)
            """,
            [price for item in collected for price in item.prices],
        )
    return {"instruments_written": instruments, "prices_written": prices}


@flow
def collect_market_data(
    source: Literal["yahoo", "sample"] = "yahoo",
    symbols: list[Symbol] | None = None,
    start: datetime.date | None = None,
    end: datetime.date | None = None,
) -> dict[str, int]:
    """Collect daily prices and write them to the application's tables, without duplicates.

    Args:
        source: Yahoo Finance, or the sample in this flow's folder, which needs no network.
        symbols: Symbols of instruments. If not given, all of the sample; Yahoo needs them.
        start: First day. If not given, thirty days before the last (yahoo), or the sample's first.
        end: Last day, included. If not given, today (yahoo), or the sample's last.
    """
    logger = get_run_logger()
    if start and end and start > end:
        raise ValueError(f"start ({start}) must not be later than end ({end}).")
    symbols = list(dict.fromkeys(symbols)) if symbols else None
    if source == "yahoo" and not symbols:
        raise ValueError("Name the symbols to collect from Yahoo Finance.")

    with step("batch_collection", source=source, symbols=symbols) as event:
        if source == "yahoo" and symbols:
            logger.info("Source: Yahoo Finance, over the network.")
            last = end or datetime.date.today()
            first = start or last - datetime.timedelta(days=30)
            collected = download.map(symbols, start=first, end=last).result()
        else:
            logger.info("Source: the sample in %s; its companies and prices are fictitious.", SAMPLE)
            collected = read_sample(symbols, start, end)
        event["symbols_processed"] = len(collected)
        event["records_collected"] = sum(len(item.prices) for item in collected)

    with step("market_data_stored", source=source) as event:
        written = store(collected)
        event.update(written)
    logger.info("%s prices were new or had changed.", written["prices_written"])
    return written
