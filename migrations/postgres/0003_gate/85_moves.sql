-- An embedded store that moves here (`portreeve migrate-store`). While it does, nobody serves it: half a log is none.

CREATE TABLE store_moves (
    workspace   text        NOT NULL DEFAULT 'default' PRIMARY KEY,
    -- As it stands in the file: one file moves to one database, and a move goes on only where it began.
    move_id     text        NOT NULL,
    rows        bigint      NOT NULL CHECK (rows >= 0),
    started_at  timestamptz NOT NULL DEFAULT now(),
    -- Without it, and so also when the move was given up, there is half a log here, which nobody serves.
    finished_at timestamptz
);
