-- An embedded store that moves here (`portreeve migrate-store`). While it does, nobody serves it: half a log is none.

CREATE TABLE store_moves (
    workspace   text        NOT NULL DEFAULT 'default' PRIMARY KEY,
    -- Digest of the log that moves: a move goes on only with the store that it began with.
    source      text        NOT NULL,
    rows        bigint      NOT NULL CHECK (rows >= 0),
    started_at  timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
