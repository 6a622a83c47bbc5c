-- The trading application's tables, in schema public. Run as their owner, in one transaction, with search_path = public.
-- Every statement may be run again; a table that exists is left as it is.

CREATE TABLE IF NOT EXISTS stock_info (
    symbol          text PRIMARY KEY CHECK (symbol ~ '^[A-Z0-9.^=-]{1,16}$'),
    name            text NOT NULL,
    exchange        text,
    currency        text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    instrument_type text NOT NULL DEFAULT 'EQUITY',
    source          text NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE  stock_info                 IS 'Instruments that the application knows: one row per symbol.';
COMMENT ON COLUMN stock_info.symbol          IS 'Ticker as the source writes it, for instance MSFT or BRK-B.';
COMMENT ON COLUMN stock_info.name            IS 'Name for people.';
COMMENT ON COLUMN stock_info.exchange        IS 'Exchange on which it is traded.';
COMMENT ON COLUMN stock_info.currency        IS 'ISO 4217 code of the currency of all its prices.';
COMMENT ON COLUMN stock_info.instrument_type IS 'Kind of instrument: EQUITY, ETF, INDEX, ...';
COMMENT ON COLUMN stock_info.source          IS 'Where the row comes from: yahoo, sample, ...';
COMMENT ON COLUMN stock_info.updated_at      IS 'When one of the other columns last changed.';

CREATE TABLE IF NOT EXISTS market_data (
    symbol         text NOT NULL REFERENCES stock_info,
    trade_date     date NOT NULL,
    open           numeric(18, 6) NOT NULL CHECK (open > 0),
    high           numeric(18, 6) NOT NULL CHECK (high > 0),
    low            numeric(18, 6) NOT NULL CHECK (low > 0),
    close          numeric(18, 6) NOT NULL CHECK (close > 0),
    adjusted_close numeric(18, 6) NOT NULL CHECK (adjusted_close > 0),
    volume         bigint NOT NULL CHECK (volume >= 0),
    source         text NOT NULL,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, trade_date),
    CHECK (low <= high)
);
CREATE INDEX IF NOT EXISTS market_data_trade_date ON market_data (trade_date);
COMMENT ON TABLE  market_data                IS 'Daily prices: one row per symbol and trading day.';
COMMENT ON COLUMN market_data.symbol         IS 'The instrument.';
COMMENT ON COLUMN market_data.trade_date     IS 'Trading day, in the time zone of the exchange.';
COMMENT ON COLUMN market_data.open           IS 'First price of the day.';
COMMENT ON COLUMN market_data.high           IS 'Highest price of the day.';
COMMENT ON COLUMN market_data.low            IS 'Lowest price of the day.';
COMMENT ON COLUMN market_data.close          IS 'Last price of the day, as it was traded.';
COMMENT ON COLUMN market_data.adjusted_close IS 'Last price, adjusted for splits and dividends: the one to compute with.';
COMMENT ON COLUMN market_data.volume         IS 'Number of shares traded.';
COMMENT ON COLUMN market_data.source         IS 'Where the row comes from: yahoo, sample, ...';
COMMENT ON COLUMN market_data.updated_at     IS 'When one of the other columns last changed.';

CREATE TABLE IF NOT EXISTS trading_signals (
    symbol     text NOT NULL,
    trade_date date NOT NULL,
    strategy   text NOT NULL,
    signal     text NOT NULL CHECK (signal IN ('buy', 'sell', 'hold')),
    indicators jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(indicators) = 'object'),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (symbol, trade_date, strategy),
    FOREIGN KEY (symbol, trade_date) REFERENCES market_data ON DELETE CASCADE
);
CREATE INDEX IF NOT EXISTS trading_signals_actionable ON trading_signals (trade_date, symbol) WHERE signal <> 'hold';
COMMENT ON TABLE  trading_signals            IS 'What each strategy says about each trading day: one row per symbol, day and strategy.';
COMMENT ON COLUMN trading_signals.symbol     IS 'The instrument.';
COMMENT ON COLUMN trading_signals.trade_date IS 'Day whose close the signal was computed from.';
COMMENT ON COLUMN trading_signals.strategy   IS 'Name of the strategy with its parameters, for instance sma-10-30.';
COMMENT ON COLUMN trading_signals.signal     IS 'buy, sell or hold.';
COMMENT ON COLUMN trading_signals.indicators IS 'The numbers behind the signal, for instance {"fast": 101.2, "slow": 99.8}.';
COMMENT ON COLUMN trading_signals.updated_at IS 'When one of the other columns last changed.';

CREATE TABLE IF NOT EXISTS portfolios (
    name                text PRIMARY KEY CHECK (name <> ''),
    currency            text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    opening_cash        numeric(20, 4) NOT NULL CHECK (opening_cash >= 0),
    max_position_weight numeric(5, 4) NOT NULL CHECK (max_position_weight > 0 AND max_position_weight <= 1),
    max_exposure        numeric(6, 4) NOT NULL CHECK (max_exposure > 0),
    max_order_value     numeric(20, 4) NOT NULL CHECK (max_order_value > 0),
    created_at          timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE  portfolios                     IS 'Portfolios and their risk limits. Positions follow from the filled orders.';
COMMENT ON COLUMN portfolios.name                IS 'Name of the portfolio.';
COMMENT ON COLUMN portfolios.currency            IS 'ISO 4217 code of the currency in which it is valued.';
COMMENT ON COLUMN portfolios.opening_cash        IS 'Cash before the first order.';
COMMENT ON COLUMN portfolios.max_position_weight IS 'Limit: value of one position / value of the portfolio.';
COMMENT ON COLUMN portfolios.max_exposure        IS 'Limit: sum of the positions'' absolute values / value of the portfolio.';
COMMENT ON COLUMN portfolios.max_order_value     IS 'Limit: value of one order that is not filled yet.';
COMMENT ON COLUMN portfolios.created_at          IS 'When the row was written.';

CREATE TABLE IF NOT EXISTS orders (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_order_id text NOT NULL UNIQUE,
    portfolio       text NOT NULL REFERENCES portfolios,
    symbol          text NOT NULL REFERENCES stock_info,
    side            text NOT NULL CHECK (side IN ('buy', 'sell')),
    quantity        numeric(20, 6) NOT NULL CHECK (quantity > 0),
    limit_price     numeric(18, 6) CHECK (limit_price > 0),
    status          text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'submitted', 'filled', 'cancelled', 'rejected')),
    created_at      timestamptz NOT NULL DEFAULT now(),
    filled_at       timestamptz,
    filled_price    numeric(18, 6) CHECK (filled_price > 0),
    CHECK ((status = 'filled') = (filled_at IS NOT NULL AND filled_price IS NOT NULL))
);
CREATE INDEX IF NOT EXISTS orders_filled ON orders (portfolio, symbol) WHERE status = 'filled';
CREATE INDEX IF NOT EXISTS orders_open ON orders (portfolio, symbol) WHERE status IN ('pending', 'submitted');
COMMENT ON TABLE  orders                 IS 'Orders of the portfolios, each filled as a whole or not at all.';
COMMENT ON COLUMN orders.id              IS 'Identifier inside this database.';
COMMENT ON COLUMN orders.client_order_id IS 'Identifier that the sender chose: sending an order twice makes it once.';
COMMENT ON COLUMN orders.portfolio       IS 'The portfolio.';
COMMENT ON COLUMN orders.symbol          IS 'The instrument.';
COMMENT ON COLUMN orders.side            IS 'buy or sell.';
COMMENT ON COLUMN orders.quantity        IS 'Number of shares, always positive.';
COMMENT ON COLUMN orders.limit_price     IS 'Worst acceptable price; null for an order at the market.';
COMMENT ON COLUMN orders.status          IS 'pending, submitted, filled, cancelled or rejected.';
COMMENT ON COLUMN orders.created_at      IS 'When the order was made.';
COMMENT ON COLUMN orders.filled_at       IS 'When it was filled.';
COMMENT ON COLUMN orders.filled_price    IS 'Average price at which it was filled.';

CREATE TABLE IF NOT EXISTS system_logs (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    level         text NOT NULL DEFAULT 'INFO' CHECK (level IN ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')),
    event_type    text NOT NULL CHECK (event_type <> ''),
    workflow_name text,
    status        text,
    message       text,
    flow_run_id   uuid,
    metadata      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object')
);
CREATE INDEX IF NOT EXISTS system_logs_created_at ON system_logs (created_at);
CREATE INDEX IF NOT EXISTS system_logs_workflow ON system_logs (workflow_name, created_at);
CREATE INDEX IF NOT EXISTS system_logs_flow_run ON system_logs (flow_run_id) WHERE flow_run_id IS NOT NULL;
COMMENT ON TABLE  system_logs               IS 'Events of the application and of its workflows, only ever appended.';
COMMENT ON COLUMN system_logs.id            IS 'Identifier, rising with time.';
COMMENT ON COLUMN system_logs.created_at    IS 'When the event was written.';
COMMENT ON COLUMN system_logs.level         IS 'DEBUG, INFO, WARNING, ERROR or CRITICAL.';
COMMENT ON COLUMN system_logs.event_type    IS 'What happened, for instance batch_collection or risk_limit_breached.';
COMMENT ON COLUMN system_logs.workflow_name IS 'The workflow that says so, for instance the name of a Prefect flow.';
COMMENT ON COLUMN system_logs.status        IS 'How it came out: success, failed, breached, ...';
COMMENT ON COLUMN system_logs.message       IS 'One sentence for people.';
COMMENT ON COLUMN system_logs.flow_run_id   IS 'Prefect''s flow run. No foreign key: runs are deleted after their retention, events stay.';
COMMENT ON COLUMN system_logs.metadata      IS 'Whatever else belongs to the event, as a JSON object.';
