-- A message of the stream may hold several events, one a line, of which each can end as a dead
-- letter. A service that is older than this keeps lines apart no more than it reads them.

-- +goose Up
SET LOCAL lock_timeout = '2s';
ALTER TABLE audit.dead_letters
    ADD COLUMN line integer NOT NULL DEFAULT 0, -- in the message, from 0
    DROP CONSTRAINT dead_letters_message,
    ADD CONSTRAINT dead_letters_message UNIQUE (stream_sequence, published_at, line);

-- +goose Down
SET LOCAL lock_timeout = '2s';
ALTER TABLE audit.dead_letters
    DROP CONSTRAINT dead_letters_message,
    DROP COLUMN line,
    ADD CONSTRAINT dead_letters_message UNIQUE (stream_sequence, published_at);
